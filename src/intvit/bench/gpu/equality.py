"""Parts `runtime` and `model`: the cuda runtime, and the model on the device, give the integers of numpy's runtime."""

from __future__ import annotations

import numpy as np

from intvit.bench.gpu.report import Place, Report
from intvit.bench.gpu.subjects import calibrated, pixels
from intvit.export.record import record
from intvit.quant import trace
from intvit.runtime import load_runtime

QUANT, MODELS, IMAGES = ("ivit8", "lut8", "w4a8"), ("deit_t", "swin_t"), 3


def runtime(report: Report) -> None:
    """Scores of calls before and after a graph is captured, at full size; every value of the trace at reduced size."""
    report.place.needs_kernels()
    from intvit.runtime.cuda.runtime import CudaRuntime

    for quant in QUANT if report.place.gpu else QUANT[:1]:  # interpreted kernels take seconds
        for name in MODELS:
            report.equality(f"{name} {quant}, trace at reduced size", _trace_differs(name, quant))
            model = calibrated(name, quant, report.place)
            program, images = record(model), pixels(model, IMAGES if report.place.gpu else 1, 1).numpy()
            cuda, expected = CudaRuntime(program), load_runtime(program, "numpy")(images)
            calls = ("first", "second", "third") if report.place.gpu else ("first",)
            wrong = [f"scores of the {call} call" for call in calls if not np.array_equal(cuda(images), expected)]
            if report.place.gpu and not np.array_equal(cuda(images[::-1].copy()), expected[::-1]):
                wrong.append("scores of other images")
            report.equality(f"{name} {quant}", wrong)


def _trace_differs(name: str, quant: str) -> list[str]:
    from intvit.runtime.cuda.runtime import CudaRuntime

    model = calibrated(name, quant, Place.reduced())
    program, images = record(model), pixels(model, 1, 1).numpy()
    expected = dict(load_runtime(program, "numpy").trace(images))
    found = dict(CudaRuntime(program).trace(images))
    return [key for key in expected if not np.array_equal(expected[key], found[key])]


def model(report: Report) -> None:
    """The model in eval mode on the device: its scores, and every integer that the program also has."""
    for quant in QUANT:
        for name in MODELS:
            subject = calibrated(name, quant, report.place)
            images = pixels(subject, IMAGES, 1)
            expected = dict(load_runtime(record(subject), "numpy").trace(images.numpy()))
            found = trace(subject.to(report.place.device), images.to(report.place.device))
            both = [key for key in expected if key in found]
            wrong = [key for key in both if not np.array_equal(expected[key].ravel(), found[key].ravel())]
            scores = f"{subject.scores_layer.name}.scores"
            report.equality(f"{name} {quant}", wrong if scores in both else ["no scores in the trace"])
