"""Block reconstruction (BRECQ, arXiv 2102.05426): roundings and biases of a stage's linear layers, learned together.

The stage runs on the integers that the program will have, with the gradients of training, towards what the float stage
puts out on its own inputs. What is learned ends in `Linear.rounding` and `Linear.correction`: the float function stays
what it is, and the program gets no operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intvit.models.base import ImageModel
from intvit.quant.features import feature_error, norm_outputs
from intvit.quant.layers import Linear
from intvit.quant.layers.linear import IntegerLinear
from intvit.quant.tensor import AnyTensor, QTensor, handle

_IMAGES = 8  # of a step
_RATE = 0.01  # of Adam at the beginning, in codes: thirty steps carry weights near a boundary to the other side

Stage = Callable[[AnyTensor], AnyTensor]


@dataclass(frozen=True)
class Targets:
    """Of the float stage on its float inputs, all images joined: output (B, ...), and outputs of the norms inside."""

    output: Tensor
    norms: list[Tensor]

    @classmethod
    def of(cls, outputs: Sequence[Tensor], norms: Sequence[Tensor]) -> Targets:
        """outputs: of batches. norms: what `norm_outputs` kept of them, batch after batch."""
        inside = len(norms) // len(outputs)
        return cls(torch.cat(list(outputs)), [torch.cat(list(norms[each::inside])) for each in range(inside)])

    def error(self, output: Tensor, norms: Sequence[Tensor], chosen: Tensor) -> Tensor:
        """Squared errors of the images `chosen` as shares of the squared targets: of the output, and of the norms."""
        error = feature_error([output], [self.output[chosen]])
        return error + feature_error(norms, [aim[chosen] for aim in self.norms]) if norms else error


class Learned:
    """A linear layer's codes and bias while they are learned.

    codes: float32 (N, K), in codes; they are rounded where the layer runs. shift: float32 (N,), what the bias gets, in
    multiples of what one code of every weight would move the output by, on inputs of one code that are independent.
    """

    def __init__(self, layer: Linear) -> None:
        integers: IntegerLinear = layer.derived.value
        self.layer, self.steps = layer, 2 ** (layer.bits - 1) - 1
        self.scale = integers.weight_scale[:, None]
        real = layer.matrix().detach() / self.scale
        self.nearest = real.round()
        present = integers.weight.float()
        # They round to the present codes, and lie on that side of them where the real weight is.
        self.codes = present + (real - present).clamp_(-0.45, 0.45)
        self.correction = layer.correction.clone()
        self.unit = integers.scale.float() * math.sqrt(present.shape[1])
        self.shift = torch.zeros_like(self.unit)

    def parameters(self) -> list[Tensor]:
        """Those of the layer whose gradients `take` expects."""
        return [self.layer.weight] if self.layer.bias is None else [self.layer.weight, self.layer.bias]

    def take(self, weight: Tensor | None, bias: Tensor | None = None) -> None:
        """Make gradients of the layer's parameters those of what is learned."""
        self.codes.grad = None if weight is None else weight.flatten(1) * self.scale
        self.shift.grad = None if bias is None else bias * self.unit

    def write(self) -> None:
        """Let the layer run on what is learned."""
        codes = self.codes.round().clamp_(-self.steps, self.steps)
        self.layer.rounding = (codes - self.nearest).clamp_(-127, 127).to(torch.int8)
        self.layer.correction.copy_(self.correction + self.shift * self.unit)


@torch.no_grad()
def reconstruct(
    model: ImageModel,
    stage: Stage,
    layers: Sequence[Linear],
    inputs: AnyTensor,
    targets: Targets,
    passes: int,
    progress: Callable[[], None],
) -> None:
    """Learn roundings and biases of `layers`, those of a stage of `model`, by Adam on so many passes over the images.

    inputs: images, or codes that the stage reads. The model is in integer mode, and every layer alone.
    progress: called at every step. The images' order is fixed: equal inputs give equal results.
    """
    learned = [Learned(layer) for layer in layers]
    optimizer = torch.optim.Adam([each for one in learned for each in (one.codes, one.shift)], betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(0)
    count = len(targets.output)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
    pieces = order.to(targets.output.device).split(_IMAGES)
    for step, chosen in enumerate(pieces):
        _set_gradients(model, stage, learned, inputs, targets, chosen)
        optimizer.param_groups[0]["lr"] = _RATE * 0.5 * (1.0 + math.cos(math.pi * step / len(pieces)))
        optimizer.step()
        for one in learned:
            one.write()
        progress()


def _set_gradients(
    model: ImageModel,
    stage: Stage,
    learned: Sequence[Learned],
    inputs: AnyTensor,
    targets: Targets,
    chosen: Tensor,
) -> None:
    """Those of the stage's error on some of the images."""
    parameters = [parameter for one in learned for parameter in one.parameters()]
    asking = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_()  # a phase of training may have frozen it
        with torch.enable_grad(), norm_outputs(model) as norms:
            output = stage(_images(inputs, chosen))
            assert isinstance(output, QTensor)
            error = targets.error(output.differentiable(), norms, chosen)
            found = torch.autograd.grad(error, parameters, allow_unused=True)
    finally:
        for parameter, asked in zip(parameters, asking, strict=True):
            parameter.requires_grad_(asked)
    gradients = iter(found)
    for one in learned:
        one.take(*(next(gradients) for _ in one.parameters()))


def _images(x: AnyTensor, chosen: Tensor) -> AnyTensor:
    if isinstance(x, QTensor):
        values = x.values[chosen]
        return replace(x, values=values, handle=handle(*values.shape, device=values.device))
    assert isinstance(x, Tensor)
    return x[chosen]
