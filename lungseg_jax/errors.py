"""Errors that a user can fix; commands print them as one line."""

import errno
import os


class UserError(Exception):
    """A fault in what the user gave, not in the program.

    Args:
      subject: the file or configuration key at fault.
      fault: what is wrong with it.
      remedy: what would make it right.
    """

    def __init__(self, subject: object, fault: str, remedy: str) -> None:
        super().__init__(f"{subject}: {fault}; {remedy}")
        self.subject, self.fault, self.remedy = subject, fault, remedy

    def __reduce__(self) -> tuple:
        # Exception's own would call __init__ with the joined message when a worker process raises.
        return type(self), (self.subject, self.fault, self.remedy)


# Libraries whose errors concern the login, the network or the rights to a bucket.
REMOTE_LIBRARIES = ("gcsfs", "google", "aiohttp", "requests")

# Status codes that XLA, TensorStore and gcsfs put into the text of built-in exceptions for the same
# failures. With the colon, because messages also hold paths, which may be called anything.
REMOTE_CODES = (
    "PERMISSION_DENIED:", "UNAUTHENTICATED:", "UNAVAILABLE:", "DEADLINE_EXCEEDED:", "ABORTED:",
    "Forbidden:",
)  # fmt: skip

# Codes of a disk or a network that fails, whose files may be whole. Not every system has each.
_FAILING = (
    "EIO", "ENXIO", "ENODEV", "EPROTO", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "ESTALE", "EREMOTEIO",
)  # fmt: skip
# The longest first: "No such device or address" begins with the words of another code.
_FAILING_WORDS = sorted(
    (os.strerror(code) for code, name in errno.errorcode.items() if name in _FAILING),
    key=len,
    reverse=True,
)


def failing_disk(error: Exception) -> str | None:
    """Returns what the system says of a disk or a network that fails, if that is the cause.

    TensorStore and ArrayRecord have it in the text of exceptions of their own.
    """
    return next((words for words in _FAILING_WORDS if words in str(error)), None)


def first_line(error: Exception) -> str:
    """Returns the beginning of another library's error, for a one-line message."""
    return str(error).strip().partition("\n")[0][:200]


class ConfigError(UserError, ValueError):
    """A configuration key that is unknown, ill-typed or impossible."""


class DataError(UserError):
    """An image, mask, folder or record that cannot be used."""


class NotFrontalError(DataError):
    """A file that is no frontal chest radiograph by its header: left out of any data set."""


class CheckpointError(UserError):
    """Checkpoints of a run, or a file of weights, that cannot serve the request."""


class DivergedError(UserError):
    """Training produced a loss, a gradient or parameters that are not finite."""
