"""The trained model that an analysis or a search looks at: of a run of train.py or from float weights, with images."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from intvit.calibration import (
    Known,
    Progress,
    adopt_ranges,
    calibrate,
    collect_statistics,
    correct_biases,
    find_ranges,
    wants_correction,
)
from intvit.data.classes import compare_classes
from intvit.data.config import DataConfig
from intvit.data.loading import calibration_loader, first_images, validation_loader
from intvit.data.presets import photo_config
from intvit.data.source import without_absent_cache
from intvit.errors import IntVitError
from intvit.models.weights.keys import split_offsets
from intvit.models.weights.reading import holds_weights_alone
from intvit.quant import QuantConfig, set_mode
from intvit.quant.presets import compose_quant
from intvit.quant.quantizer import Collected
from intvit.training.config import ModelConfig, photo_model_config
from intvit.training.restore import build_model, restore_run

BATCH = 8  # images at once: every layer's float and integer output of a batch are in memory together
# With these calibration collects all that any override may ask for; see `collect_statistics`.
_HISTOGRAMS = {"activation": "mse", "layernorm": "mse"}
_FACTORS = {"residual": 8, "residual_factors": True}


@dataclass(frozen=True)
class ModelSource:
    """Where the model comes from.

    checkpoint: a run folder or .ckpt file of train.py, or weights as docs/weights.md lists them. model, quant: of a
    weights file, its architecture and the preset with overrides after commas. calibration: folder with train-*.tar;
    None for the run's own data. calibration_images: how many of them; photos: of which kind, as data.calibration_photos
    says it, None for the run's own or that of data=imagenet. data: folder with val-*.tar instead of the run's.
    """

    checkpoint: str
    model: str = "deit_t"
    quant: str = "lut8"
    calibration: str | None = None
    calibration_images: int = 64
    data: str | None = None
    photos: str | None = None

    @property
    def is_weights(self) -> bool:
        """Whether the checkpoint is a file of float weights, not a run."""
        return holds_weights_alone(Path(self.checkpoint))


@dataclass
class AnalyzedModel:
    """A model in eval mode, and how to make it again with other quantization.

    calibration_batch: images at once in calibration; train.py's data.eval_batch_size gives its integers to the bit.
    collecting_cpu: CPU seconds that `collect` took.
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
    collecting_cpu: float = 0.0

    def collect(self) -> dict[str, list[Collected]]:
        """What calibration collects for every quantization, once."""
        if self.statistics is None:
            every: dict[str, Any] = {"observer": _HISTOGRAMS}
            if self.quant.observer.residual == "minmax":
                every["bits"] = _FACTORS
            collecting = self._build({"*": every})
            collecting.load_state_dict(self.model.state_dict(), strict=False)
            start = time.process_time()
            self.statistics = collect_statistics(collecting, torch.split(self.calibration, self.calibration_batch))
            self.collecting_cpu = time.process_time() - start
        return self.statistics

    def calibrated(self, quant: QuantConfig, progress: Progress = lambda *_: None) -> nn.Module:
        """The weights under another quantization, in integer mode, as `calibrate` would make them.

        Where it looks for ranges alone, these are found from one collection of statistics, bias correction included:
        the same integers in a fraction of the time. progress: of the other steps, as `calibrate` takes it.
        """
        model = build_model(self.config, quant, load=False)
        _, offsets = split_offsets(self.model.state_dict())
        model.load_state_dict({**dict(self.model.named_parameters()), **offsets}, strict=False)
        batches = torch.split(self.calibration, self.calibration_batch)
        if offsets or not quant.calibration.ranges_alone:
            return calibrate(model, batches, progress=progress)
        find_ranges(model, self.collect(), self.known)
        kept: list[Tensor] = []
        for images in batches:
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
        """The first validation images, uint8 (N, C, H, W), and their labels (N,); of masks (N, H, W), VOID for none."""
        return first_images(validation_loader(self.data), count)


def joined(overrides: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """quant.overrides with `more` behind them; a pattern that is in both keeps its other keys."""
    result = {pattern: parts for pattern, parts in overrides.items() if pattern not in more}
    for pattern, parts in more.items():
        old = overrides.get(pattern, {})
        result[pattern] = {**old, **{group: {**old.get(group, {}), **values} for group, values in parts.items()}}
    return result


def open_calibrated(source: ModelSource) -> AnalyzedModel:
    """A run with its own ranges, or a weights file calibrated under `source.quant`; in integer mode.

    Raises IntVitError for a run without ranges, for images of other classes, and for a weights file without folders of
    images.
    """
    if source.is_weights and source.data is None:
        raise IntVitError(
            f"{source.checkpoint} is a weights file: say --calibration DIR and --data DIR, folders of shards"
        )
    analyzed = read_model(source)
    if source.is_weights:
        calibrate(analyzed.model, torch.split(analyzed.calibration, BATCH))
    else:
        set_mode(analyzed.model, "integer")
    analyzed.calibration_batch = BATCH
    return analyzed


def read_model(source: ModelSource) -> AnalyzedModel:
    """As `open_calibrated`, in float mode: a weights file without ranges, and calibration in train.py's batches."""
    if not Path(source.checkpoint).exists():
        raise IntVitError(f"{source.checkpoint}: no such run folder, .ckpt or weights file")
    return _of_weights(source) if source.is_weights else _of_run(source)


def _of_run(source: ModelSource) -> AnalyzedModel:
    try:
        folder, trained, model, _, state = restore_run(source.checkpoint)
    except IntVitError as error:
        raise IntVitError(str(error).removeprefix("ckpt=")) from None  # a key of train.py that nobody typed here
    if not trained.quant.enabled or not state["calibrated"]:
        raise IntVitError(f"{folder} has no integer ranges: train with quant=ivit8, or give its weights file")
    reading = without_absent_cache(trained.data)
    data = replace(reading, root=source.data or trained.data.root, eval_batch_size=BATCH, **_photos(source))
    if source.data is not None and (classes := state.get("classes")):
        compare_classes(data, classes, str(folder))
    images = _calibration_images(data, source.calibration or trained.data.root, source.calibration_images)
    batch = trained.data.eval_batch_size
    return AnalyzedModel(folder.name, trained.model, trained.quant, model, data, images, batch)


def _of_weights(source: ModelSource) -> AnalyzedModel:
    if source.calibration is None:
        raise IntVitError(f"{source.checkpoint} is a weights file: say --calibration DIR, a folder of shards")
    preset = photo_config()
    data = replace(preset, eval_batch_size=BATCH, root=source.data, **_photos(source))
    config = photo_model_config(source.model, weights=source.checkpoint)
    name, *overrides = source.quant.split(",")
    quant = compose_quant(name, overrides)
    if not quant.enabled:
        raise IntVitError(f"--quant {name} is float: nothing to analyze; choose an integer preset")
    images = _calibration_images(data, source.calibration, source.calibration_images)
    model = build_model(config, quant)
    return AnalyzedModel(f"{source.model} {source.quant}", config, quant, model, data, images, preset.eval_batch_size)


def _photos(source: ModelSource) -> dict[str, Any]:
    return {} if source.photos is None else {"calibration_photos": source.photos}


def _calibration_images(data: DataConfig, root: str | None, count: int) -> Tensor:
    return first_images(calibration_loader(replace(data, root=root)), count)[0]
