"""Being asked to stop: by the main thread's signals, where there are any."""

import io
import os
import pty
import signal
import sys
import threading
from pathlib import Path

import pytest

from lungseg_jax import terminal
from lungseg_jax.runtime.preemption import hang_up_asks_to_stop, stop_after_step, stop_at_once


def test_a_run_in_another_thread_starts():
    """Fault: training from a job server's or a notebook's thread ends in a ValueError."""
    asked = []

    def train() -> None:
        with stop_after_step() as stop:
            asked.append(stop(1))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert asked == [False]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_session_that_ends_is_a_request_to_stop(handler):
    """Fault: a run that dies with its SSH session and saves nothing, or dies in spite of nohup."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with stop_after_step() as stop, hang_up_asks_to_stop():
            assert not stop(1)
            signal.raise_signal(signal.SIGHUP)
            assert stop(2) == (handler is signal.SIG_DFL)
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_is_said_to_a_closed_terminal_raises_nothing(monkeypatch):
    """Fault: a session that breaks, so that the next message ends the run before it has saved."""
    leader, terminal_end = pty.openpty()
    with os.fdopen(terminal_end, "wb", buffering=0) as raw:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, write_through=True))
        with terminal.progress("train", 2, "step") as bar:
            os.close(leader)
            terminal.say("saved")
            bar.update(2)
            bar.refresh()


def test_a_log_on_a_full_disk_raises_nothing(monkeypatch):
    """Fault: a run on one disk ends because another, which its log goes to, is full."""
    with Path("/dev/full").open("wb", buffering=0) as raw:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, write_through=True))
        with terminal.progress("train", 2, "step") as bar:
            terminal.say("saved")
            bar.update(2)
            bar.refresh()


@pytest.mark.parametrize("context", [stop_at_once, stop_after_step])
def test_a_handler_of_the_caller_is_back_afterwards(context):
    """Fault: a job server whose own SIGTERM handler is gone after a run, so that it just dies."""

    def handler(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with context():
            assert signal.getsignal(signal.SIGTERM) is not handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
