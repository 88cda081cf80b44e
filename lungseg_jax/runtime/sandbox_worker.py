"""The process that reads files for a `Sandbox`; its imports are light.

python -m lungseg_jax.runtime.sandbox_worker DESCRIPTOR MEMORY_BYTES MODULE SECONDS
"""

import signal

if __name__ == "__main__":
    # Before anything else is imported: a keyboard interrupt goes to the whole process group, and
    # the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

import contextlib
import importlib
import resource
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.opencv_memory import opencv_memory_errors
from lungseg_jax.runtime.messages import receive_message, send_message
from lungseg_jax.runtime.sandbox import THE_FILE
from lungseg_jax.runtime.startup import end_imports


def main(descriptor: int, memory_bytes: int, module: str, seconds: float) -> None:
    """Says that it is ready, then answers each (function, arguments).

    The answer is (result, error, place), of which one is set: the result, the `DataError` that the
    function raised, or the type and line of any other exception.

    Args:
      descriptor: file descriptor of the connection; the worker ends with it.
      memory_bytes: memory that reading may take.
      module: that of the functions to come; imported now, so that the first file need not wait.
      seconds: how long an answer may take; a parent that was killed no longer ends this process.
    """
    # A parent may have it ignored, which this process would inherit.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    importlib.import_module(module)
    end_imports()
    cv2.setNumThreads(1)
    _bound_memory(memory_bytes)
    connection = Connection(descriptor)
    send_message(connection, True)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            asked = receive_message(connection)
            # The parent's clock comes first, where there is a parent.
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
            answer = _answer(*asked)
            signal.setitimer(signal.ITIMER_REAL, 0)
            send_message(connection, answer)


def _answer(
    function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[Any, DataError | None, str]:
    try:
        with opencv_memory_errors():
            return function(*arguments), None, ""
    except DataError as error:
        return None, error, ""
    except MemoryError:
        return None, DataError(THE_FILE, "needs more memory than there is", "leave it out"), ""
    # One file never stops the rest, even if the fault is in this code. The message is not passed
    # on, because it may quote a header.
    except Exception as error:  # noqa: BLE001
        place = traceback.extract_tb(error.__traceback__)[-1]
        return (
            None,
            None,
            f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}",
        )


def _bound_memory(memory_bytes: int) -> None:
    """Makes allocations fail beyond `memory_bytes` more than the process now holds."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        held = int(pages.read_text().split()[0]) * resource.getpagesize()
        _, allowed = resource.getrlimit(resource.RLIMIT_AS)
        bound = held + memory_bytes
        bound = bound if allowed == resource.RLIM_INFINITY else min(bound, allowed)
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
