"""Ctrl-C in real processes, while they import and while they work."""

import os
import signal
import subprocess
import sys

import pytest

from tests.small import LISTENING, REPOSITORY

INTERRUPTED_IMPORT = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:  # as libraries do that try whether another one is there
    pass
"""

# As `python -m` would begin.
INTERRUPTED_JOB = """
import signal, sys
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "lungseg_jax.main"]
import lungseg_jax
assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
from lungseg_jax.command import run_command
sys.exit(run_command([], "", lambda: signal.raise_signal(signal.SIGINT), "run it again"))
"""

# Where the collector's callbacks meet a signal, Python prints what it raised and goes on.
INTERRUPTED_COLLECTION = """
import gc, signal, sys, time
from lungseg_jax.command import run_command
pressed = []
def collecting(phase, _):
    if not pressed:
        pressed.append(phase)
        signal.raise_signal({number})
def job():
    gc.callbacks.append(collecting)
    gc.collect()
    # As training does, not in one call: a signal just before one is seen after it.
    for _ in range(1200):
        time.sleep(0.05)
sys.exit(run_command([], "", job, "run it again"))
"""


def python(*arguments: str, path: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", LISTENING, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


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


def test_ctrl_c_during_later_imports_ends_a_run(tmp_path):
    """Fault: what training imports once its flags are read swallows a Ctrl-C, or shows where."""
    (tmp_path / "grain.py").write_text(INTERRUPTED_IMPORT)
    arguments = ["-m", "lungseg_jax.main", "--config=configs/unet.py", f"--workdir={tmp_path}/run"]
    ended = python(*arguments, path=f"{tmp_path}:{REPOSITORY}")
    assert ended.returncode == -signal.SIGINT
    assert "Traceback" not in ended.stderr


def test_ctrl_c_while_a_job_runs_says_how_to_go_on():
    """Fault: the handler of the imports left in place, so that nothing is said."""
    ended = python("-c", INTERRUPTED_JOB, path=str(REPOSITORY))
    assert (ended.returncode, ended.stderr) == (130, "Interrupted; run it again\n")


@pytest.mark.parametrize("words", [["-m", "other.program", "lungseg_jax.x"], ["-mother.program"]])
def test_other_programs_keep_their_handler(words, tmp_path):
    """Fault: a program that imports the package dies of Ctrl-C before its `finally` blocks."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__init__.py").write_text("import tfds_builder")
    script = "import signal; print(signal.getsignal(signal.SIGINT).__name__)"
    (tmp_path / "other" / "program.py").write_text(script)
    ended = python(*words, path=f"{tmp_path}:{REPOSITORY}")
    assert ended.stdout == "default_int_handler\n"


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "Interrupted; run it again"), (signal.SIGTERM, 143, "Stopped; run it")],
)
def test_a_signal_during_garbage_collection_is_not_lost(number, code, said):
    """Fault: a run that goes on for hours after Ctrl-C, or is killed when its grace time is over.

    JAX has a callback that the garbage collector calls.
    """
    program = INTERRUPTED_COLLECTION.format(number=int(number))
    ended = python("-c", program, path=str(REPOSITORY))
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


# What must not end halfway, and what comes after it.
HELD_BACK = """
import signal, sys
from lungseg_jax.command import run_command
from lungseg_jax.runtime.interrupts import held_back
def job():
    with held_back(signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        print("saved", file=sys.stderr)
    print("went on", file=sys.stderr)
sys.exit(run_command([], "", job, "run it again"))
"""


def test_what_must_not_end_halfway_ends_before_the_interrupt():
    """Fault: a checkpoint whose save had just begun lost, or a Ctrl-C that is forgotten."""
    ended = python("-c", HELD_BACK, path=str(REPOSITORY))
    assert ended.returncode == 130
    assert "saved" in ended.stderr
    assert "went on" not in ended.stderr
