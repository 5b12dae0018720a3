"""Typed quantization config: operator families, bit widths, observers, overrides by module name.

`conf/quant` composes it, `intvit.config.values.build` makes it from plain values, `QuantConfig.site` resolves the
overrides for one module. No tensor lives here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from intvit.arithmetic import GELU_FAMILIES, LAYERNORM_METHODS, SOFTMAX_FAMILIES
from intvit.config.values import build
from intvit.errors import IntVitError

NORMALIZATIONS = ("deferred", "rounded", "floor")
OBSERVERS = ("minmax", "percentile", "mse")
OWN_FAMILY = ", or your own as MODULE:FUNCTION"
OPERAND_BITS, LOGIT_BITS = (2, 8), (4, 8)  # narrowest and widest


class QuantConfigError(IntVitError):
    """A quantization config that cannot be built; the message names the key, the value and what is allowed."""


def _one_of(key: str, value: str, allowed: Collection[str], more: str = "") -> None:
    if value not in allowed:
        raise QuantConfigError(f"quant.{key}={value}: unknown, expected one of {', '.join(allowed)}{more}")


def _within(key: str, value: int, low: int, high: int, why: str = "") -> None:
    if not low <= value <= high:
        raise QuantConfigError(f"quant.{key}={value}: expected {low} to {high}{why}")


@dataclass(frozen=True)
class SoftmaxConfig:
    """Integer softmax: exponent family and the normalization that all families share.

    normalization: `deferred` weighs the values relative to the row's largest weight and divides after the product;
    `rounded` makes unsigned rounded probabilities; `floor` the published signed, floored ones.
    """

    family: str = "lut"
    normalization: str = "deferred"  # a tenth of the error of 8-bit probabilities in the scores of real DeiT-T
    paper: bool = False  # ivit: x0 = floor(-1/scale) without added fraction bits
    segments: int = 8  # ppoly: 8 quadratic pieces are within one step of the table at 8 bits
    degree: int = 2
    coefficient_bits: int = 16

    def __post_init__(self) -> None:
        _one_of("softmax.family", self.family, SOFTMAX_FAMILIES, OWN_FAMILY)
        _one_of("softmax.normalization", self.normalization, NORMALIZATIONS)
        _check_pieces("softmax", self)


@dataclass(frozen=True)
class GeluConfig:
    """Integer GELU family."""

    family: str = "lut"
    paper: bool = False  # ivit: the published 8-bit sigmoid; otherwise 16 bits
    segments: int = 8
    degree: int = 2
    coefficient_bits: int = 16

    def __post_init__(self) -> None:
        _one_of("gelu.family", self.family, GELU_FAMILIES, OWN_FAMILY)
        _check_pieces("gelu", self)


def family_options(config: SoftmaxConfig | GeluConfig) -> dict[str, Any]:
    """What the family's derivation takes beside scales and widths."""
    families = SOFTMAX_FAMILIES if isinstance(config, SoftmaxConfig) else GELU_FAMILIES
    return {key: getattr(config, key) for key in families[config.family].options}


def _check_pieces(key: str, config: SoftmaxConfig | GeluConfig) -> None:
    _within(f"{key}.segments", config.segments, 1, 64)
    _within(f"{key}.degree", config.degree, 1, 3)
    _within(f"{key}.coefficient_bits", config.coefficient_bits, 8, 24)


@dataclass(frozen=True)
class LayerNormConfig:
    """Integer LayerNorm family."""

    family: str = "exact"
    paper: bool = False  # ivit: ten Newton steps from 2^16 instead of the exact integer root

    def __post_init__(self) -> None:
        _one_of("layernorm.family", self.family, LAYERNORM_METHODS)


@dataclass(frozen=True)
class BitsConfig:
    """Bit width of every kind of site. A matmul operand has at most 8 bits, except probabilities."""

    weight: int = 8
    activation: int = 8
    logits: int = 8
    probabilities: int = 8
    residual: int = 16
    residual_factors: bool = False  # power-of-two factor per channel on an 8-bit residual stream

    def __post_init__(self) -> None:
        operand = " (a matrix product takes 8-bit operands)"
        _within("bits.weight", self.weight, *OPERAND_BITS, operand)
        _within("bits.activation", self.activation, *OPERAND_BITS, operand)
        _within("bits.logits", self.logits, *LOGIT_BITS, " (softmax tables and shifts take 8-bit logits)")
        _within("bits.probabilities", self.probabilities, 4, 16)
        _within("bits.residual", self.residual, 4, 16)
        if self.residual_factors and self.residual > 8:
            raise QuantConfigError(
                f"quant.bits.residual_factors=true with residual={self.residual}: "
                "factors serve a stream of at most 8 bits; set residual_factors=false"
            )


@dataclass(frozen=True)
class ObserverConfig:
    """How ranges are found. The residual stream and its norms are not clipped: a few huge channels carry the signal."""

    activation: str = "mse"  # the smallest squared error: worth a point over min-max on real DeiT-T
    residual: str = "minmax"
    layernorm: str = "minmax"  # clipped at the smallest squared error, twice the error of the scores on real DeiT-T
    weight: str = "mse"  # matters below 8 bits, harmless at 8
    percentile: float = 99.99  # of |x|, for `percentile`
    bias_correction: bool = False  # keeps the means of float outputs: for approximations that shift them
    momentum: float = 0.99  # of the running range while training

    def __post_init__(self) -> None:
        for key in ("activation", "residual", "layernorm"):
            _one_of(f"observer.{key}", getattr(self, key), OBSERVERS)
        _one_of("observer.weight", self.weight, ("minmax", "mse"))
        if not 50.0 < self.percentile <= 100.0:
            raise QuantConfigError(f"quant.observer.percentile={self.percentile}: expected above 50, at most 100")
        if not 0.0 <= self.momentum < 1.0:
            raise QuantConfigError(f"quant.observer.momentum={self.momentum}: expected at least 0, below 1")


@dataclass(frozen=True)
class SiteConfig:
    """What one module gets after the overrides."""

    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)
    gelu: GeluConfig = field(default_factory=GeluConfig)
    layernorm: LayerNormConfig = field(default_factory=LayerNormConfig)
    bits: BitsConfig = field(default_factory=BitsConfig)
    observer: ObserverConfig = field(default_factory=ObserverConfig)


@dataclass(frozen=True)
class QuantConfig(SiteConfig):
    """The whole `quant` group. `overrides` maps a module-name pattern (fnmatch) to the parts that it changes."""

    name: str = "lut8"
    enabled: bool = True  # false: float only (preset fp32)
    overrides: dict[str, Any] = field(default_factory=dict)
    compile: bool = False  # training kernels by torch.compile: faster steps after a minute of compilation

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sites", set())
        for pattern, parts in self.overrides.items():
            _merge(self._default_site(), parts, f"quant.overrides[{pattern}]")

    def site(self, name: str) -> SiteConfig:
        """Config of the module at path `name`: every matching override in order, later ones win."""
        self._sites.add(name)  # type: ignore[attr-defined]
        site = self._default_site()
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


_PARTS: dict[str, type] = {
    "softmax": SoftmaxConfig,
    "gelu": GeluConfig,
    "layernorm": LayerNormConfig,
    "bits": BitsConfig,
    "observer": ObserverConfig,
}


def _merge(config: Any, parts: Any, where: str) -> Any:
    if not isinstance(parts, Mapping):
        raise QuantConfigError(f"{where}={parts}: expected groups of keys, such as bits: {{weight: 8}}")
    changes = {}
    for key, values in parts.items():
        if key not in _PARTS or not isinstance(values, Mapping):
            raise QuantConfigError(f"{where}.{key}: expected a group, one of {', '.join(_PARTS)}")
        part = getattr(config, key)
        merged = {**{f.name: getattr(part, f.name) for f in dataclasses.fields(part)}, **values}
        changes[key] = build(_PARTS[key], merged, f"{where}.{key}")
    return dataclasses.replace(config, **changes)
