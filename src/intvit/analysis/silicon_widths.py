"""Where tables stop being cheap: exponentials of every family, at logits of 8, 12 and 16 bits, as units of their own.

A unit takes a distance from the row's maximum and gives a weight of 8 bits, by a shift (`quant/hardware=dsp17`). Logits
reach from -8 to 8, whatever their bits, in rows of 197; the logits of a program have at most 8 bits.
"""

from __future__ import annotations

import numpy as np
import torch

from intvit.analysis.silicon import Size, measured
from intvit.arithmetic import SOFTMAX_FAMILIES, derive_weights, exponent_table, to_fields, weight_table
from intvit.arithmetic.hardware import power_of_two
from intvit.export.rtl.functions import exponential_unit
from intvit.export.rtl.site import STREAM, multiplied
from intvit.export.rtl.unit import Unit, instance, words
from intvit.quant.config import preset_options

FAMILIES = {"ivit": "shift", "ibert": "polynomial", "ppoly": "piecewise", "lut": "table"}
WIDTHS = (8, 12, 16)
TOKENS, REACH, WEIGHT_BITS = 197, 8.0, 8


def synthesize_widths(*, seconds: float = 900) -> dict[tuple[str, int], Size]:
    """(kind, bits of the logits) -> size; minutes. Raises IntVitError as `silicon.synthesize` does."""
    return {
        (kind, bits): measured(exponential_alone(family, bits), seconds)
        for bits in WIDTHS
        for family, kind in FAMILIES.items()
    }


def exponential_alone(family: str, bits: int) -> Unit:
    """Weights of `bits`-bit logits by a family, computed or, of `lut`, looked up; its vectors are all distances."""
    exponent = SOFTMAX_FAMILIES[family](REACH / 2 ** (bits - 1), TOKENS, bits, **preset_options("softmax", family))
    exponentials = exponent_table(exponent, bits)
    m, e = derive_weights(exponentials, WEIGHT_BITS, TOKENS)
    text, memories = "    assign in_ready = 1'b1;\n", {}
    if family == "lut":
        weights = weight_table(exponentials, m, e, WEIGHT_BITS).numpy()
        memories["table.hex"] = (words(weights, WEIGHT_BITS), WEIGHT_BITS)
        parameters = {"AW": bits, "OW": WEIGHT_BITS, "FILE": '"table.hex"'}
        ports = {**STREAM, "in": "in", "out_valid": "out_valid", "out": "out"}
        text += instance("table_lookup", "family", parameters, ports)
    else:
        m, e = power_of_two(m, e)
        weights = weight_table(exponentials, m, e, WEIGHT_BITS).numpy()
        attributes, tensors = to_fields(exponent)
        plain = {key: int(v) if isinstance(v, torch.Tensor) else v for key, v in attributes.items()}
        constants = {role: tensor.numpy() for role, tensor in tensors.items()}
        function, width, _ = exponential_unit(plain, constants, bits, int(exponentials.max()))
        text += f"    wire [{bits - 1}:0] distance = in;\n    wire distance_valid = in_valid;\n" + function
        text += multiplied(width + 1, "{1'b0, value}", int(m), int(e), WEIGHT_BITS, signed=False)
    kind, form = FAMILIES[family], "table" if family == "lut" else "computed"
    given = words(np.arange(2**bits), bits), words(weights, WEIGHT_BITS)
    name = f"exponential_{kind}_{bits}"
    return Unit(name, f"exponential {kind}", form, text, bits, WEIGHT_BITS, *given, memories=memories)
