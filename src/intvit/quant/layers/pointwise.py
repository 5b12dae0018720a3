"""GELU layer, and other activations: codes to codes through a table that the exact integer arithmetic fills."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intvit.arithmetic import GELU_FAMILIES, gelu_table
from intvit.arithmetic.activations import shifted_table
from intvit.arithmetic.families import Family
from intvit.arithmetic.hardware import shortened
from intvit.errors import IntVitError
from intvit.quant.config import GeluConfig, HardwareConfig, SiteConfig, family_options
from intvit.quant.kernels import Kernels
from intvit.quant.layer import Layer
from intvit.quant.quantizer import SMALLEST_FUNCTION_SCALE, Quantizer
from intvit.quant.tensor import AnyTensor, Derived, Integers, QTensor, Symbol, fields_for_emit, handle


def activation_family(config: GeluConfig, function: str) -> tuple[Family, Callable[[Tensor], Tensor]]:
    """(family, float function) of a model's activation `function`: gelu, or a family of its own name.

    The model says which function, the config how it is approximated. A family that stands for another function than
    GELU is an activation that the user has chosen, and remains. An approximation of GELU serves gelu_tanh, too, which
    is within 5e-4 of it, but for the tables `lut` and `float`, which are then those of gelu_tanh. Any other function
    (QuickGELU is up to 0.02 away) has its own table, whatever the preset.

    Raises IntVitError for an approximation of the user's own, which cannot be replaced by a table in silence.
    """
    chosen = GELU_FAMILIES[config.family]
    assert chosen.real is not None
    if function == "gelu" or chosen.real is not torch.nn.functional.gelu:
        return chosen, chosen.real
    own = GELU_FAMILIES[function]
    assert own.real is not None
    if config.family in ("lut", "float"):
        return own, own.real
    if function == "gelu_tanh":
        return chosen, own.real
    if chosen.foreign:
        raise IntVitError(
            f"quant.gelu.family={config.family} stands for GELU, the model's activation is {function}: give the "
            "function an attribute `real` if it is one of that, or take quant.gelu.family=lut"
        )
    return own, own.real


class GELU(Layer):
    """GELU, or another activation, of signed codes of at most 8 bits: see `activation_family`.

    before, after: float64 (), None for 0. The layer is function(x + before) - after, so that skewed ranges use all
    codes: the layer before has the one in its bias, the linear layers behind have the other as theirs. `shiftable` says
    which families can.
    """

    before: Tensor | None
    after: Tensor | None

    def __init__(self, site: SiteConfig, function: str = "gelu") -> None:
        super().__init__()
        self.config = site.gelu
        self.family, self.real = activation_family(site.gelu, function)
        self.options = family_options(site.gelu) if self.family.name == site.gelu.family else {}
        bits = site.bits.gelu_output or site.bits.activation
        self.output = Quantizer(bits, site.observer.activation, site.observer)
        self.register_buffer("before", None)
        self.register_buffer("after", None)
        self.derived: Derived  # Activation
        self.function: Derived  # RealFunction

    @staticmethod
    def input_quantizer(site: SiteConfig, activation: GELU) -> Quantizer:
        """The quantizer for the layer that feeds `activation`: widths of `site`, scales that suit the function."""
        return Quantizer(
            site.bits.gelu_input or site.bits.activation,
            site.observer.activation,
            site.observer,
            smallest_scale=SMALLEST_FUNCTION_SCALE,
            grid=activation.family.grid(activation.options),
        )

    @property
    def shiftable(self) -> bool:
        """Whether its integers can have offsets: a table can."""
        return self.family.exact is not None

    def shift(self, before: float, after: float) -> None:
        """From now on function(x + before) - after."""
        device = self.output.statistic.device
        self.before = torch.tensor(before, dtype=torch.float64, device=device)
        self.after = torch.tensor(after, dtype=torch.float64, device=device)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in ("before", "after"):  # a state of a model that has been calibrated with offsets
            if f"{prefix}{name}" in state and getattr(self, name) is None:
                setattr(self, name, torch.zeros_like(self.output.statistic[0]))
        super()._load_from_state_dict(state, prefix, *rest)

    def function_of(self, x: Tensor) -> Tensor:
        """The float function of reals."""
        if self.before is None or self.after is None:
            return self.real(x)
        return self.real(x + self.before.to(x.dtype)) - self.after.to(x.dtype)

    def forward(self, x: AnyTensor) -> AnyTensor:
        """Real or codes (B, ..., C) -> the same shape; Symbol: emit `gelu`."""
        if isinstance(x, Symbol):
            return self.record(x)
        if isinstance(x, QTensor):
            return self.integer(x)
        y = self.function_of(x)
        if self.calibrating:
            self.output.collect(y)
        return y

    def integer(self, x: QTensor) -> QTensor:
        """Codes to codes."""
        p: Activation = self.derived.value
        real: RealFunction = self.function.value
        kernels = self.kernels(x.values)
        values, extremes = kernels.gelu(x.values, p.table, self.output.observing)
        self.output.observe(extremes, real.magnitudes[0])
        gradient = ActivationGradient.apply(x.handle, x, real.derivative[0], kernels)
        return QTensor(values, gradient, self.output.step, self.output.bits)

    def record(self, x: Symbol) -> Symbol:
        """Emit `gelu`."""
        derive, output = x.builder.derive, self.output
        scale = output.request_scale(x.builder)
        form = {"bits": x.bits, "bits_out": output.bits, "family": self.family, **self.options}
        offsets = self.before, self.after
        self.derived = derive(activation, x.scale, scale, *offsets, site=self.name, **form)
        rows = [None if offset is None else offset[None] for offset in offsets]
        tensors = x.scale, scale, *rows
        self.function = derive(real_function, *tensors, real=self.real, bits=x.bits, site=self.name, rows=1)
        return x.builder.emit(
            "gelu",
            self.name,
            [x],
            shape=x.shape,
            bits=output.bits,
            scale=scale,
            integers=self._integers,
        )

    def _integers(self) -> Integers:
        held = fields_for_emit(self.derived.value.function)
        if table := held.constants.get("table"):  # of the output's codes: one of 4 bits is packed in a checkpoint
            held.constants["table"] = (table[0], self.output.bits, True)
        return held


@dataclass(frozen=True)
class Activation:
    """function: the family's parameters of the operator; table: the operator over all codes, see `gelu_table`."""

    function: Any
    table: Tensor

    def fitted(self, hardware: HardwareConfig) -> Activation:
        """With a shorter multiplier behind the function. A table has none."""
        if not hasattr(self.function, "multiplier"):
            return self
        shift, multiplier = shortened(self.function.shift, self.function.multiplier, form=hardware)
        function = dataclasses.replace(self.function, multiplier=multiplier, shift=shift)
        return Activation(function, gelu_table(function, self.table.shape[-1].bit_length() - 1))


def activation(
    scale_in: Tensor,
    scale_out: Tensor,
    before: Tensor | None,
    after: Tensor | None,
    *,
    bits: int,
    bits_out: int,
    family: Family,
    **options: Any,
) -> Activation:
    """The operator, from the scales of its input and output and its offsets, all of no axis."""
    if before is None or after is None:
        function = family(scale_in, scale_out, bits, bits_out, **options)
    else:
        if family.exact is None:
            raise IntVitError(
                f"quant.gelu.family={family.name} takes no offsets, the weights have some of another calibration: "
                "calibrate anew, or take quant.gelu.family=lut"
            )
        function = shifted_table(scale_in, scale_out, before, after, bits, bits_out, family.exact)
    return Activation(function, gelu_table(function, bits))


@dataclass(frozen=True)
class RealFunction:
    """The float function at every code of `bits` bits.

    derivative: float32 (rows, 2^bits), zero at both ends. magnitudes: |value| in steps of the output, float64.
    """

    derivative: Tensor
    magnitudes: Tensor


def real_function(
    scale_in: Tensor,
    scale_out: Tensor,
    before: Tensor | None,
    after: Tensor | None,
    *,
    real: Callable[[Tensor], Tensor],
    bits: int,
) -> RealFunction:
    """Of rows of scales and offsets."""
    half = 2 ** (bits - 1)
    codes = torch.arange(-half, half, device=scale_in.device)
    reals = codes * scale_in[:, None]
    shifted = reals if before is None else reals + before[:, None]
    with torch.inference_mode(False), torch.enable_grad():  # validation runs in inference mode
        points = codes.float() * scale_in[:, None].float()
        points = (points if before is None else shifted.float()).requires_grad_()
        (derivative,) = torch.autograd.grad(real(points).sum(), points)
    derivative[:, 0] = derivative[:, -1] = 0.0
    values = real(shifted) if after is None else real(shifted) - after[:, None]
    return RealFunction(derivative, values.abs() / scale_out[:, None])


class ActivationGradient(torch.autograd.Function):
    """Derivative of the float function at the input codes, zero where the input saturates."""

    @staticmethod
    def forward(ctx: Any, x_handle: Tensor, x: QTensor, derivative: Tensor, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(x.values, derivative)
        ctx.kernels = kernels
        return handle(*x.values.shape, device=x.values.device, dtype=x_handle.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        codes, derivative = ctx.saved_tensors
        return ctx.kernels.gelu_gradient(gradient, codes, derivative), None, None, None
