"""Ctrl-C in real processes."""

import signal

import pytest

from tests.small import REPOSITORY, python

# Where the collector's callbacks meet a signal, Python prints what it raised and goes on.
INTERRUPTED_COLLECTION = """
import gc, signal, sys, time
from lungseg_jax.command import run_command
pressed = []
def collecting(phase, _):
    if not pressed:
        pressed.append(phase)
        signal.raise_signal({number})
def job():
    gc.callbacks.append(collecting)
    gc.collect()
    # As training does, not in one call: a signal just before one is seen after it.
    for _ in range(1200):
        time.sleep(0.05)
sys.exit(run_command([], "", job, "run it again"))
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "Interrupted; run it again"), (signal.SIGTERM, 143, "Stopped; run it")],
)
def test_a_signal_during_garbage_collection_is_not_lost(number, code, said):
    """Fault: a run that goes on for hours after Ctrl-C, or is killed when its grace time is over.

    JAX has a callback that the garbage collector calls.
    """
    program = INTERRUPTED_COLLECTION.format(number=int(number))
    ended = python("-c", program, path=str(REPOSITORY))
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


# What must not end halfway, and what comes after it.
HELD_BACK = """
import signal, sys
from lungseg_jax.command import run_command
from lungseg_jax.runtime.interrupts import held_back
def job():
    with held_back(signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        print("saved", file=sys.stderr)
    print("went on", file=sys.stderr)
sys.exit(run_command([], "", job, "run it again"))
"""


def test_what_must_not_end_halfway_ends_before_the_interrupt():
    """Fault: a checkpoint whose save had just begun lost, or a Ctrl-C that is forgotten."""
    ended = python("-c", HELD_BACK, path=str(REPOSITORY))
    assert ended.returncode == 130
    assert "saved" in ended.stderr
    assert "went on" not in ended.stderr
