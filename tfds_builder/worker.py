"""The process that converts files for a `Sandbox`; its imports are light.

python -m tfds_builder.worker DESCRIPTOR MEMORY_BYTES
"""

import contextlib
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2

from lungseg_jax.errors import DataError
from tfds_builder.convert import ConvertSettings, convert
from tfds_builder.outcome import Outcome
from tfds_builder.sources import Case


def main(descriptor: int, memory_bytes: int) -> None:
    """Says that it is ready, then answers each (case, settings) with (outcome, record).

    Args:
      descriptor: of the connection; its end is the worker's.
      memory_bytes: that reading may take.
    """
    # An interrupt from the keyboard goes to the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    _bound_memory(memory_bytes)
    connection = Connection(descriptor)
    connection.send(True)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            case, settings = connection.recv()
            connection.send(_answer(case, settings))


def _answer(case: Case, settings: ConvertSettings) -> tuple[Outcome, dict[str, Any] | None]:
    try:
        return convert(case, settings)
    # One file never stops the rest, even where the fault is ours. The message stays behind, for it
    # may quote a header.
    except Exception as error:  # noqa: BLE001
        place = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"
        ours = DataError(case.image, fault, "report it with a file that shows it")
        return Outcome.not_taken(case, "bad", ours), None


def _bound_memory(memory_bytes: int) -> None:
    """Makes allocations fail that go beyond what the interpreter and its libraries hold now."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        held = int(pages.read_text().split()[0]) * resource.getpagesize()
        _, allowed = resource.getrlimit(resource.RLIMIT_AS)
        bound = held + memory_bytes
        bound = bound if allowed == resource.RLIM_INFINITY else min(bound, allowed)
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
