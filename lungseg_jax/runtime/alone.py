"""One process at a time in a folder that it writes to."""

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.paths import open_own
from lungseg_jax.terminal import on_one_line

# A file of its own, never deleted: not every file system locks a folder, and a process may wait
# for the file that another one has deleted.
LOCK = ".lock"

# Raised where another process holds a lock: shares of Windows have the permission denied.
HELD = (BlockingIOError, PermissionError)

# What it says begins with this.
_HOLDER = "process "
_MOST_LETTERS = 200


@contextlib.contextmanager
def alone_in(folder: epath.PathLike, remedy: str) -> Iterator[None]:
    """Keeps other processes out of a folder on disk, also those on machines that share the disk.

    The system releases it when this process and those it has forked end, however they end.

    Args:
      folder: an existing folder.
      remedy: what the process that comes second can do.

    Raises:
      DataError: another process is in it, nothing can be written to it, or its file of that name is
        someone else's.
    """
    with _opened(Path(folder, LOCK)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except HELD as error:
            holder = "another process"
            # Shares of Windows let nobody else read what is locked.
            with contextlib.suppress(OSError):
                holder = _holder(file) or holder
            raise DataError(folder, f"is in use by {holder}", remedy) from error
        except OSError:
            # Some network file systems have no locks.
            pass
        else:
            if file.writable():
                if not _holder(file).startswith(_HOLDER) and os.fstat(file.fileno()).st_size:
                    fault = "was not written by this command"
                    raise DataError(Path(folder, LOCK), fault, "move it, or give another folder")
                file.truncate(0)
                file.write(f"{_HOLDER}{os.getpid()} on {platform.node()}")
                file.flush()
        yield


def _holder(file: TextIO) -> str:
    """Returns what a lock file says about the process that holds it, or held it last."""
    file.seek(0)
    return on_one_line(file.read(_MOST_LETTERS).strip())


def _opened(path: Path) -> TextIO:
    """Returns the lock file, opened for writing if permitted: it may be another person's."""
    try:
        try:
            return open_own(path, "a+", errors="replace")
        except PermissionError:
            return path.open(errors="replace")
    except OSError as error:
        fault = f"cannot be written to ({error.strerror})"
        raise DataError(path.parent, fault, "copy it, or give another folder") from error
