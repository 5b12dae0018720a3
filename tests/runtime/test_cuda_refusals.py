"""Where runtime=cuda cannot run it says so in one line, and nothing else needs Triton."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from intvit.errors import IntVitError
from intvit.runtime import load_runtime
from intvit.runtime.cuda.lowering import lower
from tests.support.programs import linear_program
from tests.support.random_programs import random_program

WITHOUT = """
import sys
sys.modules["triton"] = None
import intvit.runtime.cuda.runtime, intvit.runtime.native.runtime, intvit.runtime.torch, intvit.runtime.numpy
import intvit.bench.kernels, intvit.bench.cuda
from intvit.errors import IntVitError
from intvit.runtime import load_runtime
from tests.support.random_programs import images_for, random_program

program = random_program(0)
load_runtime(program, "torch")(images_for(program, 1))
for call in (lambda: load_runtime(program, "cuda"), lambda: intvit.bench.kernels.launched(program, 1)):
    try:
        call()
    except IntVitError as error:
        print(error)
"""


def test_without_triton_one_line_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("pip install 'intvit[cuda]'" in line for line in lines)
    assert "or use runtime=native" in lines[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_names_another_runtime() -> None:
    pytest.importorskip("triton", reason="triton comes with intvit[cuda]")
    with pytest.raises(IntVitError, match=r"needs an NVIDIA GPU.*runtime=native"):
        load_runtime(random_program(0), "cuda")


def test_a_sum_that_could_saturate_is_refused() -> None:
    program = linear_program(np.zeros((2, 2**17), np.int8), 1)
    with pytest.raises(IntVitError, match=r"operator 'head' \(linear\): sums 131072 products.*runtime=native"):
        lower(program, fuse=True)


def test_options_of_the_runtime_are_named() -> None:
    with pytest.raises(IntVitError, match="cuda takes device"):
        load_runtime(random_program(0), "cuda", threads=2)
