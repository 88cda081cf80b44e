"""Ctrl-C: when it has to wait, and how it is kept from being lost."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

# Delay before a signal that was dropped is sent again; what could not raise it is over by then.
_AGAIN_SECONDS = 0.05


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
