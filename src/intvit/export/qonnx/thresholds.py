"""Thresholds: a function of one integer that never falls, as counts of comparisons.

A MultiThreshold node gives `out_bias + (number of k with x >= T[c, k])` for channel c. Let f be the function of a
channel, with codes lowest..highest, and T[c, k] the smallest x with f(x) >= lowest + k + 1. If f never falls, then
x >= T[c, k] is the same as f(x) >= lowest + k + 1, the number of such k is f(x) - lowest, and the node with
out_bias = lowest gives f(x) itself.

Requantize is such a function: with a multiplier m >= 0, x <= y gives x*m + 2^(e-1) <= y*m + 2^(e-1); an arithmetic
shift is a floor of a division by 2^e and keeps the order, and so does clamp.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from intvit.program import Value, limits

# int64 [rows, channels] -> codes of that shape: column c holds arguments of channel c
Function = Callable[[np.ndarray], np.ndarray]


def thresholds(function: Function, channels: int, low: int, high: int, output: Value) -> np.ndarray:
    """int64 [channels, 2^bits - 1]: T[c, k] is the smallest x in low..high of which `function` gives k + 1 steps.

    function: never falls in low..high, and is asked there alone. A code that no x reaches gets high + 1. By bisection,
    all thresholds at once.
    """
    lowest, highest = limits(output.bits, output.signed)
    codes = np.arange(lowest + 1, highest + 1)[:, None]
    first = np.full((len(codes), channels), low, np.int64)
    last = np.full_like(first, high + 1)  # the threshold lies in first..last
    for _ in range((high + 1 - low).bit_length()):
        middle = np.minimum((first + last) >> 1, high)
        reached = function(middle) >= codes
        first, last = np.where(reached, first, middle + 1), np.where(reached, middle, last)
    return last.T


def never_falls(function: Function, low: int, high: int) -> bool:
    """Of a function of few arguments: all of low..high are tried."""
    return bool((np.diff(function(np.arange(low, high + 1)[:, None]).astype(np.int64), axis=0) >= 0).all())
