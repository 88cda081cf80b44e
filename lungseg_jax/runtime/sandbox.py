"""Reads files in a separate process, so that no file can stop or crash a job that reads many.

The decoders are C libraries: a damaged file may send them into an endless loop, an unbounded
allocation or a crash, none of which a thread of the same process survives. A `multiprocessing` pool
would import the caller's main module in each worker, and ends as a whole when one of them dies.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from etils import epath

from lungseg_jax.errors import DataError, UserError
from lungseg_jax.runtime.messages import receive_message, send_message

# The largest films that are accepted take seconds.
SECONDS = 60.0

# What a worker calls the file that its caller names.
THE_FILE = "the file"

# Many workers may start at once, from a network file system.
START_SECONDS = 300.0


Result = TypeVar("Result")


class SandboxStoppedError(Exception):
    """The work was called off by `stop`, perhaps while a file was being read."""


class Sandbox:
    """A worker process with limits on time and memory, replaced when a file has ended it.

    Args:
      memory_bytes: how much memory reading may take.
      function: one to call; its module is imported before the clock of the first file starts.
      seconds: how long a file may take.
    """

    def __init__(self, memory_bytes: int, function: Callable, seconds: float = SECONDS) -> None:
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._module = function.__module__
        self._stopped = False
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def call(
        self, file: epath.PathLike, function: Callable[..., Result], *arguments: object
    ) -> Result:
        """Returns the result of a function that reads a file.

        Args:
          file: the file that errors name.
          function: a function from a module that the worker can import.
          *arguments: the function's arguments; they and the result are pickled.

        Raises:
          DataError: the function raised one, or any other error, or the worker did not survive.
          SandboxStoppedError: `stop` was called.
          UserError: no worker can be started.
        """
        if self._stopped:
            raise SandboxStoppedError
        fault = remedy = ""
        # Twice, because on a machine short of memory or time good files fail, too.
        for _ in range(2):
            if self._process is None:
                self._start()
            assert self._connection is not None
            remedy = "leave it out"
            try:
                send_message(self._connection, (function, arguments))
                if self._connection.poll(self._seconds):
                    return _unwrap(file, *receive_message(self._connection))
                fault = f"takes more than {self._seconds:g} s to read"
            except (EOFError, OSError):
                words = self._last_words()
                fault = f"crashes the process that reads it ({words})"
                # No decoder sends this signal; the system does, to whatever holds most memory.
                if words == signal.SIGKILL.name:
                    fault = f"the system kills the process that reads it ({words}): memory is short"
                    remedy = "free some, or raise the limit of the container or job"
            except MemoryError:
                # In this process, while receiving the result.
                fault = "needs more memory than there is"
            self.close()
            if self._stopped:
                raise SandboxStoppedError
        raise DataError(file, fault, remedy)

    def stop(self) -> None:
        """Makes the running `call`, in another thread, and all later ones fail."""
        self._stopped = True
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """Ends the worker; the next `call` starts another."""
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
                    sys.executable, "-m", "lungseg_jax.runtime.sandbox_worker",
                    str(there.fileno()), str(self._memory_bytes), self._module, str(self._seconds),
                ],
                env=os.environ | one_thread | {"PYTHONPATH": search},
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                # Decoders print what they find in a header.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._connection = Connection(here.detach())
        try:
            # The clock of the first file starts when the worker is ready.
            ready = self._connection.poll(START_SECONDS) and receive_message(self._connection)
        except (EOFError, OSError):
            ready = False
        if self._stopped:
            self.close()
            raise SandboxStoppedError
        if not ready:
            self.close()
            # Not the fault of one file, so not a `DataError`, which would only leave that file out.
            raise UserError(
                "worker processes",
                "do not start",
                f"`python -c 'import {self._module}'` says why, or memory is short",
            )

    def _last_words(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "no answer"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class Sandboxes:
    """Several sandboxes, for as many threads at a time; other threads wait for an idle one."""

    def __init__(self, count: int, memory_bytes: int, function: Callable) -> None:
        self._every = [Sandbox(memory_bytes, function) for _ in range(count)]
        self._idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        for sandbox in self._every:
            self._idle.put(sandbox)

    def __enter__(self) -> "Sandboxes":
        return self

    def __exit__(self, *error: object) -> None:
        for sandbox in self._every:
            sandbox.close()

    def call(
        self, file: epath.PathLike, function: Callable[..., Result], *arguments: object
    ) -> Result:
        """Returns what `Sandbox.call` returns, from whichever sandbox is idle."""
        sandbox = self._idle.get()
        try:
            return sandbox.call(file, function, *arguments)
        finally:
            self._idle.put(sandbox)

    def stop(self) -> None:
        """Stops all of them."""
        for sandbox in self._every:
            sandbox.stop()


def _unwrap(file: epath.PathLike, result: Any, error: DataError | None, place: str) -> Any:
    if error is not None:
        raise error if error.subject != THE_FILE else DataError(file, error.fault, error.remedy)
    if place:
        raise DataError(file, place, "report it with a file that shows it")
    return result
