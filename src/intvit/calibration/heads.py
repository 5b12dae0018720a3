"""Inside attention: means of keys and values, and turns of queries with keys, values with their projection.

The softmax does not see a part that all keys share, and weights of sum one pass on what all values share. Query times
key, and value times projection, stay what they are when both turn alike; turned by a Hadamard matrix, the channels of a
head become even (QuaRot, arXiv 2404.00456).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from intvit.calibration.dataflow import Dataflow, Reader
from intvit.calibration.folding import fold, linear_readers, pieces, takes_offsets, turn_outputs
from intvit.quant.layers import AttentionCore, Linear


def attentions(flow: Dataflow) -> Iterator[tuple[AttentionCore, Linear, list[Reader] | None]]:
    """Attention, the layer that gives queries, keys and values, and the linear layers that read the context."""
    for layer in flow.layers:
        if isinstance(layer, AttentionCore):
            qkv = flow.writer(layer)
            assert isinstance(qkv, Linear)
            yield layer, qkv, linear_readers(flow, layer)


@torch.no_grad()
def center(flow: Dataflow, means: Mapping[str, Tensor], contexts: Mapping[str, Tensor]) -> None:
    """Take the means of keys and values out.

    means: of outputs (3C,) by name of the layer that gives them. contexts: rows (rows, C) by name of the attention,
    which follow.
    """
    for core, qkv, readers in attentions(flow):
        if qkv.bias is None:
            continue
        mean = means[qkv.name].to(qkv.bias)
        width = len(mean) // 3
        qkv.bias[width : 2 * width] -= mean[width : 2 * width]
        if takes_offsets(readers):
            assert readers is not None
            qkv.bias[2 * width :] -= mean[2 * width :]
            contexts[core.name].sub_(mean[2 * width :])
            fold(readers, offset=mean[2 * width :])


@torch.no_grad()
def turn_heads(flow: Dataflow) -> None:
    """Turn queries and keys of every head, and values where linear layers read the context."""
    for core, qkv, readers in attentions(flow):
        weight, bias = qkv.matrix().data, None if qkv.bias is None else qkv.bias.data
        size = len(weight) // 3 // core.heads
        matrix = hadamard(size).to(weight.device)
        turned = 3 if readers is not None else 2
        for start in range(0, turned * core.heads * size, size):
            rows = slice(start, start + size)
            turn_outputs(weight[rows], None if bias is None else bias[rows], matrix)
        for reader in readers or ():
            for columns, _ in pieces(reader):
                heads = columns.double().view(len(columns), core.heads, size)
                columns.copy_((heads @ matrix.t()).flatten(1))


def hadamard(size: int) -> Tensor:
    """Orthogonal float64 (size, size): Sylvester's matrix for the power of two in `size`, once for each odd part."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while size % (2 * len(matrix)) == 0:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return torch.block_diag(*[matrix / len(matrix) ** 0.5] * (size // len(matrix)))
