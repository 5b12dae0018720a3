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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from intvit.analysis.analyzed_model import ModelSource, read_model
from intvit.bench.paired import paired
from intvit.bench.presets import BATCH, ImageSet, float_row, load_images, row_of
from intvit.commands.argument_types import at_least, new_file, positive
from intvit.config.presets import presets
from intvit.data.presets import photo_config
from intvit.errors import IntVitError
from intvit.files import write_json
from intvit.models import MODELS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="intvit bench presets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", required=True, help="float weights, as docs/weights.md lists them")
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


def main(arguments: list[str]) -> int:
    """Evaluate the presets, print the table; exit code 1 when a runtime's scores differ."""
    options = _parser().parse_args(arguments)
    done = _resumed(options)
    own = _own_presets(options.config_dir)
    names = [_named(text)[0] for text in options.data]
    if len(set(names)) < len(names):
        raise IntVitError(f"--data: the names {', '.join(names)} are not unique")
    chosen = options.quant or [*(name for name in presets("quant") if name != "fp32"), *own]
    for name in options.against:
        if name not in chosen:
            raise IntVitError(f"--against {name}: not among the presets {', '.join(chosen)}")
    data = replace(photo_config(), eval_batch_size=BATCH)
    analyzed = read_model(
        ModelSource(options.weights, options.model, calibration=options.calibration, calibration_images=options.images)
    )
    sets = [load_images(*_named(text), data, options.limit, analyzed.model) for text in options.data]
    rows = [float_row(sets)]
    _print_header(sets, len(analyzed.calibration))
    _print_row(rows[0])
    for preset in chosen:
        row = done.get(preset) or row_of(analyzed, preset, sets, check=options.check, config_dir=options.config_dir)
        rows.append(row)
        _print_row(rows[-1])
        if options.json:
            write_json(options.json, {"settings": _settings(options), "rows": rows})
    for name in options.against:
        print_paired(rows[1:], name, [images.name for images in sets])
    return 1 if any(row["mismatches"] for row in rows) else 0


def _own_presets(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    names = sorted(path.stem for path in (folder / "quant").glob("*.yaml"))
    if not names:
        raise IntVitError(f"--config-dir {folder}: holds no quant/*.yaml")
    return names


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


def print_paired(rows: Sequence[Mapping[str, Any]], against: str, sets: Sequence[str]) -> None:
    """For every set a line for each row: how much better `against` is, with standard errors and p.

    rows: presets of `intvit bench presets`.
    """
    base = next(row for row in rows if row["preset"] == against)
    for name in sets:
        print(f"\n{against} minus another preset on {name}; p of McNemar's exact test, and of the sign test")
        print(f"{'preset':<32}{'top-1':>16}{'p':>9}{'agreement':>16}{'p':>9}{'divergence':>20}{'p':>9}")
        for row in rows:
            if row is base:
                continue
            cells = []
            for key, width, form in (("top1", 16, "+.2f"), ("agreement", 16, "+.2f"), ("divergence", 20, "+.4f")):
                mean, error, p = paired(base["sets"][name], row["sets"][name], key)
                cells.append(f"{f'{mean:{form}} ± {error:{form[1:]}}':>{width}}{p:>9.2g}")
            print(f"{row['preset']:<32}{''.join(cells)}")
