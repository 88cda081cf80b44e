"""Being asked to stop by SIGTERM, as machines that are preempted are."""

import contextlib
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
    """Within the context SIGTERM raises `Stopped`."""

    def stop(*_: object) -> None:
        raise Stopped

    with _on_sigterm(stop):
        yield


@contextlib.contextmanager
def stop_after_step() -> Iterator[Callable[[int], bool]]:
    """Within the context SIGTERM only asks to stop; yields the question whether it did, by step.

    Preempted hosts of one job must stop after the same step: JAX's preemption service, which
    catches SIGTERM itself, agrees on it.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    with _on_sigterm(ask):
        yield lambda _: asked


@contextlib.contextmanager
def _on_sigterm(handler: Callable[..., None]) -> Iterator[None]:
    # Signals are the main thread's; who trains in another one has to stop it in a way of their own.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        # There is no handler to go back to where one was set from outside Python.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
