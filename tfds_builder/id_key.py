"""The secret that patients' identifiers are hashed with."""

import contextlib
import os
import re
import secrets
import time

from etils import epath

from lungseg_jax import terminal
from lungseg_jax.errors import DataError
from lungseg_jax.imaging import files

_NAME = "patient_id.key"

_FORM = re.compile(rb"[0-9a-fA-F]{64}")

# How many seconds another process may take to finish a key that it has begun to write.
_PATIENCE_S = 2.0


def read_or_make_key(folder: epath.Path) -> bytes:
    """Returns the key kept in a folder, 32 bytes, after making it if it is absent.

    Without the key a hash reveals nothing about the identifier; with one key for all data sets a
    patient has the same hash in all of them. Only its owner can read the file, and no record holds
    it.

    Raises:
      DataError: the file is not readable or is damaged; an empty key would make hashes that anybody
        can try out.
    """
    path = folder / _NAME
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _make(path)
    return read_key(folder)


def _make(path: epath.Path) -> None:
    """Writes a key unless another process was first; then the other key holds."""
    content = secrets.token_hex(32).encode()
    unique = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}"
    _write_new(unique, content)
    try:
        # A link appears with its whole content, or not at all.
        os.link(unique, path)
    except FileExistsError:
        pass
    except OSError:
        # The file system has no links.
        with contextlib.suppress(FileExistsError):
            _write_new(path, content)
    finally:
        unique.unlink()


def _write_new(path: epath.Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def read_key(folder: epath.Path) -> bytes:
    """Returns the key kept in a folder.

    Raises:
      DataError: the file is absent, unreadable or damaged.
    """
    path = folder / _NAME
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        content = files.read_bytes(path).strip()
        if _FORM.fullmatch(content):
            if os.stat(path).st_mode & 0o026:  # noqa: PTH116
                terminal.say(f"{path} may be read or changed by other people: chmod 600 it")
            return bytes.fromhex(content.decode())
        if time.monotonic() > give_up:
            raise DataError(
                path,
                "is not a key of 32 bytes in hexadecimal digits",
                "restore it from a copy, or remove it: patients then have other hashes",
            )
        time.sleep(0.05)
