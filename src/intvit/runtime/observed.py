"""What the operators of a program reach on given images."""

from __future__ import annotations

import numpy as np

from intvit.program import Program
from intvit.program.interval_arithmetic import Range
from intvit.runtime import load_runtime


def observe(program: Program, images: np.ndarray) -> dict[str, Range]:
    """What each operator's output reaches on uint8 images [B, C, H, W], one at a time."""
    runtime, reached = load_runtime(program, "numpy"), dict[str, Range]()
    for image in images:
        for name, value in runtime.trace(image[None]):
            low, high = int(value.min()), int(value.max())
            old = reached.get(name, Range(low, high))
            reached[name] = Range(min(old.low, low), max(old.high, high))
    return reached
