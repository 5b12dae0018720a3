"""The cost of widths, found without recording them, is that of the recorded program."""

from typing import Any

import pytest
import torch

from intvit.export.record import record
from intvit.search.budget import Budget, usage
from intvit.search.choices import choices, merged
from intvit.search.cost_model import CostModel
from tests.support.small_analyzed_models import small_model


@pytest.mark.parametrize("name", ["deit_t", "swin_t"])
def test_bytes_and_bit_operations_are_those_of_the_recorded_program(name: str) -> None:
    small = small_model(name, "lut8")

    def program(overrides: dict[str, Any]):
        return record(small.variant(overrides))

    widths = [
        choice for choice in choices(small, {"weight": [3, 5], "activation": [3, 5]}, widest=8) if choice.is_width
    ]
    base = usage(program({}), prove=False)
    cost_model = CostModel(program, widths, base)
    assert cost_model.bytes([choice.base for choice in widths]) == base.bytes
    assert cost_model.bitops([choice.base for choice in widths]) == base.bitops
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        chosen = torch.randint(0, 3, (len(widths),), generator=generator).tolist()
        bits = [(choice.base, 3, 5)[pick] for choice, pick in zip(widths, chosen, strict=True)]
        changed = [choice.options[bit] for choice, bit in zip(widths, bits, strict=True) if bit != choice.base]
        used = usage(program(merged(changed)), prove=False)
        assert cost_model.bytes(bits) == used.bytes
        assert cost_model.bitops(bits) == used.bitops
    products = Budget({"bitops": 1.0})
    feeding = {(choice.site, choice.key) for i, choice in enumerate(widths) if cost_model.matters(i, products)}
    assert any(site.startswith("head") and key == "weight" for site, key in feeding)
    assert not any(site.endswith("mlp.fc1") and key == "activation" for site, key in feeding)  # only the GELU reads it


@pytest.mark.parametrize("name", ["deit_t", "swin_t"])
def test_four_bit_activations_are_choices_of_every_product_where_they_are_asked_for(name: str) -> None:
    small = small_model(name, "lut8")
    for asked, widest in (([4], 4), ([6, 7], 6)):
        found = [choice for choice in choices(small, {"weight": [3], "activation": asked}, 16) if choice.is_width]
        assert {value for choice in found if choice.key == "activation" for value in choice.options} == set(asked)
        assert {value for choice in found if choice.key == "weight" for value in choice.options} == {3}
        program = record(small.variant(merged(choice.options[min(choice.options)] for choice in found)))
        products = [operator for operator in program.operators if operator.op in ("linear", "matmul")]
        operands = [program.values[name] for operator in products for name in operator.inputs]
        signed = [value.bits for value in operands if value.signed]  # softmax weights are no activations
        assert max(signed) == widest
        assert len(signed) >= len(products)
