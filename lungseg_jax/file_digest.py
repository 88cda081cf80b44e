"""What identifies a file: its checksum, or its size and time."""

import dataclasses
import hashlib
import os

from etils import epath


@dataclasses.dataclass(frozen=True)
class FileDigest:
    """What distinguishes a file from any other.

    Attributes:
      sha256: hash of its content, in hexadecimal digits.
      bytes: its length.
    """

    sha256: str
    bytes: int


def digest_bytes(content: bytes) -> FileDigest:
    """Returns the digest of a file's content."""
    return FileDigest(hashlib.sha256(content).hexdigest(), len(content))


def digest_file(path: epath.PathLike) -> FileDigest:
    """Returns the digest of a file, which is read in pieces because it may be larger than memory.

    Raises:
      OSError: the file cannot be read.
    """
    digest, length = hashlib.sha256(), 0
    with epath.Path(path).open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
            length += len(piece)
    return FileDigest(digest.hexdigest(), length)


def stamp(path: epath.PathLike) -> tuple[int, int]:
    """Returns a file's size in bytes and modification time in nanoseconds; -1 if it is absent.

    Reading the file will show what is wrong with it.
    """
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
