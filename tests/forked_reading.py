"""Reads DICOM files, each in a process of its own that it may crash.

Usage: python -m tests.forked_reading < FILES

FILES is a pickled list of contents. Prints how each reading ended, as JSON: "read", "DataError",
the name of the signal that ended the process, or what else was raised.
"""

import json
import os
import pickle
import resource
import signal
import sys

import numpy as np

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.dicom import read_dicom

_ENDS = ("read", "DataError", "another exception", "pixels out of range")
_CPU_SECONDS = 5
_MEMORY_BYTES = 2 * 2**30


def read_forked(content: bytes) -> str:
    """Says how reading a file ends in a fork of this process, short of time and memory."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        # A crash should leave no file behind.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os._exit(_ENDS.index(_read(content)))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return _ENDS[code] if code >= 0 else signal.Signals(-code).name


def _read(content: bytes) -> str:
    try:
        pixels = read_dicom(content, "image.dcm").pixels
    except DataError:
        return "DataError"
    except BaseException:  # noqa: BLE001
        return "another exception"
    # False for NaN, too.
    return "read" if np.all((pixels >= 0) & (pixels <= 1)) else "pixels out of range"


if __name__ == "__main__":
    json.dump([read_forked(content) for content in pickle.load(sys.stdin.buffer)], sys.stdout)
