"""Memory in pages of 2 MiB, for training on a CPU."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from pathlib import Path

_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# The first glibc that has the setting.
_SINCE = (2, 35)
_VARIABLE, _SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def restart_with_huge_pages() -> None:
    """Restarts the program, asking the C library for huge pages, where that makes it faster.

    XLA allocates the memory of each step anew. With pages of 4 KiB, the kernel maps a hundred
    thousand per step, and address look-ups are slow: a tenth to a fifth of a step's time. The C
    library reads its setting when a process starts, so the process is replaced by one with the same
    number and arguments. Does nothing where the setting is there already, where JAX may find an
    accelerator, or where the kernel does not leave the choice to programs.
    """
    tunables = os.environ.get(_VARIABLE, "")
    # A notebook's %run shares the notebook's process, which must go on.
    if "lungseg_jax.main" not in sys.orig_argv:
        return
    if "glibc.malloc.hugetlb" in tunables or not _is_worth_it():
        return
    os.environ[_VARIABLE] = f"{tunables}:{_SETTING}".lstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def huge_page_variables() -> dict[str, str]:
    """Returns the environment variables that give huge pages to a process that starts with them."""
    return {_VARIABLE: _SETTING}


def _is_worth_it() -> bool:
    has_accelerator = os.environ.get("JAX_PLATFORMS") != "cpu" and bool(
        importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu")
    )
    # Of "always [madvise] never", the one in brackets is in force.
    left_to_programs = _KERNEL.exists() and "[madvise]" in _KERNEL.read_text()
    library, version = platform.libc_ver()
    if has_accelerator or not left_to_programs or library != "glibc":
        return False
    return tuple(map(int, version.split(".")[:2])) >= _SINCE
