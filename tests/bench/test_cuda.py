"""What the cuda runtime's benchmark counts, and what it says without a GPU."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from intvit.bench.cuda import floor_seconds, peak_operations, work
from intvit.commands import main
from intvit.program.cost import macs
from intvit.runtime.cuda.lowering import lower
from tests.support.random_programs import random_program


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_the_plans_operations_are_the_programs_products(seed: int, fuse: bool) -> None:
    program = random_program(seed)
    steps = work(lower(program, fuse=fuse), 3)
    assert sum(step.operations for step in steps) == 2 * 3 * macs(program)


def test_every_steps_bytes_are_its_tensors_and_constants() -> None:
    program = random_program(1)
    plan = lower(program, fuse=True)
    one, two = (sum(step.bytes for step in work(plan, batch)) for batch in (1, 2))
    constants = sum(array.nbytes for step in plan.steps for array in step.constants.values())
    image = int(np.prod(program.values["image"].shape))
    assert one > constants + image
    assert two - one < one - constants + 1  # constants are read once for any batch


def test_the_floor_is_the_slower_of_bytes_and_operations() -> None:
    steps = work(lower(random_program(2), fuse=True), 1)
    moved, products = (sum(getattr(step, key) for step in steps) for key in ("bytes", "operations"))
    assert floor_seconds(steps, 1.0, float("inf")) == pytest.approx(moved)
    assert floor_seconds(steps, float("inf"), 1.0) == pytest.approx(products)


def test_the_peak_is_that_of_the_data_sheet() -> None:
    card = SimpleNamespace(major=9, minor=0, multi_processor_count=132, clock_rate=1_830_000)
    assert peak_operations(card) == pytest.approx(1979e12, rel=0.001)
    assert peak_operations(SimpleNamespace(major=7, minor=0, multi_processor_count=80)) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "runtime", "--device", "cuda"])
    assert ended.value.code == 1
    assert "torch sees none here" in capsys.readouterr().err
