"""The cores of this machine's CPU."""

import math
import os
from pathlib import Path

# A container's share of the processors: quota and period in microseconds (cgroup v2, Linux's
# admin-guide/cgroup-v2). Those of the process's own group, as a container sees it.
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


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


def _cores_of_container(cpu_max: Path = _CPU_MAX) -> int | None:
    """Returns the cores that a quota allows, rounded up; `docker run --cpus=2` sets one."""
    try:
        quota, period = cpu_max.read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    # No such group, or `max` as the quota.
    except (OSError, ValueError):
        return None
