"""How many processors this process may use, on Linux in a container as elsewhere."""

from __future__ import annotations

import os
from pathlib import Path


def usable_processors() -> int:
    """Processors that the scheduler gives to this process at once, at least 1.

    Those of its affinity (where the system has one), but no more than whole ones of its containers' CPU quota: a
    thread beyond the quota is stopped for a part of every period, and all that wait for it.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return count if quota is None else max(1, min(count, int(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The least quota, in processors, of this process's control groups and those around them; None without one.

    Reads `cpu.max` (cgroup v2) or `cpu.cfs_quota_us` and `cpu.cfs_period_us` (v1) below `root`/sys/fs/cgroup.
    """
    try:
        groups = (root / "proc/self/cgroup").read_bytes()
    except OSError:  # not Linux, or no control groups
        return None
    quotas = []
    for line in filter(None, os.fsdecode(groups).split("\n")):  # a group's name may have any other character
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [root / "sys/fs/cgroup" / name for name in ((controllers, "cpu") if controllers else ("", "unified"))]
        inner = Path(path.lstrip("/"))  # a container may see its own group as the root: the path is then not there
        folders = [mount / part for mount in mounts for part in (inner, *inner.parents)]
        quotas += [quota for folder in folders if (quota := _quota_in(folder)) is not None]
    return min(quotas, default=None)


def _quota_in(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or `max`: no quota
        return None
