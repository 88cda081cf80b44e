"""Ctrl-C before a command listens to it."""

import signal
import sys


def end_at_once_during_imports(package: str) -> None:
    """Makes SIGINT end a command of a package until `raise_again`; a package calls it first.

    Imports take seconds. Python's own handler would end them in a traceback, or not at all where a
    library catches whatever its imports raise. Of other programs the handler is left as it is.

    Args:
      package: whose modules are commands.
    """
    # What `argv` holds while `python -m` imports the packages that a module is in.
    starts = sys.argv[:1] == ["-m"] and f"{package}." in " ".join(sys.orig_argv)
    if starts and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """Makes SIGINT raise `KeyboardInterrupt`, if `end_at_once_during_imports` changed that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
