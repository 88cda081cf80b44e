"""Commands: how a job's end becomes an exit code."""

import errno
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from google.api_core.exceptions import Forbidden

from lungseg_jax.command import run_command
from tests.images import chest, png_bytes
from tests.small import REPOSITORY


def test_a_full_device_is_one_line(capsys):
    """Fault: a traceback of XLA's where a smaller batch is all that is wanted."""

    def job() -> None:
        jax.block_until_ready(jnp.zeros(2**46, jnp.float32))

    assert run_command(["main"], usage="", job=job, resume="") == 1
    assert capsys.readouterr().err.startswith("Error: the device: is out of memory")


def test_a_bucket_that_fails_during_a_run_is_one_line(capsys):
    """Fault: a traceback through three libraries where a login has expired."""

    def job() -> None:
        raise Forbidden("no right to storage.objects.create")

    assert run_command(["main"], usage="", job=job, resume="again") == 1
    said = capsys.readouterr().err
    assert said == "Error: Forbidden: 403 no right to storage.objects.create; again\n"


@pytest.mark.parametrize(
    ("error", "beginning"),
    [
        # As Python, TensorStore and ArrayRecord have them.
        (OSError(28, "No space left on device", "/runs/a"), "no space left on the disk; free"),
        (OSError(24, "Too many open files"), "[Errno 24] Too many open files; raise the limit"),
        (OSError(27, "File too large"), "[Errno 27] File too large; free some of the quota"),
        (OSError(122, "Disk quota exceeded", "/runs/a"), "[Errno 122] Disk quota exceeded"),
        (ValueError("RESOURCE_EXHAUSTED: write: No space left on device"), "no space left on the"),
        (RuntimeError("write() failed: No space left on device"), "no space left on the disk"),
        (
            ValueError("PERMISSION_DENIED: gs://runs/6: 403"),
            "PERMISSION_DENIED: gs://runs/6: 403;",
        ),
        (
            ValueError(f"ABORTED: Error reading {'a/' * 200}: Failed to read: Stale file handle"),
            "Stale file handle: check disk and network, then",
        ),
        (
            ValueError("UNKNOWN: Failed to write 171 bytes to file 9: Input/output error"),
            "Input/output error: check disk and network, then",
        ),
        (
            ValueError("UNKNOWN: Failed to open: No such device or address"),
            "No such device or address: check disk and network, then",
        ),
        (
            RuntimeError("Could not determine home directory."),
            "there is no home directory; set HOME to a folder of yours, then",
        ),
        (RuntimeError("can't start new thread"), "can't start new thread; raise the limit: ulimit"),
        (MemoryError("Unable to allocate 72 TiB"), "the machine is out of memory (Unable to al"),
    ],
)
def test_a_full_disk_or_memory_is_one_line(capsys, error, beginning):
    """Fault: hours of training that end in a traceback, which does not say what to do."""

    def job() -> None:
        raise error

    assert run_command(["main"], usage="", job=job, resume="run it again") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {beginning}")
    assert "run it again" in line


def test_a_host_that_has_ended_is_not_taken_for_a_disk(capsys, monkeypatch):
    """Fault: disks searched for a fault, because the network's words for it are the same."""
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)

    def job() -> None:
        raise RuntimeError("INTERNAL: Gloo all-reduce failed: Connection timed out [10.0.0.2]:4711")

    assert run_command(["main"], usage="", job=job, resume="run it again") == 1
    assert "Error: another host of the job seems to have ended" in capsys.readouterr().err


def test_what_ends_after_an_error_says_nothing(monkeypatch):
    """Fault: on a slow disk, a page of traces below the line that says why a command ended."""
    told = []
    monkeypatch.setattr(sys, "excepthook", lambda _, error, __: told.append(str(error)))
    monkeypatch.setattr(sys, "unraisablehook", lambda one: told.append(str(one.exc_value)))

    def job() -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    assert run_command(["main"], usage="", job=job, resume="") == 1
    for text in ("Event loop is closed", "our own mistake"):
        error = RuntimeError(text)
        sys.excepthook(RuntimeError, error, None)
        sys.unraisablehook(SimpleNamespace(exc_type=RuntimeError, exc_value=error))
    assert told == ["our own mistake"] * 2


def test_a_traceback_is_shown_where_it_is_asked_for(monkeypatch):
    """Fault: a wrong path in a fork's own code, searched for without a line number."""

    def job() -> None:
        raise FileNotFoundError("our own mistake")

    monkeypatch.setenv("LUNGSEG_JAX_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        run_command(["main"], usage="", job=job, resume="run it again")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("INTERNAL: a fault of the program\nUNAVAILABLE: what came of it"),
        AssertionError("ABORTED: a state that cannot be"),
    ],
)
def test_other_faults_keep_their_traceback(error):
    """Fault: a fault of the program that is told as one of the user's."""

    def job() -> None:
        raise error

    with pytest.raises(type(error), match=str(error).partition(":")[0]):
        run_command(["main"], usage="", job=job, resume="")


def test_a_job_that_was_stopped_is_not_done(capsys):
    """Fault: exit code 0, on which the next command starts without a result."""

    def job() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert run_command(["main"], usage="", job=job, resume="again") == 143
    assert "Stopped; again" in capsys.readouterr().err


def test_help_is_shown_in_any_encoding():
    """Fault: a traceback for a sign that the terminal's encoding lacks."""
    shown = subprocess.run(
        [sys.executable, "-m", "lungseg_jax.predict", "--help"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        cwd=REPOSITORY,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    assert b"FILE_OR_FOLDER\\u2026" in shown


@pytest.mark.parametrize("platform", ["cuda", "no-such"])
def test_a_platform_that_jax_cannot_start_is_one_line(platform: str, tmp_path):
    """Fault: an assertion of JAX's without words, where an extra is not installed."""
    (tmp_path / "a.png").write_bytes(png_bytes(chest(64, 64, 0)[0]))
    command = ["-m", "lungseg_jax.predict", str(tmp_path / "a.png"), f"--output={tmp_path / 'out'}"]
    ended = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True,
        env=os.environ | {"JAX_PLATFORMS": platform, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"Error: JAX_PLATFORMS={platform}: JAX cannot ")
    assert "Traceback" not in ended.stderr


def test_a_job_without_standard_streams_does_its_work(tmp_path):
    """Fault: a job detached by closing its streams ends at once, or has warnings in its files."""
    program = (
        "import os, sys; from pathlib import Path; from lungseg_jax import terminal;"
        "from lungseg_jax.command import run_command\n"
        "def job():\n"
        "    with Path(sys.argv[1]).open('w') as file:\n"
        "        os.write(2, b'a warning')\n"
        "        terminal.say('said'), terminal.show('shown')\n"
        "        with terminal.progress('work', 1, 'step') as bar: bar.update()\n"
        "        file.write('result')\n"
        "sys.exit(run_command(['main'], '', job, ''))"
    )
    result = tmp_path / "result"
    command = [sys.executable, "-c", program, os.fspath(result)]
    script = 'exec "$@" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", script, "bash", *command], cwd=REPOSITORY)
    assert done.returncode == 0
    assert result.read_text() == "result"
