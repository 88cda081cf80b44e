"""A process that starts anew with huge pages."""

import os
import subprocess
import sys

import pytest

from lungseg_jax.runtime import huge_pages

RESTART = """
import os, sys
from lungseg_jax.runtime import huge_pages
huge_pages._is_worth_it = lambda: True
print(os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES", ""), flush=True)
huge_pages.restart_with_huge_pages()
"""


@pytest.mark.parametrize("before", ["", "glibc.malloc.check=0"])
def test_the_same_process_goes_on_once_with_its_arguments(before: str):
    """Fault: an endless chain of restarts, lost arguments, or a user's settings overruled."""
    environment = dict(os.environ, GLIBC_TUNABLES=before)
    run = subprocess.run(
        [sys.executable, "-c", RESTART, "lungseg_jax.main", "a b", "--c=1"],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    first, second = run.stdout.splitlines()
    start = first.removesuffix(before).rstrip()
    assert second == f"{start} {before}{':' if before else ''}glibc.malloc.hugetlb=1"


def test_a_user_who_has_decided_is_left_alone(monkeypatch):
    """Fault: huge pages for one who turned them off."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "lungseg_jax.main"])
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    monkeypatch.setattr(huge_pages, "_is_worth_it", lambda: True)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("restarted"))
    huge_pages.restart_with_huge_pages()


def test_a_notebook_goes_on(monkeypatch):
    """Fault: `%run -m lungseg_jax.main` in a notebook, whose process is replaced."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "ipykernel_launcher"])
    monkeypatch.setattr(huge_pages, "_is_worth_it", lambda: True)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("restarted"))
    huge_pages.restart_with_huge_pages()


@pytest.mark.parametrize(
    ("kernel", "library", "platforms", "expected"),
    [
        ("always [madvise] never", ("glibc", "2.36"), "cpu", True),
        ("[always] madvise never", ("glibc", "2.36"), "cpu", False),
        ("always madvise [never]", ("glibc", "2.36"), "cpu", False),
        (None, ("glibc", "2.36"), "cpu", False),
        ("always [madvise] never", ("glibc", "2.35"), "cpu", True),
        ("always [madvise] never", ("glibc", "2.34"), "cpu", False),
        ("always [madvise] never", ("", ""), "cpu", False),
        ("always [madvise] never", ("glibc", "2.36"), "", False),
    ],
)
def test_restarts_only_where_it_helps(monkeypatch, tmp_path, kernel, library, platforms, expected):
    """Fault: a start that takes twice as long for nothing, on macOS or beside a GPU."""
    if kernel:
        (tmp_path / "enabled").write_text(kernel)
    monkeypatch.setattr(huge_pages, "_KERNEL", tmp_path / "enabled")
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: library)
    monkeypatch.setattr(huge_pages.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert huge_pages._is_worth_it() is expected
