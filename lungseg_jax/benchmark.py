"""Step throughput with and without the input pipeline, and inference throughput."""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from lungseg_jax import terminal
from lungseg_jax.config import Config, check_devices
from lungseg_jax.data.pipeline import read_store, training_batches, use_resident
from lungseg_jax.data.records import open_records
from lungseg_jax.evaluate import Evaluator
from lungseg_jax.optim import make_optimizer
from lungseg_jax.parallel import Parallel, all_devices
from lungseg_jax.state import create_state
from lungseg_jax.step import prepare_step

# Dense bf16 peaks in TFLOP/s as the vendors state them, by the beginning of JAX's device kind.
PEAK_TFLOPS = {
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5": 459.0,
    "TPU v6": 918.0,
    "NVIDIA A100": 312.0,
    "NVIDIA H100": 989.0,
    "NVIDIA H200": 989.0,
}


def benchmark(config: Config, workdir: epath.PathLike) -> dict[str, Any]:
    """Times the configured run's parts, writes `benchmark.json` and returns its content.

    The step alone runs on one batch that is already on the device. End to end, each batch comes
    through the input pipeline. `input_stall` is the share of end-to-end time that the step alone
    does not explain. FLOPs are those XLA counts in the compiled step, recomputation by
    `model.remat` included; `mfu` relates them to the device's dense bf16 peak and is null where
    that is not known.
    """
    parallel = all_devices(
        config.parallel, config.space_shards, shard_optimizer=config.shard_optimizer
    )
    check_devices(config, len(parallel.devices), jax.process_count())
    device = parallel.devices[0]
    result = {
        "device": device.device_kind,
        "num_devices": len(parallel.devices),
        "batch_size": config.batch_size,
        "image_size": config.data.image_size,
        "parallel": config.parallel,
        **time_training(config, parallel),
        "inference": time_inference(config, parallel),
    }
    _report(result, epath.Path(workdir))
    return result


def time_training(config: Config, parallel: Parallel) -> dict[str, Any]:
    """Returns compile time, the step's figures, and those of steps fed by the input pipeline."""
    records = open_records(config)["train"]
    resident = use_resident(records, config)
    store = parallel.replicate(read_store(records)) if resident else None
    batches = training_batches(records, config, resident=resident)
    state, step = prepare_step(config, parallel)

    batch = parallel.shard(next(batches))
    terminal.say("Compiling, then timing the step, the step with its input, and inference")
    start = time.perf_counter()
    compiled = step.lower(state, store, batch).compile()
    compile_seconds = time.perf_counter() - start
    flops = _flops(compiled)
    if config.accumulation_steps > 1:
        # XLA counts the body of a loop once: count the batch done in one part.
        whole = dataclasses.replace(config, accumulation_steps=1)
        flops = _flops(prepare_step(whole, parallel)[1].lower(state, store, batch).compile())

    def step_alone() -> Any:  # noqa: ANN401
        nonlocal state
        state, metrics = compiled(state, store, batch)
        return metrics

    seconds = time_calls(step_alone, config)
    start = time.perf_counter()
    for _ in range(config.benchmark.steps):
        state, metrics = compiled(state, store, parallel.shard(next(batches)))
    jax.block_until_ready(metrics)
    end_to_end = (time.perf_counter() - start) / config.benchmark.steps
    median = float(np.median(seconds))
    return {
        "resident": resident,
        "compile_seconds": compile_seconds,
        "train_step": _step_figures(seconds, config.batch_size, flops, parallel),
        "end_to_end": {
            "images_per_second": config.batch_size / end_to_end,
            "input_stall": max(0.0, 1 - median / end_to_end),
        },
    }


def time_inference(config: Config, parallel: Parallel) -> dict[str, Any]:
    """Returns the figures of the forward pass on random pictures, batch by batch."""
    evaluator = Evaluator(config, parallel)
    variables = parallel.replicate(create_state(config, make_optimizer(config)).ema)
    count = evaluator.batch_size // jax.process_count()
    shape = (count, config.data.image_size, config.data.image_size, 1)
    images = parallel.shard(np.random.default_rng(0).integers(0, 2**16, shape, dtype=np.uint16))
    median = float(np.median(time_calls(lambda: evaluator.forward(variables, images), config)))
    return {
        "batch_size": evaluator.batch_size,
        "median_ms": 1e3 * median,
        "images_per_second": evaluator.batch_size / median,
    }


def time_calls(call: Callable[[], Any], config: Config) -> list[float]:
    """Returns the seconds of each call after warm-up, every one waited for."""
    seconds = []
    for i in range(config.benchmark.warmup_steps + config.benchmark.steps):
        start = time.perf_counter()
        jax.block_until_ready(call())
        if i >= config.benchmark.warmup_steps:
            seconds.append(time.perf_counter() - start)
    return seconds


def _step_figures(
    seconds: Sequence[float], batch_size: int, flops_per_device: float, parallel: Parallel
) -> dict[str, Any]:
    median = float(np.median(seconds))
    peak = _peak_tflops(parallel.devices[0].device_kind)
    tflops_per_device = flops_per_device / median / 1e12
    return {
        "median_ms": 1e3 * median,
        "p95_ms": 1e3 * float(np.percentile(seconds, 95)),
        "images_per_second": batch_size / median,
        "tflops_per_second": tflops_per_device * len(parallel.devices),
        "mfu": tflops_per_device / peak if peak else None,
    }


def _flops(compiled: Any) -> float:  # noqa: ANN401
    """FLOPs of one device's part of the program, as XLA counts them."""
    analysis = compiled.cost_analysis()
    return float((analysis[0] if isinstance(analysis, list) else analysis)["flops"])


def _peak_tflops(kind: str) -> float | None:
    # The longest name that fits: "TPU v5 lite" is not a "TPU v5".
    fitting = [name for name in PEAK_TFLOPS if kind.startswith(name)]
    return PEAK_TFLOPS[max(fitting, key=len)] if fitting else None


def _report(result: dict[str, Any], workdir: epath.Path) -> None:
    step, end_to_end, inference = (result[key] for key in ("train_step", "end_to_end", "inference"))
    mfu = f", MFU {step['mfu']:.1%}" if step["mfu"] else ""
    rows = [
        ["compile", f"{result['compile_seconds']:.1f} s", ""],
        [
            "step",
            f"{step['median_ms']:.1f} ms (p95 {step['p95_ms']:.1f})",
            f"{step['images_per_second']:.1f} images/s, "
            f"{step['tflops_per_second']:.3f} TFLOP/s{mfu}",
        ],
        [
            "end to end",
            f"stall {end_to_end['input_stall']:.1%}",
            f"{end_to_end['images_per_second']:.1f} images/s",
        ],
        [
            "inference",
            f"{inference['median_ms']:.1f} ms",
            f"{inference['images_per_second']:.1f} images/s",
        ],
    ]
    devices = f"{result['num_devices']} x {result['device']}, batch {result['batch_size']}"
    terminal.say(terminal.table([devices, "time", "throughput"], rows))
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "benchmark.json").write_text(json.dumps(result, indent=2) + "\n")
