"""Commands while they import, in real processes."""

import gc
import signal

import pytest

from lungseg_jax.imaging.radiograph import ReadOptions
from lungseg_jax.runtime.sandbox import Sandbox
from tests.small import REPOSITORY, python

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


# As `python -m` would begin in the background of a shell.
JOB_THAT_LISTENS_TO_NOBODY = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "lungseg_jax.main"]
import lungseg_jax
from lungseg_jax.command import run_command
sys.exit(run_command([], "", lambda: print(signal.getsignal(signal.SIGINT).name), ""))
"""


def test_a_job_in_the_background_is_not_interrupted():
    """Fault: Ctrl-C on what runs in front ends a training behind it."""
    assert python("-c", JOB_THAT_LISTENS_TO_NOBODY, path=str(REPOSITORY)).stdout == "SIG_IGN\n"


# As `python -m` would begin.
COLLECTING_JOB = """
import contextlib, gc, sys
usually = gc.get_threshold()
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "lungseg_jax.main"]
import lungseg_jax
assert gc.get_threshold() != usually
from lungseg_jax.command import run_command
from lungseg_jax.runtime.startup import importing
def job():
    assert gc.get_threshold() == usually
    with contextlib.suppress(ImportError), importing():
        assert gc.get_threshold() != usually
        raise ImportError
    assert gc.get_threshold() == usually
    assert gc.get_freeze_count() > 100_000
    print("collects")
sys.exit(run_command([], "", job, ""))
"""


def test_garbage_is_collected_again_once_all_is_imported():
    """Fault: a job whose memory grows until it is killed."""
    assert python("-c", COLLECTING_JOB, path=str(REPOSITORY)).stdout == "collects\n"


def test_a_worker_collects_its_garbage():
    """Fault: memory of thousands of files piles up in the process that reads them."""
    options = ReadOptions()
    with Sandbox(options.memory_bytes, gc.get_threshold) as sandbox:
        assert sandbox.call("file", gc.get_threshold) == gc.get_threshold()


def test_other_programs_collect_garbage_as_they_did():
    """Fault: a notebook that imports the package runs out of memory."""
    # Python 3.12 begins with some objects frozen.
    state = "(gc.get_threshold(), gc.get_freeze_count())"
    script = f"before = {state}; import lungseg_jax, tfds_builder; print(before == {state})"
    assert python("-c", f"import gc; {script}", path=str(REPOSITORY)).stdout == "True\n"
