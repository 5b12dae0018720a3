"""Quantizer: the clip range of one tensor, and the requantization of accumulators into it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from intvit.arithmetic import encode_ratios
from intvit.errors import IntVitError
from intvit.quant.config import ObserverConfig, QuantConfigError, SiteConfig
from intvit.quant.layer import Layer
from intvit.quant.observer import Histogram, all_reduce, mse_limit, percentile_limit
from intvit.quant.tensor import QTensor, Scale, Symbol, power_of_two

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
        self.collected: list[Collected] = []  # one of each group, until `finish`

    @classmethod
    def of_stream(cls, channels: int, site: SiteConfig) -> Quantizer:
        """The range of a residual stream of `channels` channels."""
        factors = channels if site.bits.residual_factors else None
        return cls(site.bits.residual, site.observer.residual, site.observer, channels=factors, stream=True)

    def form(self) -> tuple[Any, ...]:
        """What the range depends on beside the data."""
        return self.bits, self.method, self.percentile, self.smallest_scale, self.grid, self.factors is None

    # ---------------------------------------------------------------- ranges

    def scales(self) -> tuple[float, ...]:
        """One positive real scale per group."""
        largest = 2 ** (self.bits - 1) - 1
        values = (self.statistic * self.clip).tolist()
        if any(math.isnan(value) for value in values):
            raise IntVitError(f"{self.name}: no range yet; calibrate(model, images) comes first")
        return tuple(self._on_grid(max(value / largest, self.smallest_scale)) for value in values)

    def _on_grid(self, scale: float) -> float:
        if self.grid is None:
            return scale
        steps = round(1.0 / (self.grid * scale))
        return scale if steps < 1 else 1.0 / (self.grid * (steps - 2.0**-20))  # a little less: it is rounded up

    def scale(self) -> Scale:
        """The scale alone when there is one group, else the tuple."""
        scales = self.scales()
        return scales[0] if self.groups == 1 else scales

    def single_scale(self) -> float:
        """The scale of a tensor in one group."""
        (scale,) = self.scales()
        return scale

    def channel_scale(self, channels: int, device: torch.device) -> Tensor:
        """float64 (channels,) or (1,): real value of one step per channel, factors included."""
        scales = torch.tensor(self.scales(), dtype=torch.float64, device=device)
        if self.factors is not None:
            return scales / power_of_two(self.factors)
        return scales if self.groups == 1 else scales.repeat_interleave(channels // self.groups)

    # ---------------------------------------------------------------- calibration

    @torch.no_grad()
    def collect(self, x: Tensor) -> None:
        """Add a batch of real values (B, ..., C) to the calibration statistics."""
        if not self.collected:
            self.collected = [Collected() for _ in range(self.groups)]
        for part, collected in zip(x.detach().chunk(self.groups, -1), self.collected, strict=True):
            magnitudes = part.abs()
            largest = float(magnitudes.max())
            if not math.isfinite(largest):
                raise IntVitError(
                    f"{self.name}: calibration met {largest}; the weights (or a training before) diverged"
                )
            collected.largest = max(collected.largest, largest)
            collected.image_sum += float(magnitudes.flatten(1).amax(1).double().sum())
            collected.images += len(part)
            if self.method != "minmax":
                collected.histogram.add(magnitudes)
            if self.factors is not None:
                channels = magnitudes.flatten(0, -2).amax(0).double()
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
        """Whether the range follows the data at present."""
        return self.training and not self.frozen

    @torch.no_grad()
    def observe(self, values: Tensor, scale: Tensor | float) -> None:
        """Move the running statistic towards a batch of accumulators (B, ..., C) with `scale` (scalar or (C,))."""
        batch, channels = values.shape[0], values.shape[-1]
        flat = values.reshape(batch, -1, channels)
        if isinstance(scale, float) and self.factors is None:
            magnitudes = torch.maximum(flat.view(batch, -1).amax(1), -flat.view(batch, -1).amin(1))[:, None] * scale
        else:
            magnitudes = torch.maximum(flat.amax(1), -flat.amin(1)).double() * scale
        if self.factors is not None:
            magnitudes = magnitudes.double() * power_of_two(self.factors)
        magnitudes = magnitudes.double().view(batch, self.groups, -1).amax(2)
        statistic = magnitudes.amax(0) if self.method == "minmax" else magnitudes.mean(0)
        statistic = all_reduce(statistic, "max" if self.method == "minmax" else "mean")
        # In two steps, each rounded alike everywhere: lerp_ fuses them on some processors, and ranks would drift apart.
        self.statistic.add_((statistic - self.statistic) * (1.0 - self.momentum))

    # ---------------------------------------------------------------- requantization

    def multipliers(self, scale: Tensor | float, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(m, e) that take accumulators of `scale` to this range; int64, shape (1,) or (channels,)."""
        accumulator = torch.as_tensor(scale, dtype=torch.float64, device=device)
        return encode_ratios(accumulator / self.channel_scale(channels, device), self.bits)

    def forward(self, x: QTensor | Symbol) -> QTensor | Symbol:
        """Accumulators to codes: clamp((acc*m + 2^(e-1)) >> e). The gradient passes through the handle."""
        if isinstance(x, Symbol):
            return self.record(x)
        if self.observing:
            self.observe(x.values, x.accumulator_step)
        multiplier, shift = self.multipliers(x.accumulator_step, x.values.shape[-1], x.values.device)
        values = self.kernels.requantize(x.values, multiplier, shift, self.bits)
        return QTensor(values, x.handle, self.scale(), self.bits, self.factors)

    def record(self, x: Symbol) -> Symbol:
        """Emit `requantize`."""
        multiplier, shift = self.multipliers(x.accumulator_step, x.shape[-1], torch.device("cpu"))
        return x.builder.emit(
            "requantize",
            self.name,
            [x],
            shape=x.shape,
            bits=self.bits,
            scale=self.scale(),
            factors=self.factors,
            attributes={"bits": self.bits, "signed": True},
            constants={"multiplier": (multiplier.view(-1), 32, True), "shift": (shift.view(-1), 8, True)},
        )


class Collected:
    """Calibration statistics of one group."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.image_sum = 0.0
        self.images = 0
        self.histogram = Histogram()
        self.channels: Tensor | None = None
