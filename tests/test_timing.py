"""Timing: which calls count."""

import numpy as np
import pytest

from lungseg_jax.timing import spread, time_in_turn, time_pipelined


def test_calls_take_turns_and_warm_up_does_not_count():
    """Fault: one program timed while the machine was busy, another while it was not."""
    order = []
    seconds = time_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, 3)
    assert "".join(order) == "ab" * 5
    assert {name: len(own) for name, own in seconds.items()} == {"a": 3, "b": 3}


def test_pipelined_mean_is_of_the_calls_after_warm_up(monkeypatch):
    """Fault: a rate of other calls than were counted."""
    clock = [0.0]

    def call() -> None:
        clock[0] += 2.0

    monkeypatch.setattr("lungseg_jax.timing.time.perf_counter", lambda: clock[0])
    assert time_pipelined(call, warmup=3, count=4) == 2.0


def test_spread_is_in_milliseconds():
    """Fault: a factor of a thousand, or percentiles of the wrong side."""
    found = spread(np.linspace(0, 1, 101))
    assert found == pytest.approx({"median_ms": 500, "p5_ms": 50, "p95_ms": 950})
