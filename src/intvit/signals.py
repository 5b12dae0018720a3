"""Signals of SLURM that come while Python still imports: kept for the run, which acts on them once it can.

SIGUSR1 and SIGUSR2 would end the process, and a job that asked for a warning would not be requeued.
"""

import os
import signal

_received: list[int] = []


def keep() -> None:
    """From now on, inside a SLURM job; call it before the first import that takes time."""
    if "SLURM_JOB_ID" not in os.environ:
        return
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda received, _: _received.append(received))


def taken() -> list[int]:
    """What came since; the list is empty afterwards."""
    received = _received.copy()
    _received.clear()
    return received
