"""Kernels for accelerators: Triton's where it is installed, else plain torch."""

from __future__ import annotations

import torch

from intvit.quant.kernels import Kernels
from intvit.quant.kernels.eager import EAGER


def accelerator(device: torch.device) -> Kernels:
    """The kernels of a device that is no CPU."""
    return EAGER
