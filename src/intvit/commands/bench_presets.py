"""`intvit bench presets`: how near every quantization preset comes to float on given weights, without training.

Calibration images are made of photos of training shards, as `--photos` says; figures are measured on validation shards
of one or more folders, each with its 95 % bootstrap interval over the images. `divergence` is the mean KL divergence of
the class probabilities from the float model's, in bits, `agreement` the share of images whose first class is the float
model's; both are steadier than top-1, which on hundreds of photos is within points of noise. Where a folder has images
of classes that the calibration photos hold and of others, both are said: photos of few classes calibrate for these. The
first `--check` images of every set also run through the model and its program on torch and numpy, and differing scores
are counted.
`--config-dir DIR` adds the presets of DIR/quant, such as those of `intvit search`; `--against PRESET` tests how much
better it is than each other one on the same images. `--ablate PRESET` measures one preset with calibration's steps all
off and then added one after the other, a row for each, and draws what each takes off the divergence. With `--json`
every row is written as it is measured, and the same command goes on after the rows that the file holds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from intvit.analysis.analyzed_model import ModelSource, read_model
from intvit.bench.ablation import Measured, cumulative, named
from intvit.bench.presets import BATCH, float_row, load_images, row_of
from intvit.calibration import ABLATION
from intvit.commands.argument_types import at_least, new_file, positive
from intvit.commands.presets_table import print_header, print_paired, print_row
from intvit.config.presets import presets
from intvit.data.calibration_photos import PHOTOS_OF
from intvit.data.loading import calibration_labels
from intvit.errors import IntVitError
from intvit.files import write_bytes, write_json
from intvit.models import MODELS

FORM = 2  # of the file of --json: since there are intervals


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit bench presets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", required=True, help="float weights, as docs/weights.md lists them")
    parser.add_argument("--model", default="deit_t", choices=MODELS)
    parser.add_argument("--calibration", required=True, metavar="DIR", help="folder with train-*.tar")
    parser.add_argument("--images", type=positive, default=256, help="calibration images")
    parser.add_argument("--photos", default="center", choices=list(PHOTOS_OF), help="as data.calibration_photos")
    parser.add_argument("--data", required=True, nargs="+", metavar="NAME=DIR", help="folders with val-*.tar")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quant", nargs="+", help="presets, with overrides after commas: ivit8_true8,quant/gelu=lut")
    which.add_argument("--ablate", metavar="PRESET", help="this one alone, calibration's steps one after the other")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="with more presets in its folder quant/")
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="PRESET", help="test how much better these are than every other one"
    )
    parser.add_argument("--limit", type=positive, help="evaluate at most so many images of each set")
    parser.add_argument(
        "--check", type=at_least(0), default=8, help="images of each set that both runtimes execute too"
    )
    parser.add_argument("--json", type=new_file, help="also write the figures to this file, and resume from it")
    parser.add_argument(
        "--plot", type=new_file, metavar="FILE.png", help="picture of --ablate (default: beside the file of --json)"
    )
    return parser


def main(arguments: list[str]) -> int:
    """Evaluate the presets, print the table; exit code 1 when a runtime's scores differ."""
    options = parser().parse_args(arguments)
    done = _resumed(options)
    names = [_named(text)[0] for text in options.data]
    if len(set(names)) < len(names):
        raise IntVitError(f"--data: the names {', '.join(names)} are not unique")
    chosen = _chosen(options)
    if plot := _plot_file(options):
        from intvit.reports.ablation_plot import waterfall  # before anything is measured: it may not be installed
    source = ModelSource(
        options.weights,
        options.model,
        calibration=options.calibration,
        calibration_images=options.images,
        photos=options.photos,
    )
    analyzed = read_model(source)
    data = replace(analyzed.data, eval_batch_size=BATCH)
    classes = sorted(set(calibration_labels(replace(data, root=options.calibration), options.images).tolist()))
    sets = [load_images(*_named(text), data, options.limit, analyzed.model, classes) for text in options.data]
    rows = [float_row(sets)]
    print_header(f"{len(analyzed.calibration)} images ({options.photos}) of {len(classes)} classes")
    print_row(rows[0])
    for each in chosen:
        how: dict[str, Any] = {"check": options.check, "config_dir": options.config_dir}
        row = done.get(each.preset) or row_of(analyzed, each.name, each.overrides, sets, **how)
        rows.append({**row, "step": each.label} if options.ablate else row)
        print_row(rows[-1])
        if options.json:
            write_json(options.json, {"form": FORM, "settings": _settings(options), "rows": rows})
    if plot:
        write_bytes(plot, waterfall(options.ablate, rows[1:]))
    for name in options.against:
        print_paired(rows[1:], name, names)
    return 1 if any(row["mismatches"] for row in rows) else 0


def _chosen(options: argparse.Namespace) -> list[Measured]:
    """What to measure, in order. Raises IntVitError for options that do not go together."""
    if options.ablate:
        if options.against:
            raise IntVitError("--against compares presets, --ablate measures one; leave one of them out")
        return cumulative(options.ablate, ABLATION)
    if options.plot:
        raise IntVitError(f"--plot {options.plot} draws the steps of --ablate PRESET; say which preset")
    own = _own_presets(options.config_dir)
    presets_named = options.quant or [*(name for name in presets("quant") if name != "fp32"), *own]
    for name in options.against:
        if name not in presets_named:
            raise IntVitError(f"--against {name}: not among the presets {', '.join(presets_named)}")
    return [named(preset) for preset in presets_named]


def _plot_file(options: argparse.Namespace) -> Path | None:
    if not options.ablate:
        return None
    beside: Path | None = options.json and options.json.with_suffix(".png")
    return options.plot or beside


def _own_presets(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    names = sorted(path.stem for path in (folder / "quant").glob("*.yaml"))
    if not names:
        raise IntVitError(f"--config-dir {folder}: holds no quant/*.yaml")
    return names


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What makes figures comparable."""
    keys = ("model", "weights", "calibration", "images", "photos", "data", "limit", "check", "ablate")
    return {key: getattr(options, key) for key in keys}


def _resumed(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rows by preset that the file of `--json` holds already. Raises IntVitError if it was made with other settings."""
    if options.json is None or not options.json.exists():
        return {}
    try:
        held = json.loads(options.json.read_text())
        form, settings = held.get("form"), dict(held["settings"])
        rows = {row["preset"]: row for row in held["rows"]}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise IntVitError(f"--json {options.json} holds no figures of this command; name another file") from error
    if form != FORM:
        raise IntVitError(
            f"--json {options.json} holds figures of an older form, without intervals; name another file or delete it"
        )
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
