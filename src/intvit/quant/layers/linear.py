"""Linear layer and patch embedding: int8 x int8 -> int32 accumulators at one scale per output channel."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intvit.arithmetic import divide
from intvit.quant.config import SiteConfig
from intvit.quant.kernels import Kernels
from intvit.quant.layer import Layer
from intvit.quant.observer import all_reduce, weight_clip
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import AnyTensor, Derived, Integers, QTensor, Symbol, gradient_dtype, handle

SMALLEST_CLIP = 2.0**-6  # where a learned limit stays positive
LARGEST_BIAS = 2**30  # int32 keeps room for a row of products: 2^30 + 2^16 * 2^14 < 2^31


@dataclass(frozen=True)
class IntegerLinear:
    """weight int8 (N, K); bias int32 (N,); scale of the accumulators, float64 (N,); weight_scale float32 (N,).

    inside: bool (N, K), False where a weight is beyond the clip limit; None where none can be.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    weight_scale: Tensor
    inside: Tensor | None


class Linear(Layer):
    """y = x W^T + b. With `output`, accumulators are requantized into that range; without, they are returned.

    Weights: symmetric per output channel, s_w = clip * max|w| / (2^(bits-1) - 1). The clip is a buffer, or with
    `observer.weight=learned` a parameter. `rounding`, int8 (N, K) or None, is what calibration adds to the nearest
    codes. The layer reads x + offset, float64 () or None for 0, where the one before has taken an offset out of a
    skewed tensor: in integers it is part of the bias. Bias: int32 of b + correction at s_x * s_w; `correct_biases`
    (intvit.calibration) finds the correction, which the float function does not have.
    """

    weight: Tensor  # a parameter, but in MeanScores
    bias: Tensor | None
    clip: Tensor
    correction: Tensor
    rounding: Tensor | None
    offset: Tensor | None

    def __init__(
        self, inputs: int, outputs: int, site: SiteConfig, output: Quantizer | None = None, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.configure(outputs, site, output)

    def configure(self, outputs: int, site: SiteConfig, output: Quantizer | None) -> None:
        """Everything but the parameters."""
        self.bits = site.bits.weight
        learned = site.observer.weight == "learned"
        # 127 steps lose nothing without the search.
        self.search_clip = site.observer.weight in ("mse", "learned") and self.bits < 8
        self.clipped = learned or self.search_clip
        if learned:
            self.clip = nn.Parameter(torch.ones(outputs))
        else:
            self.register_buffer("clip", torch.ones(outputs))
        self.register_buffer("correction", torch.zeros(outputs))
        self.register_buffer("rounding", None)
        self.register_buffer("offset", None)
        self.corrected = site.observer.bias_correction
        self.mean: _Mean | None = None  # while biases are corrected
        self.output = output
        self.derived: Derived  # IntegerLinear

    def forward(self, x: AnyTensor) -> AnyTensor:
        """Real (B, ..., K) -> (B, ..., N); QTensor likewise; Symbol: emit `linear` (and `requantize`)."""
        if isinstance(x, Tensor):
            x = x if self.offset is None else x + self.offset.to(x.dtype)
            y = F.linear(x, self.matrix(), self.bias)
            if self.calibrating and self.output is not None:
                self.output.collect(y)
            if self.mean is not None:
                self.mean.value = y.flatten(0, -2).double().mean(0)
            return y
        accumulators: AnyTensor = self.record(x) if isinstance(x, Symbol) else self.accumulate(x)
        return accumulators if self.output is None else self.output(accumulators)

    def operand(self, x: AnyTensor) -> AnyTensor:
        """What the product reads of an input of `forward`."""
        return x

    def matrix(self) -> Tensor:
        """The weight as (N, K)."""
        return self.weight.flatten(1)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in ("rounding", "offset"):  # of a model that has been calibrated with them
            if f"{prefix}{name}" in state and getattr(self, name) is None:
                setattr(self, name, torch.zeros_like(state[f"{prefix}{name}"], device=self.clip.device))
        super()._load_from_state_dict(state, prefix, *rest)

    @torch.no_grad()
    def finish(self) -> None:
        """Choose the weight clip, part of calibration."""
        if self.search_clip:
            self.clip.copy_(weight_clip(self.matrix().float(), self.bits))
        else:
            self.clip.fill_(1.0)

    def accumulate(self, x: QTensor) -> QTensor:
        """int32 accumulators (B, ..., N)."""
        parameters: IntegerLinear = self.derived.value
        rows = x.values.flatten(0, -2)
        kernels = self.kernels(rows)
        accumulator = kernels.linear(rows, parameters.weight, parameters.bias)
        if self.mean is not None:
            accumulator, parameters = self._correct(accumulator, parameters, x.scale)
        tensors = x.handle, self.weight, self.bias, self.offset, self.clip
        gradient = LinearGradient.apply(*tensors, x, parameters, self.bits, kernels)
        return QTensor(accumulator.view(*x.values.shape[:-1], -1), gradient, parameters.scale, 32)

    def integer_parameters(self, input_scale: Tensor) -> IntegerLinear:
        """`integer_linear` of this layer."""
        tensors = self.matrix(), self.bias, self.correction, self.clip, self.rounding, self.offset, input_scale
        return integer_linear(*tensors, bits=self.bits, clipped=self.clipped)

    def start_correction(self) -> None:
        """From now on float outputs are averaged, and integer ones corrected towards their means."""
        self.correction.zero_()
        self.mean = _Mean()

    @torch.no_grad()
    def _correct(
        self, accumulator: Tensor, parameters: IntegerLinear, input_scale: Tensor
    ) -> tuple[Tensor, IntegerLinear]:
        """Move the correction by the mean difference to the float outputs of the same images, averaged over batches.

        Returns accumulators and parameters with the new bias.
        """
        assert self.mean is not None
        assert self.mean.value is not None
        self.mean.batches += 1
        products = accumulator - parameters.bias
        mean = (products.double().mean(0) + parameters.bias) * parameters.scale
        difference = all_reduce(self.mean.value - mean, "mean")
        self.correction.add_(divide(difference, self.mean.batches).to(self.correction.dtype))
        parameters = self.integer_parameters(input_scale)
        return products.add_(parameters.bias), parameters

    def record(self, x: Symbol) -> Symbol:
        """Emit `linear`."""
        bias = None if self.bias is None else self.bias.detach()
        tensors = self.matrix().detach(), bias, self.correction, self.clip.detach(), self.rounding, self.offset
        form = {"bits": self.bits, "clipped": self.clipped, "rows": len(self.correction)}
        self.derived = x.builder.derive(integer_linear, *tensors, x.scale, site=self.name, **form)

        def integers() -> Integers:
            p: IntegerLinear = self.derived.value
            return Integers(constants={"weight": (p.weight, self.bits, True), "bias": (p.bias, 32, True)})

        scale = self.derived.field("scale")
        shape = (*x.shape[:-1], len(self.correction))
        output = x.builder.emit("linear", self.name, [x], shape=shape, bits=32, scale=scale, integers=integers)
        return replace(output, per_channel=True)


@torch.no_grad()
def integer_linear(
    weight: Tensor,
    bias: Tensor | None,
    correction: Tensor,
    clip: Tensor,
    rounding: Tensor | None,
    offset: Tensor | None,
    input_scale: Tensor,
    *,
    bits: int,
    clipped: bool,
) -> IntegerLinear:
    """Integer weight and bias; only IEEE-exact operations, so that every device finds the same integers.

    weight: float32 (N, K). bias, correction, clip: float32 (N,). rounding: int8 (N, K), added to the nearest codes.
    offset: of the input, float64 () or (N,). input_scale: float64 () or (N,). clipped: whether the clip may be below 1.
    """
    largest = 2 ** (bits - 1) - 1
    scale = divide(weight.abs().amax(1) * clip.clamp(min=SMALLEST_CLIP), largest)
    # A channel of zeros takes the scale at which its bias fits.
    bias = correction if bias is None else bias + correction
    smallest = bias.abs() / (input_scale * (LARGEST_BIAS / 2)).to(bias.dtype)
    scale = torch.maximum(scale, smallest).clamp(min=1e-30)
    codes = (weight / scale[:, None]).round_()  # |w| / scale rounds to `largest` at most unless clipped
    inside = codes.abs() <= largest if clipped else None
    if rounding is not None:
        codes = codes.add_(rounding)
    codes = (codes.clamp(-largest, largest) if clipped or rounding is not None else codes).to(torch.int8)
    if offset is not None:
        bias = bias.double() + codes.sum(1, dtype=torch.int64) * offset * scale.double()
    accumulator_scale = scale.double() * input_scale
    rounded = torch.floor(bias.double() / accumulator_scale + 0.5)
    return IntegerLinear(codes, rounded.to(torch.int32), accumulator_scale, scale, inside)


@dataclass
class _Mean:
    """Mean float output per channel of the present batch, and the batches seen."""

    value: Tensor | None = None
    batches: int = 0


def clip_gradient(gradient: Tensor, weight: Tensor, codes: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Of the clip limits of a weight (N, K), from that of its quantized values: learned step sizes, LSQ.

    arXiv 1902.08153, equation 3 and section 2.2. A step moves the value of a code by its rounding error inside the
    range, and by the code at either end; over sqrt(K * largest code), so that steps learn about as fast as weights.

    gradient, weight: float32 (N, K). codes: int8 (N, K). scale: float32 (N,), of a code. Returns float32 (N,).
    """
    largest = 2 ** (bits - 1) - 1
    real = weight / scale[:, None]
    moved = codes - torch.where(real.abs() < largest, real, 0.0)
    by_step = (gradient * moved).sum(1) / math.sqrt(weight.shape[1] * largest)
    return by_step * (weight.abs().amax(1) / largest)  # step = clip * max|w| / largest


class LinearGradient(torch.autograd.Function):
    """Gradient of the float linear function at the quantized operands, straight through the quantizers."""

    @staticmethod
    def forward(
        ctx: Any,
        x_handle: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        offset: Tensor | None,
        clip: Tensor,
        x: QTensor,
        parameters: IntegerLinear,
        bits: int,
        kernels: Kernels,
    ) -> Tensor:
        real = weight if ctx.needs_input_grad[4] else None
        p = parameters
        ctx.save_for_backward(x.values, p.weight, p.weight_scale, p.inside, offset, real)
        ctx.scale, ctx.x_bits, ctx.weight_shape, ctx.kernels = x.scale, x.bits, weight.shape, kernels
        ctx.bits = bits
        device = x.values.device
        return handle(*x.values.shape[:-1], len(parameters.scale), device=device, dtype=gradient_dtype(device))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, weight, weight_scale, inside, offset, real = ctx.saved_tensors
        g, x = gradient.reshape(-1, gradient.shape[-1]), codes.flatten(0, -2)
        operands = x, weight, weight_scale, ctx.scale, ctx.x_bits
        of_input, of_weight, of_bias, _, of_clip = ctx.needs_input_grad[:5]
        dx, dw, db = ctx.kernels.linear_gradient(g, *operands, (of_input, of_weight or of_clip, of_bias))
        d_clip = None
        if dw is not None:
            if offset is not None:
                dw = dw + ((g.sum(0) if db is None else db) * offset.to(dw.dtype))[:, None]
            if of_clip:
                d_clip = clip_gradient(dw, real.flatten(1), weight, weight_scale, ctx.bits)
            dw = (dw if inside is None else dw.mul_(inside)).view(ctx.weight_shape)
        return None if dx is None else dx.view(codes.shape), dw, db, None, d_clip, None, None, None, None


class PatchEmbed(Linear):
    """Linear layer over the pixels of square patches; the weight keeps the convolution's shape (N, C, P, P)."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        patch: int,
        site: SiteConfig,
        output: Quantizer | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(channels * patch * patch, outputs, site, output, bias=bias)
        self.weight = nn.Parameter(self.weight.detach().view(outputs, channels, patch, patch))
        self.patch = patch

    def forward(self, x: AnyTensor) -> AnyTensor:
        """(B, C, H, W) -> accumulators or reals (B, H/P * W/P, N)."""
        return super().forward(self.operand(x))

    def operand(self, x: AnyTensor) -> AnyTensor:
        """(B, C, H, W) -> (B, L, C*P*P), patches row by row, (c, y, x) inside a patch."""
        if isinstance(x, Symbol):
            length = (x.shape[1] // self.patch) * (x.shape[2] // self.patch)
            size = math.prod((x.shape[0], self.patch, self.patch))
            return x.move("patches", f"{self.name}.patches", (length, size), patch=self.patch)
        if isinstance(x, QTensor):
            return replace(x, values=_unfold(x.values, self.patch), handle=_unfold(x.handle, self.patch))
        return _unfold(x, self.patch)


def _unfold(x: Tensor, patch: int) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)
