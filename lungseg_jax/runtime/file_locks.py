"""Whether files can be locked where checkpoints go."""

import errno
import fcntl
import tempfile
from typing import IO

from etils import epath

from lungseg_jax.errors import CheckpointError
from lungseg_jax.paths import is_in_bucket
from lungseg_jax.runtime.hosts import in_any_process


def check_has_locks(directory: epath.Path) -> None:
    """Refuses a file system without locks, before the steps whose checkpoint could not be saved.

    TensorStore writes no file that it cannot lock.

    Args:
      directory: the folder of the checkpoints; its parent exists.

    Raises:
      CheckpointError: it has none, or nothing can be written there; raised in every process.
    """
    fault = remedy = ""
    if not is_in_bucket(directory):
        try:
            with tempfile.TemporaryFile(dir=directory.parent) as file:
                if error := _error_of_locks(file):
                    fault = f"no file can be locked there ({error.strerror})"
                    remedy = "give a --workdir on another disk, or mount this one with locks"
        except OSError as error:
            fault = f"cannot be written to ({error.strerror})"
            remedy = "give a --workdir that you may write to, or make room there"
    if in_any_process(bool(fault)):
        fault = fault or "cannot be written to, or has no locks, on another host (see there)"
        raise CheckpointError(directory, fault, remedy or "give another --workdir")


def _error_of_locks(file: IO[bytes]) -> OSError | None:
    """Returns why TensorStore cannot lock a file; `None` if it can."""
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # After these alone, TensorStore tries the other kind of lock.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error
    return None
