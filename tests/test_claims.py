"""One process at a time works in a folder, with locks and without; what a killed one left keeps nobody out."""

import fcntl
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from intvit import claims
from intvit.claims import CLAIM, SILENCE, Holder, holding
from intvit.errors import IntVitError

NO_LOCKS = "import fcntl\ndef refuse(*_): raise OSError(9, 'Bad file descriptor')\nfcntl.flock = refuse\n"
IMPORTS = "import sys, time; from pathlib import Path; from intvit.claims import holding\n"
HOLD = "with holding(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
START = (
    "while time.time() < float(sys.argv[2]): pass\n"
    "with holding(Path(sys.argv[1]), patience=0.3): print('held', flush=True); time.sleep(1.5)"
)


@pytest.fixture(params=["locks", "no locks"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with locks, and one like NFS, where a folder cannot be locked; how a script begins there."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(9, "Bad file descriptor")

    if request.param == "no locks":
        monkeypatch.setattr(fcntl, "flock", refuse)
    return IMPORTS + (NO_LOCKS if request.param == "no locks" else "")


def claim_of(folder: Path, holder: Holder, silence: float = 0.0) -> None:
    """As another process left it."""
    (folder / CLAIM).write_text(json.dumps(asdict(holder)))
    os.utime(folder / CLAIM, (time.time() - silence,) * 2)


def test_the_second_is_refused_with_the_name_of_the_first_until_that_is_killed(locks: str, tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", locks + HOLD, tmp_path], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        said = rf"another process is at work in it \(process {other.pid} on .*\); let it end, or end it, first$"
        with pytest.raises(IntVitError, match=said), holding(tmp_path, patience=0.2):
            pass
        other.kill()
        other.wait()
        with holding(tmp_path):
            assert f'"pid": {os.getpid()}' in (tmp_path / CLAIM).read_text()
        assert list(tmp_path.iterdir()) == []
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_of_many_starts_at_once_one_holds_the_folder(locks: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", locks + START, tmp_path, str(time.time() + 1.5)]
    several = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    outputs = [process.communicate() for process in several]
    assert [out for out, _ in outputs].count(b"held\n") == 1
    assert sum(b"another process is at work in it (process " in err for _, err in outputs) == 3


@pytest.mark.usefixtures("locks")
@pytest.mark.parametrize(
    ("changes", "silence", "kept_out"),
    [
        ({"started": "0"}, 0, False),  # the same number, another process
        ({"pid": 2**22 + 1}, 0, False),
        ({"host": "elsewhere"}, 0, True),
        ({"host": "elsewhere"}, SILENCE - 30, True),
        ({"host": "elsewhere"}, SILENCE + 30, False),
        ({"host": "elsewhere", "job": "7", "restarts": 0}, 0, False),  # requeued: the same job, started again
        ({"host": "elsewhere", "job": "7", "restarts": 1}, 0, True),  # another step of the job that runs
        ({"host": "elsewhere", "job": "8", "restarts": 0}, 0, True),
    ],
    ids=str,
)
def test_a_claim_is_taken_over_when_its_process_is_dead(changes, silence, kept_out, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    claim_of(tmp_path, replace(Holder.this_process(), **changes), silence)
    if kept_out:
        with pytest.raises(IntVitError, match="at work in it"), holding(tmp_path, patience=0.2):
            pass
        assert (tmp_path / CLAIM).exists()
    else:
        with holding(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []


def test_half_a_claim_is_one_until_it_has_been_silent(tmp_path: Path) -> None:
    (tmp_path / CLAIM).write_text('{"host": ')
    with pytest.raises(IntVitError, match="another process is at work in it; let it end"), holding(tmp_path, 0.2):
        pass
    os.utime(tmp_path / CLAIM, (time.time() - SILENCE - 9,) * 2)
    with holding(tmp_path):
        pass


def test_the_holder_touches_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.05)
    with holding(tmp_path):
        os.utime(tmp_path / CLAIM, (0, 0))
        deadline = time.monotonic() + 20
        while (tmp_path / CLAIM).stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (tmp_path / CLAIM).stat().st_mtime > 0
