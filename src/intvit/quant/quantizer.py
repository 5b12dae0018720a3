"""Quantizer: the clip range of one tensor, and the requantization of accumulators into it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from intvit.arithmetic import divide, encode_pair, encode_ratios, require
from intvit.arithmetic.elementary import power_of_two
from intvit.errors import IntVitError
from intvit.quant.config import ObserverConfig, QuantConfigError, SiteConfig
from intvit.quant.layer import Layer, recomputing
from intvit.quant.observer import Histogram, all_reduce, mse_limit, percentile_limit
from intvit.quant.tensor import Builder, Derived, Integers, QTensor, Symbol, multiply_shift

SMALLEST_SCALE = 2.0**-40  # keeps the ratio encodings of a dead tensor finite
SMALLEST_FUNCTION_SCALE = 2.0**-14  # inputs of softmax and GELU: their derived constants stay below 2^31


class Quantizer(Layer):
    """Symmetric range of one tensor, optionally one range per equal group of the last axis.

    bits: 2 to 16, codes in [-2^(bits-1), 2^(bits-1) - 1], scale = limit / (2^(bits-1) - 1).
    channels: size of the last axis when the tensor carries power-of-two factors per channel, for an 8-bit residual.
    stream: the tensor is a residual stream, whose width is `bits.residual`.
    grid: the reader rounds 1 / (grid * scale) up to an integer, as the published shift functions do; the scale then
        moves to where it is one, by half a step of 1 / scale at most.
    """

    statistic: Tensor
    clip: Tensor
    factors: Tensor | None

    def __init__(
        self,
        bits: int,
        method: str,
        observer: ObserverConfig,
        *,
        groups: int = 1,
        channels: int | None = None,
        stream: bool = False,
        smallest_scale: float = SMALLEST_SCALE,
        grid: float | None = None,
    ) -> None:
        super().__init__()
        if channels is not None and method != "minmax":
            raise QuantConfigError(
                f"quant.observer.residual={method}: a stream with factors takes minmax; "
                "set observer.residual=minmax or bits.residual_factors=false"
            )
        self.bits, self.groups, self.smallest_scale, self.grid = bits, groups, smallest_scale, grid
        self.stream = stream
        self.method = method if bits <= 8 else "minmax"  # clipping gains nothing above 8 bits
        self.percentile, self.momentum = observer.percentile, observer.momentum
        self.frozen = False
        self.register_buffer("statistic", torch.full((groups,), math.nan, dtype=torch.float64))
        self.register_buffer("clip", torch.ones(groups, dtype=torch.float64))
        self.register_buffer("factors", None if channels is None else torch.zeros(channels, dtype=torch.int64))
        self.derived: Derived  # Requantization
        self._scale: Derived
        self.observed: list[Observed] = []  # since the ranges moved last
        self.collected: list[Collected] = []  # one of each group, until `finish`

    @classmethod
    def of_activation(cls, site: SiteConfig, *, groups: int = 1) -> Quantizer:
        """The range of an operand of products: of a linear layer or, in three groups, of attention."""
        return cls(site.bits.activation, site.observer.activation, site.observer, groups=groups)

    @classmethod
    def of_stream(cls, channels: int, site: SiteConfig) -> Quantizer:
        """The range of a residual stream of `channels` channels."""
        factors = channels if site.bits.residual_factors else None
        return cls(site.bits.residual, site.observer.residual, site.observer, channels=factors, stream=True)

    def form(self) -> tuple[Any, ...]:
        """What the range depends on beside the data."""
        return self.bits, self.method, self.percentile, self.smallest_scale, self.grid, self.factors is None

    # ---------------------------------------------------------------- ranges

    def request_scale(self, builder: Builder) -> Derived:
        """The range's scale, float64 () or, with several groups, (groups,). `step` is its value then."""
        scales = builder.derive(
            range_scale, self.statistic, self.clip, site=self.name, rows=self.groups, **self._form()
        )
        self._scale = scales if self.groups > 1 else scales.part(0)
        return self._scale

    @property
    def step(self) -> Tensor:
        """Real value of one code, () or (groups,), as derived last."""
        scale: Tensor = self._scale.value
        return scale

    @torch.no_grad()
    def scale(self) -> Tensor:
        """The range's scale as it is now, float64 () or (groups,). Raises IntVitError where there is no range yet."""
        try:
            scales = range_scale(self.statistic, self.clip, **self._form())
            return scales if self.groups > 1 else scales[0]
        except IntVitError as error:
            raise IntVitError(f"{self.name}: {error}") from error

    def _form(self) -> dict[str, Any]:
        return {"largest": 2 ** (self.bits - 1) - 1, "smallest": self.smallest_scale, "grid": self.grid}

    # ---------------------------------------------------------------- calibration

    @torch.no_grad()
    def collect(self, x: Tensor) -> None:
        """Add a batch of real values (B, ..., C) to the calibration statistics."""
        if not self.collected:
            self.collected = [Collected() for _ in range(self.groups)]
        for part, collected in zip(x.detach().chunk(self.groups, -1), self.collected, strict=True):
            flat = part.flatten(1)
            images = torch.maximum(flat.amax(1), -flat.amin(1))
            largest = float(images.max())
            if not math.isfinite(largest):
                raise IntVitError(
                    f"{self.name}: calibration met {largest}; the weights (or a training before) diverged"
                )
            collected.largest = max(collected.largest, largest)
            collected.image_sum += float(images.double().sum())
            collected.images += len(part)
            if self.method != "minmax":
                collected.histogram.add(part, largest)
            if self.factors is not None:
                channels = part.abs().flatten(0, -2).amax(0).double()
                old = collected.channels
                collected.channels = channels if old is None else torch.maximum(old, channels)

    @torch.no_grad()
    def finish(self) -> None:
        """Fix the range from what was collected; the collection is dropped."""
        if not self.collected:
            raise IntVitError(f"{self.name}: calibration saw no values; give it images")
        for group, collected in enumerate(self.collected):
            statistic, clip = self._statistic(collected)
            self.statistic[group], self.clip[group] = statistic, clip
        self.collected = []

    def _statistic(self, collected: Collected) -> tuple[float, float]:
        largest = float(all_reduce(torch.tensor(collected.largest, dtype=torch.float64), "max"))
        if self.factors is not None:
            assert collected.channels is not None
            channels = all_reduce(collected.channels, "max")
            ratio = torch.full_like(channels, largest) / channels.clamp(min=1e-30)
            self.factors.copy_((torch.frexp(ratio)[1] - 1).clamp_(0, 3))  # floor(log2), exact
            return float((channels * power_of_two(self.factors)).max()), 1.0
        if self.method == "minmax" or largest == 0.0:
            return largest, 1.0
        sums = torch.tensor([collected.image_sum, collected.images], dtype=torch.float64)
        image_sum, images = all_reduce(sums, "sum").tolist()
        collected.histogram.reduce()
        if self.method == "mse":
            limit = mse_limit(collected.histogram, self.bits)
        else:
            limit = percentile_limit(collected.histogram, self.percentile)
        mean = image_sum / images
        return mean, min(limit, largest) / mean

    # ---------------------------------------------------------------- training

    @property
    def observing(self) -> bool:
        """Whether the range follows the data at present: in training, and every batch once."""
        return self.training and not self.frozen and not recomputing()

    def observe(self, magnitudes: Tensor | None, table: Tensor | None = None) -> None:
        """Keep what a batch had, for `move_ranges`: float64 (B, groups), the largest |value| of each image in steps.

        None, from a kernel that was not asked to look, keeps nothing. With a table (2^bits,) of |value| at every code,
        `magnitudes` are the smallest and the largest code of each image instead, int8 (B, 2).
        """
        if magnitudes is not None:
            self.observed.append(Observed(magnitudes, self._scale, table))

    # ---------------------------------------------------------------- requantization

    def record(self, x: Symbol) -> Symbol:
        """Accumulators to codes: emit `requantize`."""
        scale = self.request_scale(x.builder)
        rows = x.shape[-1] if self.groups > 1 or self.factors is not None or x.per_channel else 1
        tensors = x.scale, scale, self.factors
        self.derived = x.builder.derive(requantization, *tensors, bits=self.bits, site=self.name, rows=rows)
        return x.builder.emit(
            "requantize",
            self.name,
            [x],
            shape=x.shape,
            bits=self.bits,
            scale=scale,
            factors=self.factors,
            integers=lambda: self.derived.value.integers(self.bits),
        )

    def forward(self, x: QTensor | Symbol) -> QTensor | Symbol:
        """Accumulators to codes: clamp((acc*m + 2^(e-1)) >> e). The gradient passes through the handle."""
        if isinstance(x, Symbol):
            return self.record(x)
        p: Requantization = self.derived.value
        requantize = self.kernels(x.values).requantize
        values, magnitudes = requantize(x.values, p.multiplier, p.shift, self.bits, self.groups, self.observing)
        self.observe(magnitudes)
        return QTensor(values, x.handle, self.step, self.bits, self.factors)


@dataclass(frozen=True)
class Requantization:
    """multiplier, shift: int64 (1,) or (C,)."""

    multiplier: Tensor
    shift: Tensor

    def integers(self, bits: int) -> Integers:
        """Of a `requantize` to `bits` bits."""
        return Integers({"bits": bits, "signed": True}, multiply_shift(multiplier=self.multiplier, shift=self.shift))


def range_scale(statistic: Tensor, clip: Tensor, *, largest: int, smallest: float, grid: float | None) -> Tensor:
    """statistic * clip / largest, at least `smallest`, on the grid of `Quantizer`: rows of float64."""
    limit = statistic * clip
    require(~torch.isnan(limit), lambda: "no range yet; calibrate(model, images) comes first")
    scale = divide(limit, largest).clamp(min=smallest)
    if grid is None:
        return scale
    one = torch.ones_like(scale)
    steps = torch.round(one / (scale * grid))
    # a little less than a whole number: the reader rounds up
    return torch.where(steps < 1, scale, one / ((steps - 2.0**-20).clamp(min=0.5) * grid))


def channel_scale(scale: Tensor, factors: Tensor | None) -> Tensor:
    """Real value of one code of each channel."""
    return scale if factors is None else scale / power_of_two(factors)


def requantization(accumulator: Tensor, scale: Tensor, factors: Tensor | None, *, bits: int) -> Requantization:
    """What takes accumulators of a scale to codes of another with factors: rows of channels."""
    return Requantization(*encode_ratios(accumulator / channel_scale(scale, factors), bits))


@dataclass(frozen=True)
class Addition:
    """multiplier_a, multiplier_b, shift: int64 (C,) or (1,)."""

    multiplier_a: Tensor
    multiplier_b: Tensor
    shift: Tensor

    def integers(self, bits: int) -> Integers:
        """Of an `add` to `bits` bits."""
        multipliers = {"multiplier_a": self.multiplier_a, "multiplier_b": self.multiplier_b}
        return Integers({"bits": bits}, multiply_shift(shift=self.shift, **multipliers))


def addition(
    branch: Tensor, stream: Tensor, stream_factors: Tensor | None, scale: Tensor, factors: Tensor | None, *, bits: int
) -> Addition:
    """What takes accumulators and a stream, of a scale each, to codes of `scale`: rows of channels."""
    target = channel_scale(scale, factors)
    return Addition(*encode_pair(branch / target, channel_scale(stream, stream_factors) / target, bits))


class Observed(NamedTuple):
    """What one batch had: magnitudes float64 (B, groups) in steps of a scale, () or (groups,)."""

    magnitudes: Tensor
    scale: Derived
    table: Tensor | None


class Collected:
    """Calibration statistics of one group."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.image_sum = 0.0
        self.images = 0
        self.histogram = Histogram()
        self.channels: Tensor | None = None
