"""A command's job: how its errors look to the person who called it, and its exit code."""

import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import absl.logging
import jax

from lungseg_jax import terminal
from lungseg_jax.errors import (
    REMOTE_CODES,
    REMOTE_LIBRARIES,
    ConfigError,
    DataError,
    UserError,
    failing_disk,
    first_line,
)
from lungseg_jax.runtime.interrupts import sent_again_if_dropped
from lungseg_jax.runtime.preemption import Stopped, hang_up_asks_to_stop, stop_at_once
from lungseg_jax.runtime.standard_streams import open_missing_streams
from lungseg_jax.runtime.startup import end_imports
from lungseg_jax.runtime.threads import RAISE_THE_LIMIT

OUT_OF_MEMORY = DataError("the device", "is out of memory", "free some, or set JAX_PLATFORMS=cpu")
NO_MEMORY_FOR_A_BATCH = ConfigError(
    "batch_size",
    "the device's memory is too small",
    "lower batch_size or evaluation.batch_size, raise accumulation_steps, or set model.remat=true "
    "or data.resident=false",
)

# Signals, by the exceptions that they raise.
SIGNALS = {KeyboardInterrupt: signal.SIGINT, Stopped: signal.SIGTERM}

# With this environment variable, every error shows where it comes from.
TRACEBACK = "LUNGSEG_JAX_TRACEBACK"

# Exit code after SIGTERM, by the custom of shells.
STOPPED = 143


def run_command(
    arguments: Sequence[str],
    usage: str,
    job: Callable[[], None],
    resume: str,
    out_of_memory: UserError = OUT_OF_MEMORY,
) -> int:
    """Runs a command's job; returns the exit code. Errors that a user can fix end in one line.

    Args:
      arguments: the command's arguments.
      usage: what `--help` shows.
      job: what to do.
      resume: how to continue a job that was stopped.
      out_of_memory: what is printed when a device runs out of memory.
    """
    open_missing_streams()
    if {"--help", "-h"} & set(arguments):
        terminal.show(usage)
        return 0
    # When Orbax raises an error, it also logs the trace in each of its threads, and asyncio that of
    # each array that failed after the first.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        end_imports()
        with (
            _errors_told_once(),
            sent_again_if_dropped(SIGNALS),
            stop_at_once(),
            hang_up_asks_to_stop(),
        ):
            job()
    except Exception as error:
        told = _in_one_line(error, resume, out_of_memory)
        if told is None or TRACEBACK in os.environ:
            raise
        terminal.say(f"Error: {told}")
        return 1
    except Stopped as stopped:
        terminal.say(str(stopped) or f"Stopped; {resume}")
        return STOPPED
    except KeyboardInterrupt:
        terminal.say(f"Interrupted; {resume}")
        return 130
    return 0


@contextlib.contextmanager
def _errors_told_once() -> Iterator[None]:
    """Has TensorStore print no trace for each array besides the one that failed.

    That is so within the context and, if it ends in an error, after it.

    For the first array that cannot be read or written, Orbax raises the error and closes its event
    loop. For every other one that then ends, TensorStore prints that the loop is closed.
    """
    # Versions of TensorStore use the one or the other.
    excepthook, unraisablehook = sys.excepthook, sys.unraisablehook

    def is_of_another_array(kind: type[BaseException], error: BaseException | None) -> bool:
        return kind is RuntimeError and str(error) == "Event loop is closed"

    def print_others(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not is_of_another_array(kind, error):
            excepthook(kind, error, trace)

    def print_other_unraisables(unraisable: Any) -> None:
        if not is_of_another_array(unraisable.exc_type, unraisable.exc_value):
            unraisablehook(unraisable)

    sys.excepthook, sys.unraisablehook = print_others, print_other_unraisables
    yield
    # Not after an error: on a slow disk, the other arrays end later than the first.
    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook


def _in_one_line(error: Exception, resume: str, out_of_memory: UserError) -> str | None:
    """Returns the message for an error that is not the program's fault; `None` if it is."""
    text, line = str(error), first_line(error)
    # Raised by Python, TensorStore and ArrayRecord alike; before TensorStore's code is looked at.
    if "No space left on device" in text:
        return f"no space left on the disk; free some, then {resume} ({line})"
    if any(os.strerror(code) in text for code in (errno.EDQUOT, errno.EFBIG)):
        return f"{line}; free some of the quota, or raise the limit, then {resume}"
    if "Too many open files" in text and isinstance(error, OSError):
        return f"{line}; raise the limit, as by ulimit -n, then {resume}"
    if isinstance(error, UserError | OSError):
        return text
    if text == "can't start new thread":
        return f"{text}; {RAISE_THE_LIMIT}, then {resume}"
    # XLA's messages begin with a code.
    if isinstance(error, RuntimeError) and text.startswith("RESOURCE_EXHAUSTED"):
        return str(out_of_memory)
    if isinstance(error, MemoryError):
        asked = f" ({line})" if line else ""
        return f"the machine is out of memory{asked}; end other programs, then {resume}"
    if text == "Could not determine home directory.":
        return f"there is no home directory; set HOME to a folder of yours, then {resume}"
    if isinstance(error, RuntimeError | AssertionError) and (
        platform := _platform_that_cannot_start()
    ):
        return (
            f"JAX_PLATFORMS={platform}: JAX cannot start it; see that JAX is installed for it (pip "
            "install 'jax[cuda13]' or 'jax[tpu]') and no other program holds it, or unset it"
        )
    if type(error).__module__.partition(".")[0] in REMOTE_LIBRARIES:
        return f"{type(error).__name__}: {line}; {resume}"
    # What a host finds in the middle of a step when another one has ended.
    is_between_hosts = any(name in line for name in ("Gloo", "NCCL"))
    # In words of its own, because TensorStore has it at the end of a long line.
    if isinstance(error, RuntimeError | ValueError) and not is_between_hosts:
        fault = failing_disk(error)
        if fault:
            return f"{fault}: check disk and network, then {resume} ({line})"
    if isinstance(error, RuntimeError | ValueError) and line.startswith(REMOTE_CODES):
        return f"{line}; {resume}"
    if isinstance(error, RuntimeError) and is_between_hosts and jax.distributed.is_initialized():
        return f"another host of the job seems to have ended: see there, then {resume} ({line})"
    return None


def _platform_that_cannot_start() -> str | None:
    """Returns the platforms that the user chose, if JAX cannot start them."""
    asked = os.environ.get("JAX_PLATFORMS")
    # Between hosts, JAX would wait for the others.
    if asked and not jax.distributed.is_initialized():
        try:
            jax.devices()
        # For CUDA without its plugin, JAX fails an assertion without words.
        except (RuntimeError, AssertionError):
            return asked
    return None
