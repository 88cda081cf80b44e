"""What tells a file from any other."""

import dataclasses
import hashlib

from etils import epath


@dataclasses.dataclass(frozen=True)
class FileDigest:
    """What tells a file from any other.

    Attributes:
      sha256: of its content, in hexadecimal digits.
      bytes: its length.
    """

    sha256: str
    bytes: int


def digest_bytes(content: bytes) -> FileDigest:
    """Returns the digest of a file's content."""
    return FileDigest(hashlib.sha256(content).hexdigest(), len(content))


def digest_file(path: epath.PathLike) -> FileDigest:
    """Returns the digest of a file, which is read in pieces: it may be larger than memory.

    Raises:
      OSError: it cannot be read.
    """
    digest, length = hashlib.sha256(), 0
    with epath.Path(path).open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
            length += len(piece)
    return FileDigest(digest.hexdigest(), length)
