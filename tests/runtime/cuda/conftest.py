"""The tests of this folder run on a GPU, or without one in a process whose Triton interprets kernels."""

import inspect

import pytest

from tests.support import triton_interpreter


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    """The body of a test, with arguments that can be sent to a process."""
    names = inspect.signature(pyfuncitem.function).parameters
    triton_interpreter.run(pyfuncitem.function, {name: pyfuncitem.funcargs[name] for name in names})
    return True
