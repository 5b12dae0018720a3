"""The cost of widths, found without recording them, is that of the recorded program."""

from typing import Any

import pytest
import torch

from intvit.export.record import record
from intvit.search.budget import Budget, usage
from intvit.search.price import Price
from intvit.search.slots import merged, slots
from tests.support.small_subjects import subject


@pytest.mark.parametrize("name", ["deit_t", "swin_t"])
def test_bytes_and_bit_operations_are_those_of_the_recorded_program(name: str) -> None:
    small = subject(name, "lut8")

    def program(overrides: dict[str, Any]):
        return record(small.variant(overrides))

    widths = [slot for slot in slots(small, [3, 5], widest=8) if slot.is_width]
    base = usage(program({}), prove=False)
    price = Price(program, widths, base)
    assert price.bytes([slot.base for slot in widths]) == base.bytes
    assert price.bitops([slot.base for slot in widths]) == base.bitops
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        chosen = torch.randint(0, 3, (len(widths),), generator=generator).tolist()
        bits = [(slot.base, 3, 5)[pick] for slot, pick in zip(widths, chosen, strict=True)]
        changed = [slot.options[bit] for slot, bit in zip(widths, bits, strict=True) if bit != slot.base]
        used = usage(program(merged(changed)), prove=False)
        assert price.bytes(bits) == used.bytes
        assert price.bitops(bits) == used.bitops
    products = Budget({"bitops": 1.0})
    feeding = {(slot.site, slot.key) for i, slot in enumerate(widths) if price.matters(i, products)}
    assert any(site.startswith("head") and key == "weight" for site, key in feeding)
    assert not any(site.endswith("mlp.fc1") and key == "activation" for site, key in feeding)  # only the GELU reads it
