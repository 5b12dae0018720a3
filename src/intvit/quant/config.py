"""Typed quantization config: operator families, bit widths, observers, overrides by module name.

`conf/quant` composes it and holds the defaults, `intvit.config.values.build` makes it from plain values,
`QuantConfig.site` resolves the overrides for one module. No tensor lives here.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import Field

from intvit.arithmetic import GELU_FAMILIES, LAYERNORM_METHODS, SOFTMAX_FAMILIES
from intvit.config.presets import preset_values
from intvit.config.values import TypedConfig, build
from intvit.errors import IntVitError

OWN_FAMILY = ", or your own as MODULE:FUNCTION"
OPERAND_BITS, LOGIT_BITS = (2, 8), (4, 8)  # narrowest and widest

Group = Literal["softmax", "gelu"]
Normalization = Literal["deferred", "rounded", "floor"]
Observer = Literal["minmax", "percentile", "mse"]
OBSERVERS: tuple[Observer, ...] = typing.get_args(Observer)
OperandBits = Annotated[
    int, Field(ge=OPERAND_BITS[0], le=OPERAND_BITS[1], description="a matrix product takes 8-bit operands")
]
LogitBits = Annotated[
    int, Field(ge=LOGIT_BITS[0], le=LOGIT_BITS[1], description="softmax tables and shifts take 8-bit logits")
]
WideBits = Annotated[int, Field(ge=4, le=16)]
Segments = Annotated[int, Field(ge=1, le=64)]
Degree = Annotated[int, Field(ge=1, le=3)]
CoefficientBits = Annotated[int, Field(ge=8, le=24)]


class QuantConfigError(IntVitError):
    """A quantization config that cannot be built; the message names the key, the value and what is allowed."""


def _one_of(key: str, value: str, allowed: Collection[str], more: str = "") -> None:
    if value not in allowed:
        raise QuantConfigError(f"quant.{key}={value}: unknown, expected one of {', '.join(allowed)}{more}")


class QuantPart(TypedConfig):
    """A group of `quant`, or all of it."""

    error = QuantConfigError


@dataclass(frozen=True)
class SoftmaxConfig(QuantPart):
    """Integer softmax: exponent family and the normalization that all families share.

    normalization: `deferred` weighs the values relative to the row's largest weight and divides after the product;
    `rounded` makes unsigned rounded probabilities; `floor` the published signed, floored ones.
    Options of a family are null where it was chosen without them: see `family_options`.
    """

    family: str
    normalization: Normalization
    paper: bool | None = None  # ivit: x0 = floor(-1/scale) without added fraction bits
    segments: Segments | None = None  # ppoly
    degree: Degree | None = None
    coefficient_bits: CoefficientBits | None = None

    def __post_init__(self) -> None:
        _one_of("softmax.family", self.family, SOFTMAX_FAMILIES, OWN_FAMILY)


@dataclass(frozen=True)
class GeluConfig(QuantPart):
    """Integer GELU, or another activation. Options of a family as in `SoftmaxConfig`."""

    family: str
    paper: bool | None = None  # ivit: the published 8-bit sigmoid; otherwise 16 bits
    segments: Segments | None = None
    degree: Degree | None = None
    coefficient_bits: CoefficientBits | None = None

    def __post_init__(self) -> None:
        _one_of("gelu.family", self.family, GELU_FAMILIES, OWN_FAMILY)


def family_options(config: SoftmaxConfig | GeluConfig) -> dict[str, Any]:
    """What the family's derivation takes beside scales and widths.

    Where the family alone was chosen, as an override or `quant.gelu.family=ppoly` does, they are those of its preset.
    """
    group: Group = "softmax" if isinstance(config, SoftmaxConfig) else "gelu"
    families = SOFTMAX_FAMILIES if group == "softmax" else GELU_FAMILIES
    options = {key: getattr(config, key) for key in families[config.family].options}
    if None in options.values():
        preset = preset_options(group, config.family)
        options = {key: preset[key] if value is None else value for key, value in options.items()}
    return options


def preset_options(group: Group, family: str) -> dict[str, Any]:
    """The options of a family that its preset `quant/GROUP` gives."""
    families = SOFTMAX_FAMILIES if group == "softmax" else GELU_FAMILIES
    return {key: preset_values(f"quant/{group}", family)[key] for key in families[family].options}


@dataclass(frozen=True)
class LayerNormConfig(QuantPart):
    """Integer LayerNorm family."""

    family: str
    paper: bool | None = None  # ivit: ten Newton steps from 2^16 instead of the exact integer root

    def __post_init__(self) -> None:
        _one_of("layernorm.family", self.family, LAYERNORM_METHODS)


@dataclass(frozen=True)
class BitsConfig(QuantPart):
    """Bit width of every kind of site. A matmul operand has at most 8 bits, except probabilities."""

    weight: OperandBits
    activation: OperandBits
    logits: LogitBits
    probabilities: WideBits
    residual: WideBits
    residual_factors: bool  # power-of-two factor per channel on an 8-bit residual stream
    gelu_input: OperandBits | None  # of GELU's input, which only its table reads; None: as activations
    gelu_output: OperandBits | None  # of GELU's output, the widest product's operand; None: as activations
    edges: OperandBits | None  # of pixels, patch embedding, classifier and its input; None: as everywhere

    def __post_init__(self) -> None:
        if self.residual_factors and self.residual > 8:
            raise QuantConfigError(
                f"quant.bits.residual_factors=true with residual={self.residual}: "
                "factors serve a stream of at most 8 bits; set residual_factors=false"
            )

    def at_edge(self) -> BitsConfig:
        """Widths of pixels, patch embedding and classifier."""
        return self if self.edges is None else dataclasses.replace(self, weight=self.edges, activation=self.edges)


@dataclass(frozen=True)
class ObserverConfig(QuantPart):
    """How ranges are found. The residual stream and its norms are not clipped: a few huge channels carry the signal."""

    activation: Observer
    residual: Observer
    layernorm: Observer
    weight: Literal["minmax", "mse", "learned"]
    percentile: Annotated[float, Field(gt=50, le=100)]  # of |x|, for `percentile`
    bias_correction: bool  # keeps the means of float outputs: for approximations that shift them
    momentum: Annotated[float, Field(ge=0, lt=1)]  # of the running range while training


@dataclass(frozen=True)
class CalibrationConfig(QuantPart):
    """What calibration does beside finding ranges; every step folds into integers that a program has anyway.

    Those before `rounding` change parameters so that the float function stays what it is, and its codes get better.
    """

    rotation: Literal["none", "orthogonal"]  # of the residual stream, by a random matrix that keeps the mean
    centering: bool  # means of keys and values into biases
    heads: Literal["none", "hadamard"]  # queries with keys, values with their projection, turned inside each head
    offsets: bool  # skewed ranges of GELU's input and output into biases
    equalization: Literal["none", "search"]  # scale and offset per channel of LayerNorm outputs into their readers
    rounding: Literal["nearest", "gptq"]  # of weights
    damping: Annotated[float, Field(gt=0, le=1)]  # of gptq, share of the mean diagonal
    reconstruction: Annotated[int, Field(ge=0)]  # passes of learning over the images, at every stage; 0: none
    images: Annotated[int, Field(ge=1)]  # that these steps look at: the first of calibration's

    @property
    def by_stage(self) -> bool:
        """Whether weights are rounded stage by stage, on the codes of those before."""
        return self.rounding == "gptq" or self.reconstruction > 0

    @property
    def reparametrizes(self) -> bool:
        """Whether a step before the ranges changes parameters."""
        steps = self.rotation, self.heads, self.equalization
        return self.centering or self.offsets or any(step != "none" for step in steps)

    @property
    def ranges_alone(self) -> bool:
        """Whether nothing but ranges is looked for, for which float statistics suffice."""
        return not self.reparametrizes and not self.by_stage


@dataclass(frozen=True)
class SiteConfig(QuantPart):
    """What one module gets after the overrides."""

    softmax: SoftmaxConfig
    gelu: GeluConfig
    layernorm: LayerNormConfig
    bits: BitsConfig
    observer: ObserverConfig


@dataclass(frozen=True)
class QuantConfig(SiteConfig):
    """The whole `quant` group. `overrides` maps a module-name pattern (fnmatch) to the parts that it changes."""

    name: str
    enabled: bool  # false: float only (preset fp32)
    calibration: CalibrationConfig
    overrides: dict[str, Any]
    compile: bool  # training kernels by torch.compile: faster steps after a minute of compilation

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sites", set())
        object.__setattr__(self, "_edges", set())
        for pattern, parts in self.overrides.items():
            _merge(self._default_site(), parts, f"quant.overrides[{pattern}]")

    def site(self, name: str, *, edge: bool = False) -> SiteConfig:
        """Config of the module at path `name`: every matching override in order, later ones win.

        edge: it is of the pixels, the patch embedding or the classifier; said once, it holds for the name.
        """
        self._sites.add(name)  # type: ignore[attr-defined]
        site = self._default_site()
        if edge:
            self._edges.add(name)  # type: ignore[attr-defined]
        if name in self._edges:  # type: ignore[attr-defined]
            site = dataclasses.replace(site, bits=site.bits.at_edge())
        for pattern, parts in self.overrides.items():
            if fnmatchcase(name, pattern):
                site = _merge(site, parts, f"quant.overrides[{pattern}]")
        return site

    def _default_site(self) -> SiteConfig:
        return SiteConfig(**{part.name: getattr(self, part.name) for part in dataclasses.fields(SiteConfig)})

    @property
    def sites(self) -> list[str]:
        """Every module that a model has asked for, sorted."""
        return sorted(self._sites)  # type: ignore[attr-defined]

    def check_overrides(self) -> None:
        """Raise QuantConfigError for an override that matches none of the sites that a model has asked for."""
        for pattern in self.overrides:
            if not any(fnmatchcase(name, pattern) for name in self.sites):
                raise QuantConfigError(f"quant.overrides[{pattern}]: matches none of {', '.join(self.sites)}")


def _merge(config: SiteConfig, parts: Any, where: str) -> SiteConfig:
    if not isinstance(parts, Mapping):
        raise QuantConfigError(f"{where}={parts}: expected groups of keys, such as bits: {{weight: 8}}")
    groups = [part.name for part in dataclasses.fields(SiteConfig)]
    changes: dict[str, Any] = {}
    for key, values in parts.items():
        if key not in groups or not isinstance(values, Mapping):
            raise QuantConfigError(f"{where}.{key}: expected a group, one of {', '.join(groups)}")
        part = getattr(config, key)
        changes[key] = build(type(part), {**dataclasses.asdict(part), **values}, f"{where}.{key}")
    return dataclasses.replace(config, **changes)
