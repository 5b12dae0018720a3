"""`intvit bench presets`: top-1 of every quantization preset on given weights, after calibration, without training.

Calibration images come from training shards with the evaluation transform; accuracy is measured on validation shards
of one or more folders. `agreement` is the share of images whose first class is the float model's. The first
`--check` images of every set also run through the exported program on both runtimes, and differing scores are counted.
With `--json` every row is written as it is measured, and the same command goes on after the rows that the file holds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from intvit.analysis.presets import first_images, photo_config, photo_model, preset_names
from intvit.data.config import DataConfig
from intvit.data.loading import calibration_loader, validation_loader
from intvit.errors import IntVitError
from intvit.models import MODELS, load_weights
from intvit.program import load_checkpoint, save_checkpoint
from intvit.program.recording import record
from intvit.quant import calibrate
from intvit.runtime import load_runtime

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
    parser.add_argument("--images", type=int, default=256, help="calibration images")
    parser.add_argument("--data", required=True, nargs="+", metavar="NAME=DIR", help="folders with val-*.tar")
    parser.add_argument("--quant", nargs="+", help="presets, with overrides after commas: ivit8_true8,quant/gelu=lut")
    parser.add_argument("--limit", type=int, help="evaluate at most so many images of each set")
    parser.add_argument("--check", type=int, default=8, help="images of each set that both runtimes execute too")
    parser.add_argument("--json", type=Path, help="also write the figures to this file, and resume from it")
    return parser


@dataclass
class ImageSet:
    """Images uint8 (N, 3, H, W), labels (N,), and the float model's first class for each."""

    name: str
    images: Tensor
    labels: Tensor
    reference: Tensor | None = None

    def batches(self, count: int | None = None) -> Iterator[Tensor]:
        """Batches of the first `count` images."""
        return iter(self.images[:count].split(BATCH))


def main(arguments: list[str]) -> int:
    """Evaluate the presets, print the table; exit code 1 when a runtime's scores differ."""
    options = _parser().parse_args(arguments)
    done = _resumed(options)
    data = replace(photo_config(), eval_batch_size=BATCH)
    sets = [_load(*_named(text), data, options.limit) for text in options.data]
    calibration = first_images(calibration_loader(replace(data, root=options.calibration)), options.images)[0]
    _float_reference(options, data, sets)
    presets = options.quant or [name for name in preset_names() if name != "fp32"]
    rows = [_float_row(sets)]
    _print_header(sets, len(calibration))
    _print_row(rows[0])
    for preset in presets:
        rows.append(done.get(preset) or _row(options, data, preset, calibration, sets))
        _print_row(rows[-1])
        if options.json:
            _write(options, rows)
    return 1 if any(row["mismatches"] for row in rows) else 0


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What makes figures comparable."""
    return {
        key: getattr(options, key) for key in ("model", "weights", "calibration", "images", "data", "limit", "check")
    }


def _resumed(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rows by preset that the file of `--json` holds already. Raises IntVitError if it was made with other settings."""
    if options.json is None or not options.json.exists():
        return {}
    held, wanted = json.loads(options.json.read_text()), _settings(options)
    for key, value in wanted.items():
        if held["settings"].get(key) != value:
            raise IntVitError(
                f"--json {options.json} holds figures for --{key} {held['settings'].get(key)}, not {value}; "
                "name another file or delete it"
            )
    return {row["preset"]: row for row in held["rows"] if row["preset"] != "float"}


def _write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    partial = options.json.with_name(options.json.name + ".partial")
    partial.write_text(json.dumps({"settings": _settings(options), "rows": rows}, indent=1) + "\n")
    partial.replace(options.json)


def _named(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    if not separator:
        raise IntVitError(f"--data {text}: expected NAME=DIR, such as sample=/data/imagenet")
    return name, folder


def _load(name: str, folder: str, data: DataConfig, limit: int | None) -> ImageSet:
    return ImageSet(name, *first_images(validation_loader(replace(data, root=folder)), limit))


def _model(options: argparse.Namespace, data: DataConfig, preset: str) -> nn.Module:
    model = photo_model(options.model, preset, data)
    load_weights(model, options.weights)
    return model.eval()


@torch.no_grad()
def _predictions(model: nn.Module, images: ImageSet, title: str) -> Tensor:
    batches = list(images.batches())
    return torch.cat([model(batch).argmax(1) for batch in track(batches, f"{title}, {images.name}", transient=True)])


def _float_reference(options: argparse.Namespace, data: DataConfig, sets: list[ImageSet]) -> None:
    model = _model(options, data, "fp32")
    for images in sets:
        images.reference = _predictions(model, images, "float")


def _top1(predictions: Tensor | None, images: ImageSet) -> float:
    return 100.0 * float((predictions == images.labels).double().mean())


def _float_row(sets: list[ImageSet]) -> dict[str, Any]:
    figures = {images.name: {"top1": _top1(images.reference, images), "agreement": 100.0} for images in sets}
    return {"preset": "float", "sets": figures, "mean_change": 0.0, "mismatches": 0, "checked": 0, "seconds": 0.0}


def _row(
    options: argparse.Namespace, data: DataConfig, preset: str, calibration: Tensor, sets: list[ImageSet]
) -> dict[str, Any]:
    start = time.perf_counter()
    model = _model(options, data, preset)
    calibrate(model, calibration.split(BATCH))
    figures: dict[str, Any] = {}
    changes = []
    for images in sets:
        predictions = _predictions(model, images, preset)
        top1 = _top1(predictions, images)
        agreement = 100.0 * float((predictions == images.reference).double().mean())
        figures[images.name] = {"top1": top1, "agreement": agreement}
        changes.append(top1 - _top1(images.reference, images))
    checked = [images.images[: options.check] for images in sets] if options.check else []
    return {
        "preset": preset,
        "sets": figures,
        "mean_change": sum(changes) / len(changes),
        "mismatches": mismatches(model, torch.cat(checked)) if checked else 0,
        "checked": sum(map(len, checked)),
        "seconds": time.perf_counter() - start,
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
    columns = "".join(f"{images.name + ' top-1':>20}{'agreement':>11}" for images in sets)
    print(f"{'preset':<32}{columns}{'mean change':>13}{'mismatches':>12}{'minutes':>9}", flush=True)


def _print_row(row: dict[str, Any]) -> None:
    columns = "".join(f"{figures['top1']:>20.2f}{figures['agreement']:>11.2f}" for figures in row["sets"].values())
    checked = f"{row['mismatches']}/{row['checked']}"
    print(
        f"{row['preset']:<32}{columns}{row['mean_change']:>13.2f}{checked:>12}{row['seconds'] / 60:>9.1f}", flush=True
    )
