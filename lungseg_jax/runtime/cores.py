"""The cores of this machine's CPU."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

# Groups of processes, whose quotas are microseconds of processor time in a period of so many
# (Linux's admin-guide/cgroup-v2, and scheduler/sched-bwc for version 1).
_GROUPS = Path("/sys/fs/cgroup")
_QUOTAS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))

# Which of them this process is in.
_OWN_GROUPS = Path("/proc/self/cgroup")

# Each file that is read ahead takes four bytes per pixel, and more while it is worked on.
_MOST_READERS = 16


def num_readers() -> int:
    """Returns how many files are read at once."""
    return min(usable_cores(), _MOST_READERS)


def usable_cores() -> int:
    """Returns how many cores this process may use; macOS reports only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
        return min(cores, _cores_of_container() or cores)
    return os.cpu_count() or 1


def _cores_of_container(groups: Path = _GROUPS, own_groups: Path = _OWN_GROUPS) -> int | None:
    """Returns the cores that quotas allow, rounded up; `docker run --cpus=2` sets one.

    So does systemd, for services and for each user of a machine (`CPUQuota=200%`).
    """
    quotas = filter(None, map(_quota, _folders(groups, own_groups)))
    return min((max(1, math.ceil(quota)) for quota in quotas), default=None)


def _folders(groups: Path, own_groups: Path) -> Iterator[Path]:
    """Yields the folders of the groups that this process is in, with those around them."""
    # Those of a container's own group, as it sees them: by version 1, it is told a name outside.
    yield from (groups, groups / "cpu")
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _, name = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / "cpu" if controllers else groups
        group = top / name.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if top in folder.parents)


def _quota(folder: Path) -> float | None:
    """Returns the processors that a group may use; `None` if it has no quota."""
    for names in _QUOTAS:
        # No such group, or `max` as the quota; -1 by version 1.
        with contextlib.suppress(OSError, ValueError):
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if int(quota) > 0:
                return int(quota) / int(period)
    return None
