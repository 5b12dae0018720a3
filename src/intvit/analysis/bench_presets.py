"""`intvit bench presets`: top-1 of every quantization preset on given weights, after calibration, without training.

Calibration images come from training shards with the evaluation transform; accuracy is measured on validation shards
of one or more folders. `agreement` is the share of images whose first class is the float model's, `divergence` the mean
KL divergence of the class probabilities from the float model's, in bits. The first `--check` images of every set also
run through the model and its program on torch and numpy, and differing scores are counted. `--config-dir DIR` adds the
presets of DIR/quant, such as those of `intvit search`; `--against PRESET` tests how much better it is than each other
one on the same images. With `--json` every row is written as it is measured, and the same command goes on after the
rows that the file holds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from intvit.analysis.distances import divergence
from intvit.analysis.paired import print_paired
from intvit.analysis.presets import compose_quant, first_images, photo_config, preset_names
from intvit.analysis.subject import Subject, read_subject
from intvit.arguments import at_least, new_file, positive
from intvit.data.config import DataConfig
from intvit.data.loading import validation_loader
from intvit.errors import IntVitError
from intvit.files import write_json
from intvit.models import MODELS
from intvit.program import Program, load_checkpoint, save_checkpoint
from intvit.program.recording import record
from intvit.runtime import fastest_runtime, load_runtime

BATCH = 32


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="intvit bench presets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", required=True, help="float weights with timm's key names (.safetensors or .pth)")
    parser.add_argument("--model", default="deit_t", choices=MODELS)
    parser.add_argument("--calibration", required=True, metavar="DIR", help="folder with train-*.tar")
    parser.add_argument("--images", type=positive, default=256, help="calibration images")
    parser.add_argument("--data", required=True, nargs="+", metavar="NAME=DIR", help="folders with val-*.tar")
    parser.add_argument("--quant", nargs="+", help="presets, with overrides after commas: ivit8_true8,quant/gelu=lut")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="with more presets in its folder quant/")
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="PRESET", help="test how much better these are than every other one"
    )
    parser.add_argument("--limit", type=positive, help="evaluate at most so many images of each set")
    parser.add_argument(
        "--check", type=at_least(0), default=8, help="images of each set that both runtimes execute too"
    )
    parser.add_argument("--json", type=new_file, help="also write the figures to this file, and resume from it")
    return parser


@dataclass
class ImageSet:
    """Images uint8 (N, 3, H, W), labels (N,), and the float model's class probabilities (N, classes)."""

    name: str
    images: Tensor
    labels: Tensor
    reference: Tensor


def main(arguments: list[str]) -> int:
    """Evaluate the presets, print the table; exit code 1 when a runtime's scores differ."""
    options = _parser().parse_args(arguments)
    done = _resumed(options)
    own = _own_presets(options.config_dir)
    names = [_named(text)[0] for text in options.data]
    if len(set(names)) < len(names):
        raise IntVitError(f"--data: the names {', '.join(names)} are not unique")
    presets = options.quant or [*(name for name in preset_names() if name != "fp32"), *own]
    for name in options.against:
        if name not in presets:
            raise IntVitError(f"--against {name}: not among the presets {', '.join(presets)}")
    data = replace(photo_config(), eval_batch_size=BATCH)
    source = argparse.Namespace(
        model=options.model, quant="lut8", calibration=options.calibration, calibration_images=options.images
    )
    subject = read_subject(options.weights, source)
    sets = [_load(*_named(text), data, options.limit, subject.model) for text in options.data]
    rows = [_float_row(sets)]
    _print_header(sets, len(subject.calibration))
    _print_row(rows[0])
    for preset in presets:
        rows.append(done.get(preset) or _row(options, subject, preset, sets))
        _print_row(rows[-1])
        if options.json:
            write_json(options.json, {"settings": _settings(options), "rows": rows})
    for name in options.against:
        print_paired(rows[1:], name, [images.name for images in sets])
    return 1 if any(row["mismatches"] for row in rows) else 0


def _own_presets(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    found = sorted(path.stem for path in (folder / "quant").glob("*.yaml"))
    if not found:
        raise IntVitError(f"--config-dir {folder}: holds no quant/*.yaml")
    return found


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What makes figures comparable."""
    return {
        key: getattr(options, key) for key in ("model", "weights", "calibration", "images", "data", "limit", "check")
    }


def _resumed(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rows by preset that the file of `--json` holds already. Raises IntVitError if it was made with other settings."""
    if options.json is None or not options.json.exists():
        return {}
    try:
        held = json.loads(options.json.read_text())
        settings, rows = dict(held["settings"]), {row["preset"]: row for row in held["rows"]}
    except (ValueError, LookupError, TypeError) as error:
        raise IntVitError(f"--json {options.json} holds no figures of this command; name another file") from error
    for key, value in _settings(options).items():
        if settings.get(key) != value:
            raise IntVitError(
                f"--json {options.json} holds figures for --{key} {settings.get(key)}, not {value}; "
                "name another file or delete it"
            )
    rows.pop("float", None)
    return rows


def _named(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    if not separator:
        raise IntVitError(f"--data {text}: expected NAME=DIR, such as sample=/data/imagenet")
    return name, folder


@torch.no_grad()
def _load(name: str, folder: str, data: DataConfig, limit: int | None, model: nn.Module) -> ImageSet:
    images, labels = first_images(validation_loader(replace(data, root=folder)), limit)
    batches = _tracked(images, f"float, {name}")
    return ImageSet(name, images, labels, torch.cat(list(map(model, batches))).double().softmax(1))


def _tracked(images: Tensor, title: str) -> Iterable[Tensor]:
    """Batches with a bar on standard error, so that output holds the table alone."""
    return track(images.split(BATCH), title, transient=True, console=Console(stderr=True))


def _float_row(sets: list[ImageSet]) -> dict[str, Any]:
    figures = {images.name: {"top1": _float_top1(images), "agreement": 100.0, "divergence": 0.0} for images in sets}
    return {"preset": "float", "sets": figures, "mean_change": 0.0, "mismatches": 0, "checked": 0, "seconds": 0.0}


def _float_top1(images: ImageSet) -> float:
    return 100.0 * float((images.reference.argmax(1) == images.labels).double().mean())


def _row(options: argparse.Namespace, subject: Subject, preset: str, sets: list[ImageSet]) -> dict[str, Any]:
    start = time.perf_counter()
    name, *overrides = preset.split(",")
    model = subject.calibrated(compose_quant(name, overrides, options.config_dir))
    program = record(model)
    figures = {images.name: _figures(program, images, preset) for images in sets}
    checked = [images.images[: options.check] for images in sets] if options.check else []
    changes = [figures[images.name]["top1"] - _float_top1(images) for images in sets]
    return {
        "preset": preset,
        "sets": figures,
        "mean_change": sum(changes) / len(changes),
        "mismatches": mismatches(model, torch.cat(checked)) if checked else 0,
        "checked": sum(map(len, checked)),
        "seconds": time.perf_counter() - start,
    }


def _figures(program: Program, images: ImageSet, title: str) -> dict[str, Any]:
    """Of one set; `images` holds what every image gave, for paired tests."""
    runtime = fastest_runtime(program)
    batches = _tracked(images.images, f"{title}, {images.name}")
    logits = torch.cat([torch.from_numpy(runtime(batch.numpy())) for batch in batches]).double() * program.score_scale
    right, same = (logits.argmax(1) == classes for classes in (images.labels, images.reference.argmax(1)))
    divergences = divergence(logits.softmax(1), images.reference)
    return {
        "top1": 100.0 * float(right.double().mean()),
        "agreement": 100.0 * float(same.double().mean()),
        "divergence": float(divergences.mean()),
        "images": {"top1": right.int().tolist(), "agreement": same.int().tolist(), "divergence": divergences.tolist()},
    }


def mismatches(model: nn.Module, images: Tensor, names: Sequence[str] = ("torch", "numpy")) -> int:
    """Images whose scores differ between the model and any of the runtimes `names` on the saved program."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(record(model), Path(folder) / "program")
        program = load_checkpoint(Path(folder) / "program")
    runtimes = [load_runtime(program, name) for name in names]
    count = 0
    for batch in images.split(8):
        scores = model.integer_scores(batch).numpy()
        count += int(sum((scores != run(batch.numpy())).any(1) for run in runtimes).astype(bool).sum())
    return count


def _print_header(sets: list[ImageSet], calibration: int) -> None:
    print(f"calibrated on {calibration} images; {', '.join(f'{s.name}: {len(s.labels)} images' for s in sets)}")
    columns = "".join(f"{images.name + ' top-1':>20}{'agreement':>11}{'divergence':>12}" for images in sets)
    print(f"{'preset':<32}{columns}{'mean change':>13}{'mismatches':>12}{'minutes':>9}", flush=True)


def _print_row(row: dict[str, Any]) -> None:
    columns = "".join(
        f"{figures['top1']:>20.2f}{figures['agreement']:>11.2f}{figures['divergence']:>12.4f}"
        for figures in row["sets"].values()
    )
    checked = f"{row['mismatches']}/{row['checked']}"
    print(
        f"{row['preset']:<32}{columns}{row['mean_change']:>13.2f}{checked:>12}{row['seconds'] / 60:>9.1f}", flush=True
    )
