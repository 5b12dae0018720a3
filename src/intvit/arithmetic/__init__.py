"""The arithmetic: pure functions on integer tensors that define every operator, and their derivation from real scales.

Normative functions take integer tensors and return int64; nothing inside them is floating point. Functions named
`*_float64`, `*_from_table`, `*_table` and `float_matmul` are faster forms with equal results (tests/arithmetic).
Functions named `derive*` and `encode*` turn real scales (float64 of no axis, or Python's numbers) into integers, on the
scales' device and without reading the host: `validity.py` says how their checks are deferred and sites batched.
"""

from intvit.arithmetic import elementary
from intvit.arithmetic.activations import GELU_FAMILIES
from intvit.arithmetic.deferred import (
    derive_mean,
    derive_weights,
    exponential,
    exponential_from_table,
    largest_weight,
    lowered,
    weight_table,
    weighted_mean,
    weighted_mean_float64,
)
from intvit.arithmetic.dense import argmax, interpolation, upsample, upsample_float64
from intvit.arithmetic.dyadic import (
    add,
    add_float64,
    container,
    divide,
    encode_pair,
    encode_ratios,
    input_parameters,
    limits,
    quantize_input,
    real_multiplier,
    requantize,
    requantize_float64,
    round_to,
    shift_cap,
)
from intvit.arithmetic.exponent import (
    EXPONENT_KINDS,
    Exponent,
    FloatExponent,
    PiecewiseExponent,
    PolynomialExponent,
    ShiftExponent,
    TableExponent,
    exponent_table,
)
from intvit.arithmetic.exponentials import SOFTMAX_FAMILIES
from intvit.arithmetic.families import Families, Family
from intvit.arithmetic.fields import (
    from_fields,
    to_fields,
)
from intvit.arithmetic.gelu import (
    GELU_KINDS,
    FloatGelu,
    Gelu,
    PiecewiseGelu,
    PolynomialGelu,
    ShiftGelu,
    TableGelu,
    apply_gelu_table,
    gelu_table,
)
from intvit.arithmetic.layernorm import (
    LAYERNORM_METHODS,
    LayerNormParameters,
    Normalizer,
    derive_affine,
    derive_layernorm,
    derive_normalizer,
    layernorm,
    layernorm_float64,
    normalized,
    normalized_float64,
)
from intvit.arithmetic.matmul import (
    exact_length,
    float_matmul,
    integer_matmul,
)
from intvit.arithmetic.roots import (
    integer_sqrt,
    integer_sqrt_float64,
    newton_sqrt,
)
from intvit.arithmetic.softmax import (
    NORMALIZATIONS,
    normalize,
    normalize_float64,
    probability_range,
    softmax,
    softmax_from_table,
)
from intvit.arithmetic.validity import Checks, batched, deferred_checks, require

__all__ = [
    "EXPONENT_KINDS",
    "GELU_FAMILIES",
    "GELU_KINDS",
    "LAYERNORM_METHODS",
    "NORMALIZATIONS",
    "SOFTMAX_FAMILIES",
    "Checks",
    "Exponent",
    "Families",
    "Family",
    "FloatExponent",
    "FloatGelu",
    "Gelu",
    "LayerNormParameters",
    "Normalizer",
    "PiecewiseExponent",
    "PiecewiseGelu",
    "PolynomialExponent",
    "PolynomialGelu",
    "ShiftExponent",
    "ShiftGelu",
    "TableExponent",
    "TableGelu",
    "add",
    "add_float64",
    "apply_gelu_table",
    "argmax",
    "batched",
    "container",
    "deferred_checks",
    "derive_affine",
    "derive_layernorm",
    "derive_mean",
    "derive_normalizer",
    "derive_weights",
    "divide",
    "elementary",
    "encode_pair",
    "encode_ratios",
    "exact_length",
    "exponent_table",
    "exponential",
    "exponential_from_table",
    "float_matmul",
    "from_fields",
    "gelu_table",
    "input_parameters",
    "integer_matmul",
    "integer_sqrt",
    "integer_sqrt_float64",
    "interpolation",
    "largest_weight",
    "layernorm",
    "layernorm_float64",
    "limits",
    "lowered",
    "newton_sqrt",
    "normalize",
    "normalize_float64",
    "normalized",
    "normalized_float64",
    "probability_range",
    "quantize_input",
    "real_multiplier",
    "requantize",
    "requantize_float64",
    "require",
    "round_to",
    "shift_cap",
    "softmax",
    "softmax_from_table",
    "to_fields",
    "upsample",
    "upsample_float64",
    "weight_table",
    "weighted_mean",
    "weighted_mean_float64",
]
