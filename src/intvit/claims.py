"""A folder that one process at a time works in: locked where the file system has locks, and claimed by a file in it.

The lock ends with the process. The file says who holds the folder, and keeps others out where locks do not reach (NFS,
Lustre with locks of one host): its holder touches it while alive. A claim that a killed process left is taken over: at
once on the same host and by the requeued job, elsewhere when it has not been touched for two minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from intvit.errors import IntVitError

CLAIM = ".claim"
BEAT = 20.0  # seconds between two touches
SILENCE = 120.0  # without a touch the holder is dead: six beats, for a host may be slow


@dataclass(frozen=True)
class Holder:
    """A process, as its claim names it. started: when, as the system counts, lest a later one has its number."""

    host: str
    pid: int
    started: str
    job: str | None  # of SLURM, with how often it was requeued
    restarts: int
    token: str

    @staticmethod
    def this_process() -> Holder:
        environment, pid = os.environ, os.getpid()
        job, restarts = environment.get("SLURM_JOB_ID"), int(environment.get("SLURM_RESTART_COUNT", "0"))
        return Holder(socket.gethostname(), pid, _start_of(pid) or "", job, restarts, secrets.token_hex(8))

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"

    def lives(self, me: Holder, silence: float) -> bool:
        """Whether it is still at work, for all that can be known; silence: seconds since it touched its claim."""
        if self.host == me.host:
            return _start_of(self.pid) == self.started
        if self.job is not None and self.job == me.job and self.restarts < me.restarts:
            return False  # SLURM has started this job anew
        return silence < SILENCE


@contextlib.contextmanager
def holding(folder: Path, patience: float = 15.0) -> Iterator[None]:
    """Keep other processes out of `folder` during the block; makes it.

    patience: seconds to wait for it; loaders' workers outlive a killed process by up to five.
    Raises IntVitError naming the process that goes on holding the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    me, claim, descriptor = Holder.this_process(), folder / CLAIM, os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + patience
        while not (_lock(descriptor) and _claimed(claim, me)):
            if time.monotonic() > deadline:
                holder = _read(claim)[0]
                who = f" ({holder})" if holder else ""
                raise IntVitError(f"{folder}: another process is at work in it{who}; let it end, or end it, first")
            time.sleep(0.1)
        with _touched(claim):
            yield
    finally:
        if (found := _read(claim)[0]) and found.token == me.token:
            claim.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    import fcntl  # not on Windows, where programs are read and run as well

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # NFS locks no folders
        pass
    return True


def _claimed(claim: Path, me: Holder) -> bool:
    """Whether the claim is ours now: there was none, or one that a dead process left."""
    try:
        descriptor = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        holder, silence = _read(claim)
        if not (holder.lives(me, silence) if holder else silence < SILENCE):
            _remove(claim, holder)
        return False  # the next attempt makes it, unless another process is faster
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(me), file)
    return True


def _remove(claim: Path, dead: Holder | None) -> None:
    """Take away the claim of a dead process, and no other that has come in its place."""
    aside = claim.with_name(f"{CLAIM}.{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        claim.rename(aside)  # one process alone succeeds
        if _read(aside)[0] != dead:
            with contextlib.suppress(OSError):
                os.link(aside, claim)
        aside.unlink()


def _read(claim: Path) -> tuple[Holder | None, float]:
    """Who holds it, None where it cannot be read or is gone; and for how many seconds it has not been touched."""
    try:
        silence = _now(claim.parent) - claim.stat().st_mtime
    except OSError:
        return None, 0.0
    try:
        return Holder(**json.loads(claim.read_text())), silence
    except (OSError, ValueError, TypeError):  # just being written, or left half written
        return None, silence


def _now(folder: Path) -> float:
    """The time of the file server, whose clock may differ from ours."""
    probe = folder / f"{CLAIM}.{secrets.token_hex(8)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


@contextlib.contextmanager
def _touched(claim: Path) -> Iterator[None]:
    """Touch the claim during the block."""
    end = threading.Event()

    def beat() -> None:
        while not end.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(claim)

    thread = threading.Thread(target=beat, name="claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _start_of(pid: int) -> str | None:
    """When a process of this host began; None where there is none of that number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:  # systems without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"
