"""Timing: which calls count."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lungseg_jax.parallel import MAX_PENDING
from lungseg_jax.performance.timing import (
    call_in_a_row,
    median_and_error,
    spread,
    time_in_turn,
    time_pipelined,
)


def test_calls_take_turns_and_warm_up_does_not_count():
    """Fault: one program timed while the machine was busy, another while it was not."""
    order = []
    seconds = time_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, 3)
    assert "".join(order) == "ab" * 5
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_each_call_is_timed_to_its_result(monkeypatch):
    """Fault: a round that nobody timed, whose seconds are what was in memory; dispatch alone."""
    clock, calls = [0.0], []
    monkeypatch.setattr("lungseg_jax.performance.timing.time.perf_counter", lambda: clock[0])

    class Result:
        def __init__(self, seconds: float) -> None:
            # The first calls compile.
            self.seconds = seconds if len(calls) >= 4 else 100.0
            calls.append(self)

        def block_until_ready(self) -> None:
            clock[0] += self.seconds

    seconds = time_in_turn({"a": lambda: Result(1.0), "b": lambda: Result(2.0)}, 2, 3)
    np.testing.assert_array_equal(seconds["a"], [1, 1, 1])
    np.testing.assert_array_equal(seconds["b"], [2, 2, 2])


def test_pipelined_mean_is_of_the_calls_after_warm_up(monkeypatch):
    """Fault: a rate of other calls than were counted."""
    clock, calls = [0.0], []

    def call() -> None:
        # The first compile.
        clock[0] += 2.0 if len(calls) >= 3 else 100.0
        calls.append(clock[0])

    monkeypatch.setattr("lungseg_jax.performance.timing.time.perf_counter", lambda: clock[0])
    assert time_pipelined(call, warmup=3, count=4) == 2.0
    assert len(calls) == 7


def test_calls_in_a_row_wait_for_the_oldest_alone():
    """Fault: a device that runs dry, or results that nobody waited for."""
    running: set[object] = set()
    depths = []

    class Result:
        def block_until_ready(self) -> None:
            # Devices work in order: what is older is done too.
            depths.append(len(running))
            running.discard(self)

    def call() -> Result:
        result = Result()
        running.add(result)
        return result

    call_in_a_row(call, 100)
    assert not running
    assert depths[: 100 - MAX_PENDING] == [MAX_PENDING] * (100 - MAX_PENDING)


def test_spread_is_in_milliseconds():
    """Fault: a factor of a thousand, or percentiles of the wrong side."""
    found = spread(np.linspace(0, 1, 101))
    assert found == pytest.approx({"median_ms": 500, "p5_ms": 50, "p95_ms": 950})


def test_error_of_a_median_is_how_medians_scatter():
    """Fault: an error that promises more than rounds can tell, or that one bad round decides."""
    values = np.random.default_rng(0).normal(3.0, 0.5, (4000, 20))
    found = np.array([median_and_error(rounds) for rounds in values])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.1)
    disturbed = values[0].copy()
    disturbed[0] = 1e6
    assert median_and_error(disturbed)[1] < 2 * median_and_error(values[0])[1]


def test_short_calls_on_many_cpu_devices_do_not_come_to_a_halt():
    """Fault: more calls on their way than XLA's CPU devices take; it ends the process."""
    code = """
import jax, jax.numpy as jnp
from lungseg_jax.parallel import all_devices
from lungseg_jax.performance.timing import time_pipelined
jax.config.update("jax_num_cpu_devices", 8)
x = all_devices("mesh").shard(jnp.ones((8, 256, 64)))
step = jax.jit(lambda x: (x - (x @ jnp.ones((64, 64))).mean(), x.sum()), donate_argnums=0)
def call():
    global x
    x, result = step(x)
    return result
time_pipelined(call, 3, 4000)
"""
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-500:]
