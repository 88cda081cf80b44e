"""Memory in pages of 2 MiB, for training on a CPU."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from pathlib import Path

_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_VARIABLE, _SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def restart_with_huge_pages() -> None:
    """Starts the program anew, asking the C library for huge pages, where that makes it faster.

    XLA takes the memory of each step anew. In pages of 4 KiB the kernel maps a hundred thousand of
    them a step, and addresses are looked up slowly: a quarter of the time of a step. The C library
    reads its setting when a process starts, so the process is replaced by one of the same number
    and arguments. Does nothing where the setting is there already, where JAX has an accelerator, or
    where the kernel does not leave the choice to programs.
    """
    tunables = os.environ.get(_VARIABLE, "")
    if "glibc.malloc.hugetlb" in tunables or not _is_worth_it():
        return
    os.environ[_VARIABLE] = f"{tunables}:{_SETTING}".lstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def environment() -> dict[str, str]:
    """Returns the environment variables that a process is to start with to have huge pages."""
    return {_VARIABLE: _SETTING}


def _is_worth_it() -> bool:
    has_accelerator = bool(
        importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu")
    )
    # Of "always [madvise] never" the one in brackets holds.
    left_to_programs = _KERNEL.exists() and "[madvise]" in _KERNEL.read_text()
    return not has_accelerator and left_to_programs and platform.libc_ver()[0] == "glibc"
