"""Stopping on SIGTERM, which preempted machines receive."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


class Stopped(BaseException):
    """SIGTERM ended the job before it was done; not an error, so no `Exception`.

    Its text, if any, says how to go on.
    """


@contextlib.contextmanager
def stop_at_once() -> Iterator[None]:
    """Within the context, SIGTERM raises `Stopped`."""

    def stop(*_: object) -> None:
        raise Stopped

    with _on(signal.SIGTERM, stop):
        yield


@contextlib.contextmanager
def stop_after_step() -> Iterator[Callable[[int], bool]]:
    """Makes SIGTERM only ask to stop; yields a function that says, for a step, whether it did.

    Preempted hosts of one job must stop after the same step: JAX's preemption service, which
    catches SIGTERM itself, makes them agree on it.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    with _on(signal.SIGTERM, ask):
        yield lambda _: asked


@contextlib.contextmanager
def hang_up_asks_to_stop() -> Iterator[None]:
    """Within the context, SIGHUP counts as SIGTERM, unless it is ignored, as by nohup.

    When a machine is taken away, systemd sends both to what an SSH session started; a session that
    breaks sends SIGHUP alone.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        yield
        return
    # As a signal, because on several hosts JAX catches SIGTERM outside Python.
    with _on(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM)):
        yield


@contextlib.contextmanager
def _on(number: int, handler: Callable[..., None]) -> Iterator[None]:
    # Only the main thread receives signals; training in another must be stopped in another way.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        # There is no handler to go back to if it was set from outside Python.
        signal.signal(number, signal.SIG_DFL if before is None else before)
