"""How many threads a process may start: some libraries wait for those that they did not get."""

import functools
import threading

from lungseg_jax.errors import UserError

# As many as ArrayRecord starts when it opens the first file.
OF_RECORDS = 64

RAISE_THE_LIMIT = "raise the limit: ulimit -u, a container's pids limit, or memory (ulimit -v)"


@functools.cache
def check_threads_for_records() -> None:
    """Checks, once, that records can be read, which starts `OF_RECORDS` threads.

    If the system refuses one of them, ArrayRecord never returns.

    Raises:
      UserError: they cannot be started.
    """
    started: list[threading.Thread] = []
    done = threading.Event()
    try:
        for _ in range(OF_RECORDS):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        fault = f"reading records takes {OF_RECORDS}, and only {len(started)} can be started"
        raise UserError("threads", fault, RAISE_THE_LIMIT) from error
    finally:
        done.set()
        for thread in started:
            thread.join()
