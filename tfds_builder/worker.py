"""The process that converts files for a `Sandbox`; its imports are light.

python -m tfds_builder.worker DESCRIPTOR MEMORY_BYTES
"""

import contextlib
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import cv2

from tfds_builder.convert import convert


def main(descriptor: int, memory_bytes: int) -> None:
    """Answers each (case, settings) with (outcome, record), until the other end is closed."""
    # An interrupt from the keyboard goes to the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    _bound_memory(memory_bytes)
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            case, settings = connection.recv()
            connection.send(convert(case, settings))


def _bound_memory(memory_bytes: int) -> None:
    """Makes allocations fail that go beyond what the interpreter and its libraries hold now."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        held = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + memory_bytes,) * 2)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
