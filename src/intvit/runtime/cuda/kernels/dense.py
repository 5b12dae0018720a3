"""The end of a program that labels every pixel: enlarged scores, and the class of the highest, pixel by pixel."""

import triton
import triton.language as tl


@triton.jit
def neighbours(place, SIZE: tl.constexpr, FACTOR: tl.constexpr):
    """Of places in an enlarged axis of SIZE entries: both neighbours, and 2 FACTOR times the second one's share."""
    shifted = 2 * place + 1 + FACTOR
    first, weight = shifted // (2 * FACTOR) - 1, shifted % (2 * FACTOR)
    return tl.maximum(first, 0), tl.minimum(first + 1, SIZE - 1), weight


@triton.jit
def score(
    x, k, y, z, inside, x_class, x_row, x_column, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, FACTOR: tl.constexpr,
):  # fmt: skip
    """Scores of class k at rows y and columns z: of x [K, HEIGHT, WIDTH] itself (FACTOR 1), or enlarged."""
    x += k * x_class
    if FACTOR == 1:
        return tl.load(x + y * x_row + z * x_column, mask=inside, other=0).to(tl.int32)
    top, bottom, n = neighbours(y, HEIGHT, FACTOR)
    left, right, m = neighbours(z, WIDTH, FACTOR)
    a = tl.load(x + top * x_row + left * x_column, mask=inside, other=0).to(tl.int32)
    b = tl.load(x + top * x_row + right * x_column, mask=inside, other=0).to(tl.int32)
    c = tl.load(x + bottom * x_row + left * x_column, mask=inside, other=0).to(tl.int32)
    d = tl.load(x + bottom * x_row + right * x_column, mask=inside, other=0).to(tl.int32)
    return (2 * FACTOR - n) * ((2 * FACTOR - m) * a + m * b) + n * ((2 * FACTOR - m) * c + m * d)


@triton.jit
def upsample(
    x, out, x_image, x_class, x_row, x_column, K: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    FACTOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out int32 [B, K, HEIGHT * FACTOR, WIDTH * FACTOR]; a program for BLOCK entries of an image."""
    wide: tl.constexpr = WIDTH * FACTOR
    size: tl.constexpr = K * HEIGHT * FACTOR * wide
    image, entry = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, pixel = entry < size, entry % (HEIGHT * FACTOR * wide)
    k, y, z = entry // (HEIGHT * FACTOR * wide), pixel // wide, pixel % wide
    v = score(x + image * x_image, k, y, z, inside, x_class, x_row, x_column, HEIGHT, WIDTH, FACTOR)
    tl.store(out + image * size + entry, v, mask=inside)


@triton.jit
def labels(
    x, out, x_image, x_class, x_row, x_column, K: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    FACTOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out [B, HEIGHT * FACTOR, WIDTH * FACTOR]: the class of the highest score, the lowest of equals."""
    wide: tl.constexpr = WIDTH * FACTOR
    size: tl.constexpr = HEIGHT * FACTOR * wide
    image, pixel = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, y, z = pixel < size, pixel // wide, pixel % wide
    x += image * x_image
    most = score(x, 0, y, z, inside, x_class, x_row, x_column, HEIGHT, WIDTH, FACTOR)
    best = tl.zeros((BLOCK,), tl.int32)
    for k in range(1, K):
        v = score(x, k, y, z, inside, x_class, x_row, x_column, HEIGHT, WIDTH, FACTOR)
        best = tl.where(v > most, k, best)
        most = tl.maximum(v, most)
    tl.store(out + image * size + pixel, best.to(out.dtype.element_ty), mask=inside)
