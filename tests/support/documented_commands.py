"""The commands and programs in fenced blocks of README.md and docs/, and which of them no test can run, and why."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "launch" / "README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = ("intvit ", "python train.py ", "python evaluate.py ")

# Commands of other programs: (beginning, why none of them is run here).
OTHERS = {
    "make demo": "continuous integration's own tests train it",
    "make test": "this is it",
    "make -C ": "tests/export builds what is exported, with the same Makefile",
    "model/model": "tests/export/c runs it",
    "launch/": "tests/config/test_launch_files.py; GPUs",
    "sbatch ": "SLURM: tests/training/test_slurm.py",
    "pip install": "network",
    "hf upload": "network",
    "cp ": "done by the workspace",
    "cat ": "a file to read",
    "eval ": "a shell's own; Hydra's completion",
    "docker ": "no Docker here",
    "git ": "network",
    "TVM_NUM_THREADS=": "tests/runtime/test_onnx.py runs it where TVM is",
    "NODES=": "two machines",
    "GPUS=": "tests/training/test_ranks.py starts ranks",
}
# Ours that are parsed, but not run to their end: (what they contain, why).
PARSED_ONLY = {
    "DIR": "photos of ImageNet or of one's own",
    "data=imagenet": "photos of ImageNet",
    "~/birds": "photos of one's own",
    "camvid_deit_t-": "scenes of one's own: tests/training/test_segmentation.py",
    "a.jpg": "photos of one's own; tests/export/rtl",
    "CKPT": "stands for several things; tests/commands/test_analyze.py",
    "deit_tiny.safetensors": "real weights: tests/contract/test_real_weights.py",
    "FILE": "real weights",
    "train.py --help": "tests/config reads it",
    "cuda": "a GPU",
    "gpu": "a GPU",
    "bench kernels": "half a minute of compilation: tests/bench/test_kernels.py",
    "openvino": "OpenVINO",
    "check swin_t": "a model of full size",
    "intvit models": "every name of timm",
    "hydra/launcher=slurm": "SLURM",
    "--slurm": "SLURM",
    "torchrun": "eight GPUs",
    "sweep": "many runs: tests/sweeps",
    "train.py -m": "many runs",
    "analyze": "minutes: tests/commands/test_analyze.py",
    "arena-limit": "a limit for another model",
    "shards": "photos of one's own: tests/data/test_shard_tools.py",
    "results": "finished runs: tests/sweeps/test_results.py",
}
# (page, words of the block): Python that stands for something that is not here.
PROGRAMS_NOT_RUN = {
    ("gpu.md", "cuda"): "a GPU",
    (
        "own-approximation.md",
        "def hard_gelu",
    ): "an excerpt of examples/own_gelu.py, which tests/contract/test_own_family.py runs",
    ("native-runtime.md", ""): "stands for photos of 224 pixels; checkpoint.md runs the same call",
}


@dataclass(frozen=True)
class Command:
    """One line of a fenced block, joined with those that it goes on in, without its comment."""

    page: str
    text: str

    @property
    def ours(self) -> bool:
        """Whether it is a command of IntViT."""
        return self.text.startswith(OURS)

    @property
    def reason(self) -> str | None:
        """Why it is not run, from the tables; None for one that is."""
        if not self.ours:
            return next((why for start, why in OTHERS.items() if self.text.startswith(start)), None)
        return next((why for part, why in PARSED_ONLY.items() if part in self.text), None)

    def words(self) -> list[str]:
        """As a shell splits it, without what stands for more (`...`) and without redirections."""
        return [word for word in shlex.split(self.text.partition(" > ")[0]) if word not in ("...",)]


def _blocks(page: Path) -> list[tuple[str, str]]:
    return FENCE.findall(page.read_text(encoding="utf-8"))


def commands() -> list[Command]:
    """Of all pages, in their order. Blocks of text that begin with no program are none."""
    found = []
    for page in PAGES:
        for language, body in _blocks(page):
            if language not in ("", "bash"):
                continue
            for line in body.replace("\\\n", " ").splitlines():
                text = re.sub(r"\s+#( .*)?$", "", line).strip()
                if text.startswith((*OURS, *OTHERS)):
                    found.append(Command(page.relative_to(ROOT).as_posix(), " ".join(text.split())))
                elif page.name != "program-format.md":  # whose blocks are folders and bytes
                    assert not text, f"{page.name}: {text}: neither a command of ours nor in OTHERS"
    return found


def programs() -> list[tuple[str, list[str]]]:
    """(page, its Python blocks in their order), without those of PROGRAMS_NOT_RUN."""
    found = []
    for page in PAGES:
        kept = [
            body
            for language, body in _blocks(page)
            if language == "python" and not any(page.name == name and words in body for name, words in PROGRAMS_NOT_RUN)
        ]
        if kept:
            found.append((page.relative_to(ROOT).as_posix(), kept))
    return found
