"""Conversion in a process of its own, so that no file can stop or crash a build.

The decoders are C libraries: a damaged file may send them into an endless loop, an allocation
without bound or a crash, none of which a thread of the same process survives. A pool of
`multiprocessing` would import the caller's main module in each worker and ends as a whole when one
of them dies.
"""

import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from lungseg_jax.errors import DataError
from tfds_builder.convert import ConvertSettings
from tfds_builder.outcome import Outcome
from tfds_builder.sources import Case

# The largest films accepted take seconds.
SECONDS = 60.0

# Many workers may start at once, from a file system across a network.
START_SECONDS = 300.0


class SandboxStoppedError(Exception):
    """The conversion was called off while a file was read."""


class Sandbox:
    """A worker process with bounds on time and memory, replaced when a file was its end."""

    def __init__(self, memory_bytes: int, seconds: float = SECONDS) -> None:
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._stopped = False
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def convert(
        self, case: Case, settings: ConvertSettings
    ) -> tuple[Outcome, dict[str, Any] | None]:
        """Returns what `convert.convert` does, or a bad outcome if the worker did not survive.

        Raises:
          SandboxStoppedError: `stop` was called.
          RuntimeError: no worker can be started.
        """
        fault = ""
        # Twice, for a machine short of memory or time fails files that are not at fault.
        for _ in range(2):
            if self._process is None:
                self._start()
            assert self._connection is not None
            try:
                self._connection.send((case, settings))
                if self._connection.poll(self._seconds):
                    return self._connection.recv()
                fault = f"takes more than {self._seconds:g} s to read"
            except (EOFError, OSError):
                fault = f"reading it ends the process ({self._last_words()})"
            self.close()
            if self._stopped:
                raise SandboxStoppedError
        return Outcome.not_taken(case, "bad", DataError(case.image, fault, "leave it out")), None

    def stop(self) -> None:
        """Makes the running `convert`, in another thread, and all later ones fail."""
        self._stopped = True
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """Ends the worker; the next `convert` starts another."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> None:
        here, there = socket.socketpair()
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        search = os.pathsep.join(path or os.curdir for path in sys.path)
        with there:
            self._process = subprocess.Popen(  # noqa: S603
                [
                    sys.executable, "-m", "tfds_builder.worker",
                    str(there.fileno()), str(self._memory_bytes),
                ],
                env=os.environ | one_thread | {"PYTHONPATH": search},
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                # Decoders print what they meet in a header.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._connection = Connection(here.detach())
        try:
            # The clock of the first file starts when the worker is there.
            ready = self._connection.poll(START_SECONDS) and self._connection.recv()
        except (EOFError, OSError):
            ready = False
        if self._stopped:
            self.close()
            raise SandboxStoppedError
        if not ready:
            self.close()
            raise RuntimeError(
                "A worker does not start; `python -c 'import tfds_builder.worker'` says why"
            )

    def _last_words(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "it answers no more"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
