"""The trained model that an analysis looks at: of a run of train.py or from float weights, calibrated, with images."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from intvit.calibration import (
    Known,
    adopt_ranges,
    calibrate,
    collect_statistics,
    correct_biases,
    find_ranges,
    wants_correction,
)
from intvit.data.config import DataConfig
from intvit.data.loading import calibration_loader, first_images, validation_loader
from intvit.data.presets import photo_config
from intvit.errors import IntVitError
from intvit.quant import QuantConfig, set_mode
from intvit.quant.presets import compose_quant
from intvit.quant.quantizer import Collected
from intvit.training.config import ModelConfig, photo_model_config
from intvit.training.restore import build_model, restore_run

BATCH = 8  # images at once: every layer's float and integer output of a batch are in memory together
# With these calibration collects all that any override may ask for; see `collect_statistics`.
_HISTOGRAMS = {"activation": "mse", "layernorm": "mse"}
_FACTORS = {"residual": 8, "residual_factors": True}


@dataclass
class Subject:
    """A model in eval mode, and how to make it again with other quantization.

    calibration_batch: images at once in calibration; train.py's data.eval_batch_size gives its integers to the bit.
    """

    name: str
    config: ModelConfig
    quant: QuantConfig
    model: nn.Module
    data: DataConfig
    calibration: Tensor
    calibration_batch: int = BATCH
    statistics: dict[str, list[Collected]] | None = None
    known: Known = field(default_factory=dict)

    def collect(self) -> dict[str, list[Collected]]:
        """What calibration collects for every quantization, once."""
        if self.statistics is None:
            every: dict[str, Any] = {"observer": _HISTOGRAMS}
            if self.quant.observer.residual == "minmax":
                every["bits"] = _FACTORS
            collecting = self._build({"*": every})
            collecting.load_state_dict(self.model.state_dict(), strict=False)
            self.statistics = collect_statistics(collecting, self.calibration.split(self.calibration_batch))
        return self.statistics

    def calibrated(self, quant: QuantConfig) -> nn.Module:
        """The weights under another quantization, in integer mode, with the ranges that `calibrate` would find for it.

        They are found from one collection of statistics, bias correction included: the same integers in a fraction of
        the time.
        """
        statistics = self.collect()
        model = build_model(self.config, quant, load=False)
        model.load_state_dict(dict(self.model.named_parameters()), strict=False)
        find_ranges(model, statistics, self.known)
        kept: list[Tensor] = []
        for images in self.calibration.split(self.calibration_batch):
            if wants_correction(kept):
                kept.append(images)
        correct_biases(model, kept)
        return model

    def variant(self, overrides: dict[str, Any]) -> nn.Module:
        """The model as quant.overrides would make it, calibrated on the same images, in eval and integer mode.

        What the overrides leave alone keeps its range; linear layers keep their bias correction.
        """
        statistics = self.collect()
        model = self._build(overrides)
        adopt_ranges(model, self.model, statistics)
        return model

    def _build(self, overrides: dict[str, Any]) -> nn.Module:
        quant = replace(self.quant, overrides=joined(self.quant.overrides, overrides))
        return build_model(self.config, quant, load=False)

    def measured(self, count: int) -> tuple[Tensor, Tensor]:
        """The first validation images, uint8 (N, C, H, W), and their labels (N,)."""
        return first_images(validation_loader(self.data), count)


def joined(overrides: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """quant.overrides with `more` behind them; a pattern that is in both keeps its other keys."""
    result = {pattern: parts for pattern, parts in overrides.items() if pattern not in more}
    for pattern, parts in more.items():
        old = overrides.get(pattern, {})
        result[pattern] = {**old, **{group: {**old.get(group, {}), **values} for group, values in parts.items()}}
    return result


def open_subject(checkpoint: str, options: argparse.Namespace, data: str | None = None) -> Subject:
    """A run folder or .ckpt file of train.py with its own ranges, or a weights file calibrated with `options.quant`.

    data: folder with val-*.tar instead of the run's. Raises IntVitError for a run without ranges, and for a weights
    file without folders of images.
    """
    if is_weights(checkpoint):
        if data is None:
            raise IntVitError(
                f"{checkpoint} is a weights file: say --calibration DIR and --data DIR, folders of shards"
            )
        subject = read_subject(checkpoint, options, data)
        calibrate(subject.model, subject.calibration.split(BATCH))
    else:
        subject = read_subject(checkpoint, options, data)
        set_mode(subject.model, "integer")
    subject.calibration_batch = BATCH
    return subject


def is_weights(checkpoint: str) -> bool:
    """Whether it is a file of float weights, not a run."""
    return Path(checkpoint).suffix in (".safetensors", ".pth")


def read_subject(checkpoint: str, options: argparse.Namespace, data: str | None = None) -> Subject:
    """As `open_subject`, in float mode: a weights file without ranges, and calibration in train.py's batches."""
    if is_weights(checkpoint):
        return _from_weights(checkpoint, options, data)
    folder, trained, model, _, state = restore_run(checkpoint)
    if not trained.quant.enabled or not state["calibrated"]:
        raise IntVitError(f"{folder} has no integer ranges: train with quant=ivit8, or give its weights file")
    measured = replace(trained.data, root=data or trained.data.root, eval_batch_size=BATCH)
    calibration = _calibration_images(replace(measured, root=options.calibration or trained.data.root), options)
    batch = trained.data.eval_batch_size
    return Subject(folder.name, trained.model, trained.quant, model, measured, calibration, batch)


def _from_weights(checkpoint: str, options: argparse.Namespace, data: str | None) -> Subject:
    if options.calibration is None:
        raise IntVitError(f"{checkpoint} is a weights file: say --calibration DIR, a folder of shards")
    preset = photo_config()
    photos = replace(preset, eval_batch_size=BATCH, root=data)
    config = photo_model_config(options.model, weights=checkpoint)
    name, *overrides = options.quant.split(",")
    quant = compose_quant(name, overrides)
    if not quant.enabled:
        raise IntVitError(f"--quant {name} is float: nothing to analyze; choose an integer preset")
    calibration = _calibration_images(replace(photos, root=options.calibration), options)
    model = build_model(config, quant)
    batch = preset.eval_batch_size
    return Subject(f"{options.model} {options.quant}", config, quant, model, photos, calibration, batch)


def _calibration_images(data: DataConfig, options: argparse.Namespace) -> Tensor:
    return first_images(calibration_loader(data), options.calibration_images)[0]
