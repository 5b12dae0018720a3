"""Integer square roots: the exact one, I-ViT's Newton iteration, and an equal float64 form of the exact one."""

import torch
from torch import Tensor

from intvit.errors import IntVitError


def integer_sqrt(v: Tensor) -> Tensor:
    """floor(sqrt(v)) for every 0 <= v < 2^62, by binary digits: 31 trials of one bit each, integers only.

    Returns:
        int64 of v's shape, below 2^31. The trial squares stay below 2^62.
    """
    v = v.to(torch.int64)
    root = torch.zeros_like(v)
    for bit in range(30, -1, -1):
        trial = root + (1 << bit)
        root = torch.where(trial * trial <= v, trial, root)
    return root


def newton_sqrt(v: Tensor, steps: int) -> Tensor:
    """I-ViT's root (arXiv 2207.01405, I-LayerNorm): r = 2^16, then `steps` times r = (r + floor(v / r)) >> 1.

    Never below floor(sqrt(v)) (Newton's iteration approaches from above), but far above it for small v: ten steps give
    68 for v = 1024. v < 2^62; 1 <= steps <= 16, so that r, which at most halves, never gets to 0.
    """
    if not 1 <= steps <= 16:
        raise IntVitError(
            f"Newton's root takes 1 to 16 steps, not {steps}: from 2^16, more could reach 0 and divide by it"
        )
    v = v.to(torch.int64)
    root = torch.full_like(v, 1 << 16)
    for _ in range(steps):
        root = (root + torch.div(v, root, rounding_mode="floor")) >> 1
    return root


def integer_sqrt_float64(v: Tensor) -> Tensor:
    """`integer_sqrt` by one float64 root and an integer correction: equal for every 0 <= v < 2^62.

    Why: the float64 root is off by less than one (relative 2^-52 of 2^31 and the rounding of v), so its floor is off by
    at most one either way, which one integer comparison each way repairs.
    """
    v = v.to(torch.int64)
    root = v.to(torch.float64).sqrt_().to(torch.int64)
    root = root - (root * root > v).to(torch.int64)
    above = root + 1
    return torch.where(above * above <= v, above, root)
