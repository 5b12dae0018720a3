"""The arithmetic: pure functions on integer tensors that define every operator, and their derivation from real scales.

Normative functions take integer tensors and return int64; nothing inside them is floating point. Functions named
`*_float64`, `*_from_table`, `*_table` and `float_matmul` are faster forms with equal results (tests/arithmetic).
Functions named `derive*` and `encode*` turn real scales into integers, on the CPU.
"""

from intvit.arithmetic.dyadic import (
    add,
    add_float64,
    container,
    divide,
    encode_pair,
    encode_ratio,
    encode_ratios,
    input_parameters,
    limits,
    quantize_input,
    real_multiplier,
    requantize,
    requantize_float64,
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
from intvit.arithmetic.gelu_families import (
    GELU_FAMILIES,
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
from intvit.arithmetic.softmax_families import (
    SCALE_RANGE,
    SOFTMAX_FAMILIES,
)

__all__ = [
    "EXPONENT_KINDS",
    "GELU_FAMILIES",
    "GELU_KINDS",
    "LAYERNORM_METHODS",
    "NORMALIZATIONS",
    "SCALE_RANGE",
    "SOFTMAX_FAMILIES",
    "Exponent",
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
    "container",
    "derive_affine",
    "derive_layernorm",
    "derive_normalizer",
    "divide",
    "encode_pair",
    "encode_ratio",
    "encode_ratios",
    "exact_length",
    "exponent_table",
    "float_matmul",
    "from_fields",
    "gelu_table",
    "input_parameters",
    "integer_matmul",
    "integer_sqrt",
    "integer_sqrt_float64",
    "layernorm",
    "layernorm_float64",
    "limits",
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
    "shift_cap",
    "softmax",
    "softmax_from_table",
    "to_fields",
]
