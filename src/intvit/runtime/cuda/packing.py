"""Weights of 4 bits in device memory: two to a byte, in the order in which the kernel takes them apart."""

import numpy as np

BLOCK = 128  # inputs; kernels/linear.py reads 64 bytes of them at once


def pack(weight: np.ndarray) -> np.ndarray:
    """int8 [N, K] of -8..7 -> int8 [N, 64 ceil(K / 128)].

    Byte j of a block holds the weight of its input j in the low half, that of input j + 64 in the high one; 0 beyond K.
    """
    outputs, inputs = weight.shape
    blocks = np.pad(weight, [(0, 0), (0, -inputs % BLOCK)]).reshape(outputs, -1, 2, BLOCK // 2).astype(np.uint8)
    return ((blocks[:, :, 0] & 15) | (blocks[:, :, 1] << 4)).astype(np.uint8).view(np.int8).reshape(outputs, -1)
