"""`intvit doctor`: one page of text for a bug report, and what to do about what is missing. It never fails.

Versions, the processor and the native runtime's path, GPU, SLURM, folders, and for every extra of `pip install
'intvit[EXTRA]'` the packages that are not there. Nothing is changed, downloaded or sent; read it before you post it.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import intvit
from intvit.errors import EXTRAS
from intvit.processors import cpu_quota, usable_processors

Fact = tuple[str, str]  # what, and how it is
SECONDS = 60  # of a program that is asked
VARIABLES = ("INTVIT_", "OMP_", "MKL_", "HYDRA_FULL_ERROR", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES")
PACKAGES = ("numpy", "pillow", "safetensors", "torch", "pytorch-lightning", "hydra-core", "timm", "triton")
ASK_TORCH = """
import torch
print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), "threads")
for index in range(torch.cuda.device_count()):
    name, memory = torch.cuda.get_device_name(index), torch.cuda.get_device_properties(index).total_memory
    print(f"{name}, {memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
"""


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    return argparse.ArgumentParser(
        prog="intvit doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def main(arguments: list[str]) -> None:
    """Prints the page."""
    parser().parse_args(arguments)
    for title, section in SECTIONS.items():
        print(title)
        for what, how in _facts(section):
            print(f"  {what:<22} {how}")


def _facts(section: Callable[[], Iterator[Fact]]) -> Iterator[Fact]:
    """The facts of a section up to what goes wrong in it, which is the last one."""
    try:
        yield from section()
    except Exception as error:  # whatever it is: a page without a fact is better than none
        text = " ".join(str(error).split())
        yield "cannot be told", f"{type(error).__name__}: {text}"


def versions() -> Iterator[Fact]:
    """Of intvit, Python, the system and the packages that matter most."""
    yield "intvit", f"{intvit.__version__}, {_installed()}"
    yield "python", f"{platform.python_version()}, {sys.executable}"
    yield "system", platform.platform()
    for package in PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            yield package, "not installed"


def _installed() -> str:
    """Where the package lies, and the commit of a checkout."""
    package = Path(intvit.__file__).parent
    if package.parent.name != "src":
        return str(package)
    commit = _output("git", "-C", str(package), "describe", "--always", "--dirty") or "no commit"
    return f"checkout {package.parents[1]}, {commit}"


def processor() -> Iterator[Fact]:
    """The CPU, and which paths of the native runtime are compiled and run."""
    yield "name", _cpu_name()
    quota = cpu_quota()
    limit = "" if quota is None else f", quota {quota:g}"
    yield "processors", f"{usable_processors()} usable of {os.cpu_count()}{limit}"
    from intvit.runtime.native import runtime as native

    compiled = native.available()
    yield "native, compiled", ", ".join(compiled) or "none: install a C++17 compiler, then intvit again, or a wheel"
    if compiled:
        yield "native, running here", ", ".join(native.supported())
        chosen = native.load_library(None).intvit_path().decode()
        yield "native, chosen", chosen + (f" by {native.VARIABLE}" if os.environ.get(native.VARIABLE) else "")


def _cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return named or _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def torch_and_gpu() -> Iterator[Fact]:
    """What torch sees, asked in a process of its own, which a broken installation may end."""
    if find_spec("torch") is None:
        yield "torch", "not installed; inference needs none"
    else:
        ran = subprocess.run([sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, timeout=SECONDS)
        lines = ran.stdout.splitlines()
        yield "torch, CPU", lines[0] if lines else f"does not import: {(ran.stderr.splitlines() or ['no output'])[-1]}"
        yield "torch, GPU", "; ".join(lines[1:]) or "none"
    query = ("--query-gpu=name,driver_version", "--format=csv,noheader")
    yield "driver", "; ".join((_output("nvidia-smi", *query) or "no nvidia-smi").splitlines())


def cluster() -> Iterator[Fact]:
    """SLURM, and the ranks that a launcher started."""
    yield "sbatch", _output("sbatch", "--version") or "not here"
    from intvit.config.environment import started_ranks

    ranks = started_ranks()
    yield "this process", f"rank {ranks.rank} of {ranks.world_size}, {ranks.nodes} nodes, by {ranks.launcher or 'hand'}"


def folders() -> Iterator[Fact]:
    """Caches, presets, and variables of the environment that change what runs."""
    yield "current folder", str(Path.cwd())
    for name in sorted(os.environ):
        if name.startswith(VARIABLES):
            yield name, os.environ[name]
    if find_spec("hydra") is None:
        yield "presets, cache", "of training, which is not installed"
        return
    from intvit.config.presets import config_directory, presets
    from intvit.data.digits import cache_folder

    yield "presets", f"{config_directory()}, {len(presets())} of quant"
    cache = cache_folder()
    there = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free = f"{shutil.disk_usage(there).free / 1e9:.0f} GB free"
    yield "cache", f"{cache}, {free}{'' if os.access(there, os.W_OK) else ', not writable: say INTVIT_CACHE=DIR'}"


def extras() -> Iterator[Fact]:
    """By extra, the packages that are not installed, and the command that brings them."""
    for extra in dict.fromkeys(EXTRAS.values()):
        missing = [name for name, brings in EXTRAS.items() if brings == extra and find_spec(name) is None]
        yield extra, f"pip install 'intvit[{extra}]' brings {', '.join(missing)}" if missing else "complete"


def _output(*command: str) -> str | None:
    """What a program prints, or None where it is not there, fails or takes too long."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip() or None if ran.returncode == 0 else None


SECTIONS: dict[str, Callable[[], Iterator[Fact]]] = {
    "Versions": versions,
    "Processor": processor,
    "Torch and GPU": torch_and_gpu,
    "Cluster": cluster,
    "Folders": folders,
    "Extras": extras,
}
