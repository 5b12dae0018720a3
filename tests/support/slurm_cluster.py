"""A real SLURM of two nodes on this machine, private to a folder: own ports, own munge, nothing of the system's.

Debian: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
# Names that resolve without /etc/hosts; ranks meet at the first of them.
NODES = ("127.0.0.1", "127.0.0.2")
# A requeued job waits for twice the life of its credentials, of which five seconds are the least.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=5,bf_interval=5
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=4000
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def missing_programs() -> list[str]:
    """What is not installed of SLURM."""
    return [name for name in PROGRAMS if _find(name) is None]


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Path]:
    """Start the cluster; yields its configuration file, for SLURM_CONF. Everything is stopped at the end."""
    folder.mkdir(parents=True, mode=0o755)
    (folder / "state").mkdir()
    for node in NODES:
        (folder / f"spool-{node}").mkdir()
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(
        CONFIG.format(
            folder=folder, host=host, user=getpass.getuser(), nodes=NODES, ports=[_free_port() for _ in "123"]
        )
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    munge = [
        f"--{name}={folder / f'munge.{name}'}" for name in ("socket", "key-file", "log-file", "pid-file", "seed-file")
    ]
    munge[1] = f"--key-file={key}"
    environment = {**os.environ, "SLURM_CONF": str(config)}
    with ExitStack() as stack:
        daemons = [["munged", "--force", "--foreground", *munge], ["slurmctld", "-D"]]
        daemons += [["slurmd", "-D", "-N", node] for node in NODES]
        for number, (program, *arguments) in enumerate(daemons):
            log = stack.enter_context((folder / f"{program}-{number}.log").open("wb"))
            process = subprocess.Popen([_find(program) or program, *arguments], env=environment, stdout=log, stderr=log)
            stack.callback(_stop, process)
            if program == "munged":
                wait_until((folder / "munge.socket").exists, 10)
        idle = ["sinfo", "--noheader", "--Node", "--format=%T"]
        wait_until(
            lambda: subprocess.run(idle, env=environment, capture_output=True).stdout.split() == [b"idle"] * 2, 30
        )
        stack.callback(_end_jobs, environment)
        yield config


def _end_jobs(environment: dict[str, str]) -> None:
    """Cancel what runs and wait until it is gone: a step without its controller would wait for it for ever."""
    subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, check=True)
    jobs = ["squeue", "--noheader"]
    wait_until(lambda: not subprocess.run(jobs, env=environment, capture_output=True, check=True).stdout, 60)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], limit: float, context: Callable[[], str] = str) -> None:
    """Poll; AssertionError with `context()` after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {context()}"
        time.sleep(0.1)
