"""Ctrl-C: when it takes effect, when it has to wait, and how it is kept from being lost."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

# Delay before a signal that was dropped is sent again; what could not raise it is over by then.
_AGAIN_SECONDS = 0.05

_changed = False


def end_at_once_while_importing(package: str) -> None:
    """Makes SIGINT end a package's command until that listens; the package calls this first.

    Imports take seconds. Python's own handler would end them in a traceback, or not at all where a
    library catches whatever its imports raise. In other programs the handler is left as it is.

    Args:
      package: the package whose modules are commands.
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
def sent_again_if_dropped(signals: Mapping[type[BaseException], int]) -> Iterator[None]:
    """Within the context, sends a signal again if Python drops the exception that it raises.

    Python does so in the garbage collector's callbacks, of which JAX has one, and in `__del__`: a
    run would go on as if nobody had pressed Ctrl-C.

    Args:
      signals: the signals, by the exceptions that they raise.
    """
    before = sys.unraisablehook
    timers: list[threading.Timer] = []

    def heard(unraisable: Any) -> None:
        if number := signals.get(unraisable.exc_type):
            # Not here, where it would be dropped again.
            timers.append(threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)))
            timers[-1].start()
        else:
            before(unraisable)

    sys.unraisablehook = heard
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()


@contextlib.contextmanager
def held_back(number: int) -> Iterator[None]:
    """Holds a signal back until the end of the context, which is for what must not end halfway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        # There is no handler to go back to if it was set from outside Python.
        signal.signal(number, signal.SIG_DFL if before is None else before)
        if came:
            signal.raise_signal(number)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Suspends listening within the context, which is for imports of a command that listens."""
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
