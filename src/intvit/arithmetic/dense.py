"""Dense outputs: bilinear enlargement without its division, and the class of the highest score."""

import torch
from torch import Tensor


def upsample(x: Tensor, factor: int) -> Tensor:
    """(2 factor)^2 times bilinear interpolation (align_corners=False), exact: no division, no rounding.

    Output row Y lies at (2Y + 1 - s) / 2s input rows, s = factor: between two rows, whose weights n and 2s - n are odd
    numbers over 2s; columns likewise. Beyond the first and the last row there are copies of them. For example
    (0, 4) with s = 2 along one axis: (4*0, 3*0 + 1*4, 1*0 + 3*4, 4*4) = (0, 4, 12, 16).

    Args:
        x: integers [..., h, w], |x| <= 2^31.
        factor: s, a power of two, 2 to 256.

    Returns:
        int64 [..., h*s, w*s], of magnitude at most (2s)^2 max|x| <= 2^49.
    """
    return _along(_along(x.to(torch.int64), -2, factor), -1, factor)


def _along(x: Tensor, axis: int, factor: int) -> Tensor:
    first, second, weight = neighbours(x.shape[axis], factor, x.device)
    shape = [-1] + [1] * (-1 - axis)
    weight = weight.view(shape)
    return x.index_select(axis, first) * (2 * factor - weight) + x.index_select(axis, second) * weight


def neighbours(size: int, factor: int, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Of every output position along an axis of `size` entries: both neighbours, and the second one's weight.

    int64 (size * factor,) each; the weight n is odd, 1 to 2 factor - 1, the first neighbour's is 2 factor - n.
    """
    place = 2 * torch.arange(size * factor, device=device) + 1 - factor  # in 1 / (2 factor) of an entry
    first = place >> factor.bit_length()
    weight = place - (first << factor.bit_length())
    return first.clamp(min=0), (first + 1).clamp(max=size - 1), weight


def interpolation(size: int, factor: int, device: torch.device | None = None) -> Tensor:
    """The weights of every entry along an axis for each position in the enlarged one: float64 (size * factor, size)."""
    first, second, weight = neighbours(size, factor, device)
    entries, share = torch.arange(size, device=device), weight.double()[:, None]
    return (entries == first[:, None]) * (2 * factor - share) + (entries == second[:, None]) * share


def upsample_float64(x: Tensor, factor: int) -> Tensor:
    """`upsample` by two products of matrices of float64, whose sums are integers below 2^53, exact in any order.

    Args:
        x: int32 [..., h, w], |x| < 2^31 / (2 factor)^2.

    Returns:
        int32 [..., h*s, w*s].
    """
    rows, columns = (interpolation(size, factor, x.device) for size in x.shape[-2:])
    return (rows @ (x.double() @ columns.t())).to(torch.int32)


def argmax(x: Tensor, axis: int = 0) -> Tensor:
    """Index of the largest integer along an axis, the lowest one of equals: int64, without the axis.

    For example (3, 7, 7, -1) gives 1.
    """
    shape = [1] * x.dim()
    shape[axis] = -1
    index = torch.arange(x.shape[axis], device=x.device).view(shape)
    return torch.where(x == x.amax(axis, keepdim=True), index, x.shape[axis]).amin(axis)
