"""How fast the configured run is, and what limits it.

Imports no records, Grain or image decoders: with `benchmark.data=synthetic` it runs on a machine
that has JAX, Flax and optax.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree

from lungseg_jax import terminal
from lungseg_jax.benchmark_report import benchmark_report
from lungseg_jax.config import Config, check_devices
from lungseg_jax.data.labels import CHANNELS
from lungseg_jax.data.pictures import Batch, Store
from lungseg_jax.data.synthetic import synthetic_batch
from lungseg_jax.flops import forward_flops, training_flops
from lungseg_jax.forward import batch_size_over, make_forward
from lungseg_jax.optim import make_optimizer
from lungseg_jax.parallel import Parallel, all_devices
from lungseg_jax.roofline import Peaks, bytes_accessed, measure_peaks, place
from lungseg_jax.stages import Dispatcher, time_stages
from lungseg_jax.state import compute_dtype, create_state
from lungseg_jax.step import prepare_step
from lungseg_jax.timing import Seconds, spread, time_calls, time_pipelined

# Rounds of the programs whose differences are the stages.
STAGE_ROUNDS = 10

PROFILED_STEPS = 5


def benchmark(config: Config, workdir: epath.PathLike) -> dict[str, Any]:
    """Times the configured run's parts, writes `benchmark.json` and returns its content.

    Figures are of single calls, each waited for; `pipelined` are steps sent one after the other
    and waited for once, as the training loop does. FLOP/s are work counted from the architecture
    (`lungseg_jax.flops`) on all devices. `mfu` relates a device's share of it to the vendor's dense
    bfloat16 peak or, where none is known (CPU), to the matrix product measured on the spot, as
    `mfu_measured` always does. For the rest see the functions that return it.

    With `config.profile` a trace of some steps is left in `profile/`.
    """
    workdir = epath.Path(workdir)
    parallel = all_devices(config.parallel)
    check_devices(config, len(parallel.devices))
    terminal.say("Compiling, then timing the step, its input, its stages, and inference")

    store, open_batches = open_input(config, parallel)
    batches = open_batches()
    batch = parallel.shard(next(batches))
    state, jitted = prepare_step(config, parallel)
    step, compilation = compile_step(jitted, state, store, batch)
    dispatch = Dispatcher(state, store)

    warmup, steps = config.benchmark.warmup_steps, config.benchmark.steps
    seconds = time_calls(lambda: dispatch(step, batch), warmup, steps)
    pipelined = time_pipelined(lambda: dispatch(step, batch), warmup, steps)
    memory = memory_figures(step)
    fed = time_pipelined(lambda: dispatch(step, parallel.shard(next(batches))), warmup, steps)
    if config.profile:
        profile(lambda: dispatch(step, parallel.shard(next(batches))), workdir / "profile")
    # From an iterator that has nothing prefetched. The first batches fill its buffer.
    fresh = open_batches()
    input_alone = time_pipelined(lambda: parallel.shard(next(fresh)), steps, steps)
    stages = time_stages(config, parallel, step, dispatch, batch, STAGE_ROUNDS)
    forward = time_forward(config, parallel)
    peaks = measure_peaks(jax.local_devices(), compute_dtype(config))

    size = config.data.image_size
    classes = len(CHANNELS[config.data.labels])
    step_flops = training_flops(config.model, size, size, classes)
    rate = Rate(len(parallel.devices), config.batch_size, step_flops, peaks)
    result = {
        **describe(config, parallel),
        "resident": store is not None,
        **compilation,
        "gflop_per_image": {
            "training": step_flops / 1e9,
            "forward": forward_flops(config.model, size, size, classes) / 1e9,
        },
        "peaks": dataclasses.asdict(peaks),
        "train_step": spread(seconds)
        | rate.figures(float(np.median(seconds)))
        | {"pipelined": {"mean_ms": 1e3 * pipelined} | rate.figures(pipelined)},
        "roofline": roofline_figures(config, step, rate, float(np.median(seconds))),
        "stages": stages,
        "memory": memory,
        **input_figures(config.batch_size, pipelined, fed, input_alone),
        **forward_figures(config, forward, peaks, len(parallel.devices)),
    }
    terminal.say(benchmark_report(result))
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "benchmark.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


@dataclasses.dataclass(frozen=True)
class Rate:
    """Work done on all devices, `images` at a time of `flops` each."""

    devices: int
    images: int
    flops: int
    peaks: Peaks

    def figures(self, seconds: float) -> dict[str, Any]:
        """Returns the rates of work that takes so long."""
        tflops = self.images * self.flops / seconds / 1e12
        own = tflops / self.devices
        return {
            "images_per_second": self.images / seconds,
            "images_per_second_per_device": self.images / seconds / self.devices,
            "tflops_per_second": tflops,
            "mfu": own / self.peaks.tflops,
            "mfu_measured": own / self.peaks.matmul_tflops,
        }


def describe(config: Config, parallel: Parallel) -> dict[str, Any]:
    """Returns what was run, and where."""
    return {
        "device": parallel.devices[0].device_kind,
        "num_devices": len(parallel.devices),
        "num_processes": jax.process_count(),
        "cores": os.cpu_count(),
        "parallel": config.parallel,
        "batch_size": config.batch_size,
        "image_size": config.data.image_size,
        "dtype": str(compute_dtype(config)),
        "data": config.benchmark.data,
        "jax": jax.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def open_input(config: Config, parallel: Parallel) -> tuple[Store, Callable[[], Iterator[Batch]]]:
    """Returns the pictures on the devices, if any, and what opens an endless iterator of batches.

    Synthetic batches are one and the same, and carry their pictures.
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
    """Returns the compiled step and the seconds of tracing it to HLO and of XLA.

    `persistent_cache` is `hit` where XLA only loaded what an earlier process had compiled, `miss`
    where it compiled, `off` without a cache.
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

    The peak includes a store of pictures; CPUs keep none.
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


def profile(step: Callable[[], Any], folder: epath.Path) -> None:
    """Writes a trace of some steps, fed by the input, for XProf and Perfetto."""
    first = jax.process_index() == 0
    trace = jax.profiler.trace(folder, create_perfetto_trace=True)
    with trace if first else contextlib.nullcontext():
        for number in range(PROFILED_STEPS):
            with jax.profiler.StepTraceAnnotation("train", step_num=number):
                result = step()
        jax.block_until_ready(result)


def roofline_figures(
    config: Config, step: jax.stages.Compiled, rate: Rate, seconds: float
) -> dict[str, Any] | None:
    """Returns the step's place under the roofline; `None` with accumulation.

    XLA counts the bytes of a loop's body once, and the parts of a batch are a loop.
    """
    if config.accumulation_steps > 1:
        return None
    flops = rate.images * rate.flops / rate.devices
    return place(flops, bytes_accessed(step), seconds, rate.peaks)


def input_figures(batch_size: int, alone: float, fed: float, input_alone: float) -> dict[str, Any]:
    """Returns the figures of the input without steps, and of steps fed by it.

    A prefetch buffer can hide for as long as is timed that the input is slower than the step: the
    end-to-end rate is thus the lower of the rate that was timed and that of the input alone.
    `input_stall` is the share of its time that the step alone does not explain.

    Args:
      batch_size: over all devices.
      alone: seconds of a step on a batch that is on the devices, pipelined.
      fed: seconds of a step whose batch comes from the input, pipelined.
      input_alone: seconds of a batch from the input to the devices.
    """
    end_to_end = max(fed, input_alone)
    return {
        "input": {"images_per_second": batch_size / input_alone},
        "end_to_end": {
            "images_per_second": batch_size / end_to_end,
            "timed_images_per_second": batch_size / fed,
            "input_stall": max(0.0, 1 - alone / end_to_end),
        },
    }


def time_forward(config: Config, parallel: Parallel) -> dict[str, Seconds]:
    """Returns the seconds of the forward pass on random pictures.

    `evaluation` takes a batch from the host's memory and brings the probabilities back, as
    `Evaluator` does; `inference` leaves out the transfers; `single` is one picture on one device,
    from and to the host's memory.
    """
    forward = make_forward(config)
    variables = jax.device_get(create_state(config, make_optimizer(config)).ema)

    def prepare(parallel: Parallel, count: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
        apply = parallel.wrap_forward(forward)
        placed = parallel.replicate(variables)
        images = synthetic_batch(config, count)["image"]
        on_device = parallel.shard(images)
        return (
            lambda: parallel.collect(apply(placed, parallel.shard(images))),
            lambda: apply(placed, on_device),
        )

    batch_size = batch_size_over(len(parallel.devices), config.evaluation.batch_size)
    evaluation, inference = prepare(parallel, batch_size // jax.process_count())
    single, _ = prepare(Parallel("mesh", (jax.local_devices()[0],)), 1)
    calls = {"evaluation": evaluation, "inference": inference, "single": single}
    warmup, steps = config.benchmark.warmup_steps, config.benchmark.steps
    return {name: time_calls(call, warmup, steps) for name, call in calls.items()}


def forward_figures(
    config: Config, seconds: dict[str, Seconds], peaks: Peaks, devices: int
) -> dict[str, Any]:
    """Returns the figures of what `time_forward` timed."""
    size = config.data.image_size
    flops = forward_flops(config.model, size, size, len(CHANNELS[config.data.labels]))
    batch_size = batch_size_over(devices, config.evaluation.batch_size)

    def figures(name: str, rate: Rate) -> dict[str, Any]:
        own = seconds[name]
        return {"batch_size": rate.images} | spread(own) | rate.figures(float(np.median(own)))

    return {
        "evaluation": figures("evaluation", Rate(devices, batch_size, flops, peaks)),
        "inference": figures("inference", Rate(devices, batch_size, flops, peaks))
        | {"single": {"batch_size": 1} | spread(seconds["single"])},
    }
