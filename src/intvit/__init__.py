"""IntViT: vision transformers whose whole inference, from the uint8 pixel to the class score, runs on integers.

The library's face, a dozen verbs that the commands call as well:

    model = intvit.quantize(timm_model, "lut8")         # or intvit.create_model("deit_t", quant="lut8")
    intvit.calibrate(model, images)                     # uint8 images, numpy or torch
    intvit.export(model, "integer")                     # the integer checkpoint, a folder
    scores = intvit.load("integer")(images)             # int32, equal to the model's
    intvit.evaluate(model, images, labels)              # accuracy, and the images whose integers differ
    intvit.certify("integer", accumulator=24).enough    # proven for every image

Importing this package imports nothing else: a verb is imported when it is first used, and loading, running and
certifying a checkpoint needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "IntVitError",
    "Program",
    "QuantConfig",
    "calibrate",
    "certify",
    "compose",
    "create_model",
    "digits",
    "evaluate",
    "export",
    "golden",
    "load",
    "models",
    "presets",
    "quantize",
    "run",
    "train",
]

if TYPE_CHECKING:  # what type checkers and editors see; the table below is what Python does
    from intvit.calibration import calibrate
    from intvit.config.presets import presets
    from intvit.data.arrays import digits
    from intvit.errors import IntVitError
    from intvit.evaluation.in_memory import evaluate
    from intvit.export.golden import golden
    from intvit.export.record import export
    from intvit.models.build import create_model, models
    from intvit.models.quantize import quantize
    from intvit.program import Program
    from intvit.quant import QuantConfig
    from intvit.quant.presets import compose_quant as compose
    from intvit.runtime import load
    from intvit.runtime.certificate import certify
    from intvit.runtime.classes import run
    from intvit.training.in_process import train

# Name here -> its module, and its name there. `export` and `models` are missing: these are packages, and callable
# (intvit.callable_package).
_PLACES = {
    "IntVitError": ("intvit.errors", "IntVitError"),
    "Program": ("intvit.program", "Program"),
    "QuantConfig": ("intvit.quant", "QuantConfig"),
    "calibrate": ("intvit.calibration", "calibrate"),
    "certify": ("intvit.runtime.certificate", "certify"),
    "compose": ("intvit.quant.presets", "compose_quant"),
    "create_model": ("intvit.models.build", "create_model"),
    "digits": ("intvit.data.arrays", "digits"),
    "evaluate": ("intvit.evaluation.in_memory", "evaluate"),
    "golden": ("intvit.export.golden", "golden"),
    "load": ("intvit.runtime", "load"),
    "presets": ("intvit.config.presets", "presets"),
    "quantize": ("intvit.models.quantize", "quantize"),
    "run": ("intvit.runtime.classes", "run"),
    "train": ("intvit.training.in_process", "train"),
}

if not TYPE_CHECKING:  # else type checkers would believe in any name

    def __getattr__(name: str) -> Any:
        """Import what is asked for, once (PEP 562)."""
        if name in ("export", "models"):
            return import_module(f"intvit.{name}")
        if name not in _PLACES:
            raise AttributeError(f"module 'intvit' has no attribute {name!r}; it has {', '.join(__all__)}")
        from intvit.errors import naming_extras

        module, there = _PLACES[name]
        with naming_extras():
            value = globals()[name] = getattr(import_module(module), there)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
