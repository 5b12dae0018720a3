"""What goes into the layer behind: factors, offsets and turns of a tensor's channels, into weights and biases.

All of it leaves the float function of a model what it is, up to rounding of float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intvit.calibration.dataflow import Dataflow, Reader
from intvit.quant.layer import Layer
from intvit.quant.layers import Linear, MeanPool
from intvit.quant.layers.boundary import MeanScores

Piece = tuple[Tensor, Tensor | None]
"""Columns (N, C) of a weight that read C channels, and the bias (N,) of the layer; views."""


def linear_readers(flow: Dataflow, layer: Layer, *, through_mean: bool = False) -> list[Reader] | None:
    """The readers of a layer's output where all are linear layers, else None. through_mean: a mean may lie between."""
    found: list[Reader] = []
    for reader in flow.readers(layer):
        if through_mean and isinstance(reader.layer, MeanPool):
            behind = linear_readers(flow, reader.layer)
            if behind is None or reader.padded:
                return None
            found += behind
        elif isinstance(reader.layer, Linear):
            found.append(reader)
        else:
            return None
    return found or None


def pieces(reader: Reader) -> list[Piece]:
    """The parts of a linear layer that read the channels: several where several tokens' channels are one's."""
    layer = reader.layer
    assert isinstance(layer, Linear)
    if isinstance(layer, MeanScores):
        return [(part.weight.data, part.bias.data) for part in layer.parts]
    bias = None if layer.bias is None else layer.bias.data
    matrix = layer.matrix().data
    if reader.columns is not None:
        matrix = matrix[:, slice(*reader.columns)]
    return [(part, bias) for part in matrix.chunk(reader.joined, 1)]


def takes_offsets(readers: list[Reader] | None) -> bool:
    """Whether offsets can go into the biases: there are some, and no zeros join on the way as padding."""
    if readers is None or any(reader.padded for reader in readers):
        return False
    return all(bias is not None for reader in readers for _, bias in pieces(reader))


def fold(readers: list[Reader], *, factor: Tensor | None = None, offset: Tensor | None = None) -> None:
    """Let readers of x read y, where x = y * factor + offset; both (C,)."""
    for reader in readers:
        for weight, bias in pieces(reader):
            if offset is not None:
                assert bias is not None
                bias.copy_(bias.double() + weight.double() @ offset.double())
            if factor is not None:
                weight.copy_(weight.double() * factor.double())


def turn_inputs(readers: list[Reader], matrix: Tensor) -> None:
    """Let readers of x read `matrix` x; matrix: orthogonal (C, C)."""
    for reader in readers:
        for weight, _ in pieces(reader):
            weight.copy_(weight.double() @ matrix.double().t())


def turn_outputs(weight: Tensor, bias: Tensor | None, matrix: Tensor) -> None:
    """Let a layer give `matrix` y in place of y; weight: (N, K), a view; matrix: (N, N)."""
    weight.copy_(matrix.double() @ weight.double())
    if bias is not None:
        bias.copy_(matrix.double() @ bias.double())


def repeated(matrix: Tensor, times: int) -> Tensor:
    """One block of a matrix for each of so many tokens whose channels are one's."""
    return torch.block_diag(*[matrix] * times)
