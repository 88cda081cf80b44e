"""The cores of this machine's CPU."""

import os


def usable_cores() -> int:
    """Returns how many cores this process may use; macOS tells only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
