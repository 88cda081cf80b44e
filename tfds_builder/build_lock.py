"""Keeps builds that share a folder of finished work from running at the same time."""

import contextlib
import fcntl
from collections.abc import Iterator

from etils import epath

from lungseg_jax import terminal
from lungseg_jax.errors import DataError
from lungseg_jax.runtime.alone import HELD


@contextlib.contextmanager
def one_build_at_a_time(folder: epath.Path) -> Iterator[None]:
    """Waits until no other process builds below the folder, since builds share finished work.

    On a file system without locks, nothing is waited for.

    Raises:
      DataError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not emptied: it may be a link, and what that leads to is someone else's.
        file = (folder / "build.lock").open("a")
    except OSError as error:
        fault = f"cannot be written to ({error.strerror})"
        raise DataError(folder, fault, "set data.data_dir to a folder that can be") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except HELD:
            terminal.say(f"Waiting for another build below {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            # Some network file systems have no locks.
            pass
        yield
