"""Seconds that calls take, for functions that return before the device is done."""

import collections
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64

from lungseg_jax.parallel import MAX_PENDING

Call = Callable[[], Any]
Seconds = Float64[np.ndarray, " n"]
SecondsOfRounds = Float64[np.ndarray, " rounds"]


def time_calls(call: Call, warmup: int, count: int) -> Seconds:
    """Returns the seconds of each call from dispatch to result; every call is waited for."""
    return time_in_turn({"only": call}, warmup, count)["only"]


def time_in_turn(calls: Mapping[str, Call], warmup: int, count: int) -> dict[str, Seconds]:
    """Returns what `time_calls` does for several functions in turn, one call of each per round.

    Other load on the machine then affects all of them alike, and differences can be taken within
    a round.
    """
    seconds = {name: np.empty(count) for name in calls}
    for i in range(-warmup, count):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if i >= 0:
                seconds[name][i] = time.perf_counter() - start
    return seconds


def time_pipelined(call: Call, warmup: int, count: int) -> float:
    """Returns the mean seconds of calls in a row, as `call_in_a_row` makes them.

    This is how a training loop runs: the host prepares a step while the device computes another.
    """
    for _ in range(warmup):
        jax.block_until_ready(call())
    start = time.perf_counter()
    call_in_a_row(call, count)
    return (time.perf_counter() - start) / count


def call_in_a_row(call: Call, count: int) -> None:
    """Makes `count` calls and waits for all results, with at most `MAX_PENDING` calls in flight.

    Args:
      call: returns arrays that no later call donates.
      count: number of calls.
    """
    pending: collections.deque[Any] = collections.deque()
    for _ in range(count):
        if len(pending) == MAX_PENDING:
            jax.block_until_ready(pending.popleft())
        pending.append(call())
    # JAX treats a deque as a leaf, and would wait for nothing.
    jax.block_until_ready(list(pending))


def spread(seconds: Seconds) -> dict[str, float]:
    """Returns median, 5th and 95th percentile in milliseconds."""
    p5, median, p95 = 1e3 * np.percentile(seconds, [5, 50, 95])
    return {"median_ms": float(median), "p5_ms": float(p5), "p95_ms": float(p95)}


def median_and_error(values: Float64[np.ndarray, " n"]) -> tuple[float, float]:
    """Returns the median and its standard error, for values that are normal except for outliers.

    The error is that of a normal distribution's median, its spread taken from the median absolute
    deviation (Rousseeuw and Croux 1993, https://doi.org/10.1080/01621459.1993.10476408).
    """
    median = np.median(values)
    deviation = 1.4826 * np.median(np.abs(values - median))
    return float(median), float(math.sqrt(math.pi / 2 / len(values)) * deviation)
