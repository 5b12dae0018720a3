"""Rotation of residual streams (SliceGPT, arXiv 2401.15024; QuaRot, arXiv 2404.00456), for LayerNorm.

An orthogonal Q with Q 1 = 1 keeps mean and variance of a row, so that LN(Qx) = Q LN(x) once gamma and beta are part of
the layers behind. What writes the stream gives Q y, what reads its norms takes Q^T out again. A stream of a few large
channels becomes one of even channels, and so do the outputs of its norms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from intvit.calibration.dataflow import Dataflow, Reader
from intvit.calibration.folding import fold, linear_readers, repeated, takes_offsets, turn_inputs, turn_outputs
from intvit.models.base import ImageModel
from intvit.quant.layer import Layer
from intvit.quant.layers import Add, LayerNorm, LearnedConstant, Linear, MeanPool

_SMALLEST_GAMMA = 1e-2  # share of the largest, below which beta is not divided by it


@dataclass(eq=False)
class Stream:
    """Values that are one space of channels: who writes them, which norms and linear layers read them."""

    channels: int = 0
    writers: list[Layer] = field(default_factory=list)
    norms: list[Reader] = field(default_factory=list)
    linears: list[Reader] = field(default_factory=list)
    others: list[Layer] = field(default_factory=list)
    constants: bool = False


@torch.no_grad()
def rotate(model: ImageModel, flow: Dataflow, seed: int = 0) -> int:
    """Rotate every stream that can be; how many.

    A stream that begins or ends with a norm of its own (CLIP, Swin's first stage, features without a classifier) stays.
    """
    count = 0
    for stream in streams(flow):
        if _rotatable(stream, flow):
            _rotate(model, stream, flow, random_rotation(stream.channels, seed + count))
            count += 1
    return count


def random_rotation(channels: int, seed: int) -> Tensor:
    """Orthogonal float64 (C, C) that keeps (1, ..., 1)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    drawn[:, 0] = 1.0
    basis = torch.linalg.qr(drawn)[0]  # its first column is the mean's direction
    turned = torch.linalg.qr(torch.randn(channels - 1, channels - 1, generator=generator, dtype=torch.float64))[0]
    return basis @ torch.block_diag(torch.ones(1, 1, dtype=torch.float64), turned) @ basis.t()


def streams(flow: Dataflow) -> Iterable[Stream]:
    """Spaces that additions, constants and means share, in the order in which they begin."""
    space: dict[Layer, Stream] = {}
    for layer in flow.layers:
        # The last addition may be read by a mean alone.
        begins = any(isinstance(reader.layer, Add | LayerNorm) for reader in flow.readers(layer))
        if not begins and layer not in space:
            continue
        stream = space.setdefault(layer, Stream())
        for reader in flow.readers(layer):
            if isinstance(reader.layer, Add | LearnedConstant | MeanPool) and reader.joined == 1:
                other = space.setdefault(reader.layer, stream)
                if other is not stream:
                    stream = _merge(space, other, stream)
    found = list(dict.fromkeys(space.values()))
    for layer, stream in space.items():
        _describe(layer, stream, flow)
    return found


def _merge(space: dict[Layer, Stream], kept: Stream, dropped: Stream) -> Stream:
    for layer, stream in space.items():
        if stream is dropped:
            space[layer] = kept
    return kept


def _describe(layer: Layer, stream: Stream, flow: Dataflow) -> None:
    if isinstance(layer, LearnedConstant):
        stream.constants = True
    elif not isinstance(layer, Add | MeanPool):
        stream.writers.append(layer)
    for reader in flow.readers(layer):
        if isinstance(reader.layer, LayerNorm):
            stream.norms.append(reader)
            stream.channels = len(reader.layer.weight) // reader.joined
        elif isinstance(reader.layer, Linear):
            stream.linears.append(reader)
        elif not isinstance(reader.layer, Add | LearnedConstant | MeanPool) or reader.joined > 1:
            stream.others.append(reader.layer)
    stream.norms = list({reader.layer: reader for reader in stream.norms}.values())
    stream.linears = list({reader.layer: reader for reader in stream.linears}.values())


def _rotatable(stream: Stream, flow: Dataflow) -> bool:
    linear = all(isinstance(writer, Linear) for writer in stream.writers)
    return bool(stream.norms) and linear and not stream.others and all(_absorbs(r, flow) for r in stream.norms)


def _absorbs(reader: Reader, flow: Dataflow) -> bool:
    """Whether gamma and beta of a norm can go into the layers behind it."""
    norm = reader.layer
    assert isinstance(norm, LayerNorm)
    readers = linear_readers(flow, norm, through_mean=True)
    if readers is None:
        return False
    magnitudes = norm.weight.abs()
    return takes_offsets(readers) or bool(magnitudes.min() > _SMALLEST_GAMMA * magnitudes.max())


def _rotate(model: ImageModel, stream: Stream, flow: Dataflow, matrix: Tensor) -> None:
    matrix = matrix.to(next(model.parameters()).device)
    for writer in stream.writers:
        assert isinstance(writer, Linear)
        turn_outputs(writer.matrix().data, None if writer.bias is None else writer.bias.data, matrix)
    if stream.constants:
        for constant in model.stream_constants():
            constant.copy_(constant.double() @ matrix.t())
    turn_inputs(stream.linears, matrix)
    for reader in stream.norms:
        norm = reader.layer
        assert isinstance(norm, LayerNorm)
        readers = linear_readers(flow, norm, through_mean=True)
        assert readers is not None
        wide = repeated(matrix, reader.joined)
        if takes_offsets(readers):
            fold(readers, offset=norm.bias)
            norm.bias.zero_()
        else:  # where zeros join as padding, or without biases, beta stays with the norm
            norm.bias.copy_(wide @ (norm.bias.double() / norm.weight.double()))
        fold(readers, factor=norm.weight)
        norm.weight.fill_(1.0)
        turn_inputs(readers, wide)
