"""Ctrl-C while a command imports, and from when on it is heeded."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

_changed = False


def end_at_once_while_importing(package: str) -> None:
    """Makes SIGINT end a command of a package until it listens; a package calls it first.

    Imports take seconds. Python's own handler would end them in a traceback, or not at all where a
    library catches whatever its imports raise. Of other programs the handler is left as it is.

    Args:
      package: whose modules are commands.
    """
    global _changed
    # What `argv` holds while `python -m` imports the packages that a module is in.
    starts = sys.argv[:1] == ["-m"] and _module_called().startswith(f"{package}.")
    if starts and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _changed = True


def listen() -> None:
    """Makes SIGINT raise `KeyboardInterrupt` again if `end_at_once_while_importing` changed it."""
    if _changed and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Within the context, which is for imports of a command that listens, it does not."""
    if not _changed or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _module_called() -> str:
    """Returns the module that `python -m` was given, or nothing."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word.startswith("-m"):
            return word[2:] or next(words, "")
    return ""
