"""Ctrl-C in real processes, while they import and while they work."""

import os
import signal
import subprocess
import sys

import pytest

from tests.small import REPOSITORY

INTERRUPTED_IMPORT = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:  # as libraries do that try whether another one is there
    pass
"""

INTERRUPTED_JOB = """
import signal, sys
from lungseg_jax.runtime.command import run_command
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.exit(run_command([], "", lambda: signal.raise_signal(signal.SIGINT), "run it again"))
"""


def python(*arguments: str, path: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "module",
    [
        *(f"lungseg_jax.{name}" for name in ("main", "predict", "export", "compare", "build")),
        *(f"tfds_builder.{name}" for name in ("verify", "data_report")),
    ],
)
def test_ctrl_c_during_imports_ends_a_command_without_a_traceback(module, tmp_path):
    """Fault: a screen of traceback, or a Ctrl-C that a library's import swallows."""
    (tmp_path / "absl.py").write_text(INTERRUPTED_IMPORT)
    ended = python("-m", module, path=f"{tmp_path}:{REPOSITORY}")
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


def test_ctrl_c_while_a_job_runs_says_how_to_go_on():
    """Fault: the handler of the imports left in place, so that nothing is saved or said."""
    ended = python("-c", INTERRUPTED_JOB, path=str(REPOSITORY))
    assert (ended.returncode, ended.stderr) == (130, "Interrupted; run it again\n")


def test_other_programs_keep_their_handler():
    """Fault: a program that imports the package dies of Ctrl-C before its `finally` blocks."""
    script = "import tfds_builder, signal; print(signal.getsignal(signal.SIGINT).__name__)"
    ended = python("-c", script, path=str(REPOSITORY))
    assert ended.stdout == "default_int_handler\n"
