"""What steps cost: tables beside arithmetic, at both technologies."""

import pytest

from intvit.program.cost import EXPONENT_STEPS, GELU_STEPS, NM_7, NM_45, Steps, Technology, operator_costs, totals
from tests.support.random_programs import random_program


@pytest.mark.parametrize("at", [NM_45, NM_7], ids=["45 nm", "7 nm"])
def test_a_small_table_costs_less_than_any_family_that_computes(at: Technology) -> None:
    for family in (EXPONENT_STEPS, GELU_STEPS):
        computed = [steps.energy(at) for kind, steps in family.items() if kind != "table"]
        assert family["table"].energy(at) < min(computed) / 10
    assert at.look_up < at.small_read / 8


def test_energies_are_sums_of_published_figures() -> None:
    steps = Steps(multiplications=2, additions=3, divisions=1)
    assert steps.energy(NM_45) == pytest.approx(2 * 3.1 + 3 * 0.1 + 64 * 0.1)
    assert steps.energy(NM_7) == pytest.approx(2 * 1.48 + 3 * 0.03 + 64 * 0.03)


def test_every_operator_costs_less_at_7_nm_and_totals_are_sums() -> None:
    costs = operator_costs(random_program(1))
    assert all(0 < cost.energy_7nm < cost.energy for cost in costs)
    assert totals(costs)["energy_7nm"] == sum(cost.energy_7nm for cost in costs)
