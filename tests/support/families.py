"""Derivations with the options of their family's preset, where a test names none."""

from typing import Any

from intvit.arithmetic import GELU_FAMILIES, SOFTMAX_FAMILIES
from intvit.quant.config import preset_options


def exponent_of(family: str, *scales: Any, **options: Any) -> Any:
    return SOFTMAX_FAMILIES[family](*scales, **{**preset_options("softmax", family), **options})


def gelu_of(family: str, *scales: Any, **options: Any) -> Any:
    return GELU_FAMILIES[family](*scales, **{**preset_options("gelu", family), **options})
