"""Times of the training step and of its input."""

import contextlib
import dataclasses
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from lungseg_jax import terminal
from lungseg_jax.config import Config
from lungseg_jax.data.samples import Batch, Store
from lungseg_jax.data.synthetic import synthetic_batch
from lungseg_jax.parallel import Parallel
from lungseg_jax.performance.roofline import bytes_accessed
from lungseg_jax.performance.stages import Dispatcher, time_stages
from lungseg_jax.performance.timing import (
    Call,
    Seconds,
    SecondsOfRounds,
    call_in_a_row,
    time_calls,
    time_pipelined,
)
from lungseg_jax.step import prepare_step

# Rounds of the programs whose differences are the stages.
STAGE_ROUNDS = 10

# Steps in a row with and without the input take turns, so that both see the same disturbances. A
# round waits for its first batch, which weighs less in longer rounds.
ROUND_STEPS = 10
ROUND_SECONDS = 0.5
MIN_ROUNDS = 10

PROFILED_STEPS = 5


@dataclasses.dataclass(frozen=True)
class TrainingTimes:
    """What was timed, in seconds, and what the compiler says about the step.

    Attributes:
      resident: whether the images live on the devices.
      compilation: see `compile_step`.
      step: time of each step on one batch that is already on the devices, every step waited for.
      pipelined: time of such a step, in rounds of many in a row that are waited for once.
      fed: time of a step whose batch comes from the input, in rounds that alternate with those.
      input_alone: time to bring a batch from the input to the devices, in as many rounds.
      stages: see `time_stages`.
      memory: see `memory_figures`.
      bytes_accessed: bytes accessed by a step on one device.
    """

    resident: bool
    compilation: dict[str, Any]
    step: Seconds
    pipelined: SecondsOfRounds
    fed: SecondsOfRounds
    input_alone: SecondsOfRounds
    stages: dict[str, dict[str, float] | None]
    memory: dict[str, Any]
    bytes_accessed: float


def time_training(
    config: Config, parallel: Parallel, trace_folder: epath.Path | None
) -> TrainingTimes:
    """Returns the times of the configured step; writes a trace to the folder if there is one."""
    store, open_batches = open_input(config, parallel)
    batches = open_batches()
    batch = parallel.shard(next(batches))
    state, step = prepare_step(config, parallel)
    # Compiled for its figures only; what is timed is called as training calls it.
    compiled, compilation = compile_step(step, state, store, batch)
    terminal.say(
        f"Compiled in {compilation['compile_seconds']:.0f} s; timing the step and its input"
    )
    dispatch = Dispatcher(state, store)

    def on_device() -> PyTree:
        return dispatch(step, batch)

    def from_input() -> PyTree:
        return dispatch(step, parallel.shard(next(batches)))

    warmup, steps = config.benchmark.warmup_steps, config.benchmark.steps
    alone = time_calls(on_device, warmup, steps)
    part = _steps_a_round(float(np.median(alone)))
    rounds = max(MIN_ROUNDS, math.ceil(steps / ROUND_STEPS))
    pipelined, fed = _in_turn(on_device, from_input, warmup, part, rounds)
    memory = memory_figures(compiled)
    if trace_folder:
        profile(from_input, trace_folder)
    fresh = open_batches()

    def next_batch() -> PyTree:
        return parallel.shard(next(fresh))

    # What was read ahead is used up before the clock starts.
    call_in_a_row(next_batch, steps)
    input_alone = [time_pipelined(next_batch, 0, ROUND_STEPS) for _ in range(rounds)]
    terminal.say("Timing the stages, each of which is compiled by itself")
    return TrainingTimes(
        resident=store is not None,
        compilation=compilation,
        step=alone,
        pipelined=pipelined,
        fed=fed,
        input_alone=np.array(input_alone),
        stages=time_stages(config, parallel, step, dispatch, batch, STAGE_ROUNDS),
        memory=memory,
        bytes_accessed=bytes_accessed(compiled),
    )


def _in_turn(
    first: Call, second: Call, warmup: int, count: int, rounds: int
) -> tuple[SecondsOfRounds, SecondsOfRounds]:
    """Returns the seconds of two calls, pipelined, round by round.

    Each comes first in every other round, so that a machine that slows down favours neither.
    """
    seconds = np.empty((rounds, 2))
    calls = (first, second)
    for turn in range(rounds):
        for place in (0, 1) if turn % 2 == 0 else (1, 0):
            seconds[turn, place] = time_pipelined(calls[place], warmup, count)
    return seconds[:, 0], seconds[:, 1]


def _steps_a_round(step_seconds: float) -> int:
    """Returns the steps per round, the same in all processes: a step waits for all of them."""
    count = max(ROUND_STEPS, math.ceil(ROUND_SECONDS / step_seconds))
    return int(multihost_utils.broadcast_one_to_all(np.int32(count)))


def open_input(config: Config, parallel: Parallel) -> tuple[Store, Callable[[], Iterator[Batch]]]:
    """Returns the images on the devices, if any, and a function that opens endless batches.

    Synthetic input repeats one batch, which carries its own images.
    """
    if config.benchmark.data == "synthetic":
        batch = synthetic_batch(config, config.batch_size // jax.process_count())
        return None, lambda: itertools.repeat(batch)
    # Here, because a machine without TFDS, Grain and image decoders has no records to read.
    from lungseg_jax.data.pipeline import read_store, training_batches, use_resident
    from lungseg_jax.data.records import open_records

    records = open_records(config)["train"]
    resident = use_resident(records, config)
    store = parallel.replicate(read_store(records)) if resident else None
    return store, lambda: training_batches(records, config, resident=resident)


def compile_step(
    step: Callable[..., Any], *arguments: PyTree
) -> tuple[jax.stages.Compiled, dict[str, Any]]:
    """Returns the compiled step and the seconds for tracing it to HLO and for XLA.

    `persistent_cache` is `hit` if XLA only loaded what an earlier process had compiled, `miss` if
    it compiled, and `off` without a cache.
    """
    events = set()

    def listen(event: str, **_: object) -> None:
        events.add(event.rpartition("/")[2])

    jax.monitoring.register_event_listener(listen)
    start = time.perf_counter()
    lowered = step.lower(*arguments)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    jax.monitoring.unregister_event_listener(listen)
    asked = "miss" if "compile_requests_use_cache" in events else "off"
    return compiled, {
        "compile_seconds": end - start,
        "compile": {
            "lowering_seconds": middle - start,
            "xla_seconds": end - middle,
            "persistent_cache": "hit" if "cache_hits" in events else asked,
        },
    }


def memory_figures(step: jax.stages.Compiled) -> dict[str, Any]:
    """Returns bytes of one device: what the step needs, by XLA's plan, and the peak so far.

    The peak includes a store of images; CPUs record no peak.
    """
    plan: Any = step.memory_analysis()
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "planned_bytes": plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes,
        "peak_bytes": stats.get("peak_bytes_in_use"),
        "limit_bytes": stats.get("bytes_limit"),
    }


def profile(step: Call, folder: epath.Path) -> None:
    """Writes a trace of some steps, fed by the input, for XProf and Perfetto."""
    first = jax.process_index() == 0
    # Not there directly: the trace for Perfetto can only be written to a disk.
    with tempfile.TemporaryDirectory() as name:
        trace = jax.profiler.trace(name, create_perfetto_trace=True)
        with trace if first else contextlib.nullcontext():
            for number in range(PROFILED_STEPS):
                with jax.profiler.StepTraceAnnotation("train", step_num=number):
                    result = step()
            jax.block_until_ready(result)
        written = Path(name)
        for path in written.rglob("*"):
            if path.is_file():
                target = folder / path.relative_to(written)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
