"""Derived integers are equal on every processor: whatever instructions and libraries a process is held to.

fingerprint.json is the golden value, made by `python -m tests.support.fingerprint`. A change of it means that the same
weights and ranges give other integers than before: then every hash that moved needs a reason.

From equal images, calibration may still find other ranges on another processor: the float forward pass, and the sums
over histograms and rounding errors that choose a clip limit, depend on the order of additions. What it finds is state
(`Quantizer.statistic`, `clip`, `factors`, `Linear.clip`, `correction`), stored in the checkpoint and never derived
again: the last test.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from intvit.calibration import calibrate
from tests.support import fingerprint
from tests.support.quick import slow_but

GOLDEN = json.loads(Path(__file__).with_name("fingerprint.json").read_text())
LOWEST = "ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Haswell DNNL_MAX_CPU_ISA=SSE41"
ONE_BY_ONE = [  # each beside what the processor has
    "ATEN_CPU_CAPABILITY=default",
    "ATEN_CPU_CAPABILITY=avx2",
    "ATEN_CPU_CAPABILITY=avx512",
    "MKL_CBWR=COMPATIBLE",
    "MKL_CBWR=AVX2",
    "OPENBLAS_CORETYPE=Haswell",
    "OPENBLAS_CORETYPE=SkylakeX",
    "OMP_NUM_THREADS=1",
    "DNNL_MAX_CPU_ISA=SSE41",
]


@pytest.fixture(scope="module")
def stored_state(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """File of calibrated states, and the programs that they give on this processor as it is."""
    path, states, hashes = tmp_path_factory.mktemp("state") / "state.pt", {}, {}
    images = torch.randint(0, 256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for name in fingerprint.MODELS:
        for preset in fingerprint.FEW_PRESETS:
            model = fingerprint.small_model(preset, name)
            calibrate(model, [images])
            states[f"{name} {preset}"] = model.state_dict()
            hashes[f"stored {name} {preset}"] = fingerprint.hash_of(fingerprint.record(model))
    torch.save(states, path)
    return path, hashes


@pytest.mark.parametrize("settings", slow_but((LOWEST,), ("OMP_NUM_THREADS=2", LOWEST, *ONE_BY_ONE)))
def test_every_processor_derives_the_golden_integers_and_a_stored_state_gives_its_program(settings, stored_state):
    path, hashes = stored_state
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.fingerprint", "--state", str(path)],
        env=os.environ | dict(setting.split("=") for setting in settings.split()),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(process.stdout)
    expected = GOLDEN | hashes
    assert {key for key in expected if found.get(key) != expected[key]} == set()
    assert found.keys() == expected.keys()
