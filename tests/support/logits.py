"""Rows of logits for softmax in its forms, and the families that are integers all through."""

import torch

EXPORTABLE = ["ivit", "ibert", "ppoly", "lut"]


def random_logits(rows: int, length: int, bits: int = 8) -> torch.Tensor:
    """int8 or int16 (rows, length): flat to spread, with rows that are all lowest, all highest, and lowest but one."""
    generator = torch.Generator().manual_seed(length)
    half = 2 ** (bits - 1)
    spread = torch.logspace(-1, 1.5, rows)[:, None] * half / 16
    logits = (torch.randn(rows, length, generator=generator) * spread).round().clamp(-half, half - 1)
    logits[0], logits[1] = -half, half - 1
    logits[2], logits[2, 0] = -half, half - 1
    return logits.to(torch.int8 if bits <= 8 else torch.int16)
