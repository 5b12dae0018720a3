"""How far integer results are from real ones: signal to noise, and divergence of probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite where there is no noise."""
    return 10.0 * math.log10(signal / noise) if noise > 0.0 and signal > 0.0 else math.inf


def divergence(integer: Tensor, real: Tensor) -> Tensor:
    """KL divergence of rows (..., N) of integer probabilities from real ones, in bits, float64 (...).

    sum(q log2(q / p)) + (sum(p) - sum(q)) / ln 2: finite where integers are 0, and for rows that, floored, do not sum
    to one (0 only where they are equal).
    """
    q, p = integer.double(), real.double()
    nats = torch.special.xlogy(q, q) - torch.special.xlogy(q, p.clamp(min=1e-300)) + p - q
    bits: Tensor = nats.sum(-1) / math.log(2)
    return bits
