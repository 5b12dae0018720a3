"""How many processors are used: affinity, containers' quotas, OMP_NUM_THREADS."""

import os
from pathlib import Path

import pytest

from intvit import processors
from intvit.processors import cpu_quota, usable_processors
from intvit.runtime import usual_threads


def tree(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A root file system with these control groups."""
    for name, content in ({"proc/self/cgroup": cgroup} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


V1 = "9:memory:/docker/7\n4:cpu,cpuacct:/docker/7\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/pod/7\n", {"sys/fs/cgroup/pod/7/cpu.max": "250000 100000\n"}, 2.5),
        ("0::/pod/7\n", {"sys/fs/cgroup/pod/7/cpu.max": "max 100000\n"}, None),
        # the group around it is the tighter one
        (
            "0::/pod/7\n",
            {"sys/fs/cgroup/pod/7/cpu.max": "max 100000", "sys/fs/cgroup/pod/cpu.max": "150000 100000"},
            1.5,
        ),
        # a container sees its own group as the root, under whatever name
        ("0::/../../pod/7\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4.0),
        (
            V1,
            {
                "sys/fs/cgroup/cpu,cpuacct/docker/7/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/7/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            V1,
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            2.0,
        ),
        (
            V1,
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        # both versions side by side, the limit at a parent
        (
            V1 + "0::/docker/7\n",
            {
                "sys/fs/cgroup/unified/docker/7/cgroup.procs": "",
                "sys/fs/cgroup/cpu,cpuacct/docker/7/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/7/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us": "75000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us": "50000\n",
            },
            1.5,
        ),
        ("0::/\n", {}, None),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "\n"}, None),
    ],
)
def test_quota_of_control_groups(tmp_path: Path, cgroup: str, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(tree(tmp_path, cgroup, files)) == quota


def test_a_group_may_have_any_name(tmp_path: Path) -> None:
    name = b"po\xffd:\x0b\xc2\x857"  # no UTF-8, and what Python counts among the ends of lines
    folder = tmp_path / "sys/fs/cgroup" / os.fsdecode(name)
    try:
        folder.mkdir(parents=True)
    except OSError:
        pytest.skip("a file system with UTF-8 names alone")
    (folder / "cpu.max").write_text("200000 100000\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_bytes(b"1:name=systemd:/x\n0::/" + name + b"\n")
    assert cpu_quota(tmp_path) == 2


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "count"), [(None, 8), (2.5, 2), (0.5, 1), (100.0, 8)])
def test_whole_processors_of_the_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(processors, "cpu_quota", lambda: quota)
    assert usable_processors() == count


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(processors, "cpu_quota", lambda: None)
    assert usable_processors() == 6
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert usual_threads() == usable_processors()


@pytest.mark.parametrize(
    ("text", "threads"),
    [
        *[("4", 4), ("4,2", 4), (" 3 , 2", 3), ("004", 4), ("999999999", 999999999)],
        *[(text, 5) for text in ("", " ", "0", "00", "-1", "four", "4.5", "4 2", ",2", "٣", "9" * 10, "9" * 5000)],
    ],
    ids=lambda value: str(value)[:10],
)
def test_every_form_of_omp_num_threads(monkeypatch: pytest.MonkeyPatch, text: str, threads: int) -> None:
    monkeypatch.setattr("intvit.runtime.usable_processors", lambda: 5)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert usual_threads() == threads
