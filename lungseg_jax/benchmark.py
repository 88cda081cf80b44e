"""How fast the configured run is, and what limits it.

Imports no records, Grain or image decoders: with `benchmark.data=synthetic` it runs on a machine
that has JAX, Flax and optax.
"""

import dataclasses
import json
import os
import sys
from typing import Any

import jax
import numpy as np
from etils import epath

from lungseg_jax import terminal
from lungseg_jax.config import Config
from lungseg_jax.data.labels import num_classes
from lungseg_jax.device_counts import check_devices
from lungseg_jax.network import compute_dtype
from lungseg_jax.parallel import Parallel, all_devices
from lungseg_jax.paths import is_in_bucket, make_folder, run_folder, write_whole
from lungseg_jax.performance.flops import forward_flops, training_flops
from lungseg_jax.performance.inference import forward_figures, time_forward
from lungseg_jax.performance.report import benchmark_report
from lungseg_jax.performance.roofline import Peaks, Rate, measure_peaks, place
from lungseg_jax.performance.timing import SecondsOfRounds, median_and_error, spread
from lungseg_jax.performance.training import TrainingTimes, time_training
from lungseg_jax.runtime.environment import environment
from lungseg_jax.runtime.hosts import without_folders


def benchmark(config: Config, workdir: epath.PathLike) -> dict[str, Any]:
    """Times the configured run's parts, writes `benchmark.json` and returns its content.

    Figures are those of single calls, each waited for; `pipelined` is the median of several rounds
    of steps sent one after the other and waited for once, as in the training loop. FLOP/s are
    counted from the architecture (`performance.flops`), over all devices. `mfu` relates a device's
    share of them to the vendor's dense bfloat16 peak or, where none is known (CPU), to the matrix
    product measured on the spot, as `mfu_measured` always does. `stages` are those of
    `lungseg_jax.performance.stages`. For the rest, see the functions that return it.

    With `config.profile`, a trace of some steps is written to `profile/`.

    Raises:
      ConfigError: batches do not divide over the devices.
      DataError: the images cannot be used, or the folder cannot be made.
    """
    workdir = run_folder(workdir)
    if jax.process_index() == 0 and not is_in_bucket(workdir):
        # Now: all that is measured would be lost.
        make_folder(workdir)
    parallel = all_devices(
        config.parallel, config.space_shards, shard_optimizer=config.shard_optimizer
    )
    check_devices(config, len(parallel.devices), jax.process_count())
    terminal.say("Compiling the step; then it and its parts are timed, which takes minutes")
    times = time_training(config, parallel, workdir / "profile" if config.profile else None)
    terminal.say("Timing evaluation and inference")
    forward = time_forward(config, parallel)
    # Last, so that a device's peak memory is that of training.
    peaks = measure_peaks(jax.local_devices(), compute_dtype(config))
    result = {
        **describe(config, parallel),
        "resident": times.resident,
        **times.compilation,
        "peaks": dataclasses.asdict(peaks),
        **training_figures(config, times, peaks, len(parallel.devices)),
        **input_figures(config.batch_size, times.pipelined, times.fed, times.input_alone),
        **forward_figures(config, forward, peaks, parallel),
    }
    terminal.say(benchmark_report(result))
    if jax.process_index() == 0:
        write_whole(workdir / "benchmark.json", (json.dumps(result, indent=2) + "\n").encode())
    return result


def describe(config: Config, parallel: Parallel) -> dict[str, Any]:
    """Returns what was run, and where."""
    return {
        "device": parallel.devices[0].device_kind,
        "num_devices": len(parallel.devices),
        "num_processes": jax.process_count(),
        "parallel": config.parallel,
        "batch_size": config.batch_size,
        "image_size": config.data.image_size,
        "dtype": str(compute_dtype(config)),
        "data": config.benchmark.data,
        **environment(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        # Results are passed on, folders are not.
        "config": json.loads(without_folders(dataclasses.replace(config, start_from=""))),
    }


def training_figures(
    config: Config, times: TrainingTimes, peaks: Peaks, devices: int
) -> dict[str, Any]:
    """Returns the figures of the step.

    `roofline` (see `performance.roofline.place`) is `None` with accumulation: XLA counts the bytes
    of a loop's body once, and the parts of a batch are a loop.
    """
    size = config.data.image_size
    classes = num_classes(config.data.labels)
    flops = training_flops(config.model, size, size, classes)
    rate = Rate(devices, config.batch_size, flops, peaks)
    median = float(np.median(times.step))
    device_flops = flops * config.batch_size / devices
    one_part = config.accumulation_steps == 1
    pipelined = float(np.median(times.pipelined))
    return {
        "gflop_per_image": {
            "training": flops / 1e9,
            "forward": forward_flops(config.model, size, size, classes) / 1e9,
        },
        "train_step": {
            **spread(times.step),
            **rate.figures(median),
            "pipelined": {"mean_ms": 1e3 * pipelined, **rate.figures(pipelined)},
        },
        "roofline": place(device_flops, times.bytes_accessed, median, peaks) if one_part else None,
        "stages": times.stages,
        "memory": times.memory,
    }


def input_figures(
    batch_size: int, alone: SecondsOfRounds, fed: SecondsOfRounds, input_alone: SecondsOfRounds
) -> dict[str, Any]:
    """Returns the figures of the input without steps, and of steps fed by it.

    While it lasts, a prefetch buffer hides an input that is slower than the step: the end-to-end
    rate is therefore the lower of the timed rate and the rate of the input alone. `input_stall` is
    the share of the end-to-end time that the step alone does not explain, `input_stall_error` its
    standard error; noise can make it negative. All are medians over the rounds. Where the input is
    slower than the step and also slows it down, the figures are those of the input alone, and so
    too good.

    Args:
      batch_size: images per batch over all devices.
      alone: seconds of a step on a batch that is on the devices, pipelined, round by round.
      fed: seconds of a step whose batch comes from the input, pipelined, in rounds between those.
      input_alone: seconds to bring a batch from the input to the devices, in as many rounds.
    """
    end_to_end = max(fed, input_alone, key=np.median)
    stall, error = median_and_error(1 - alone / end_to_end)
    return {
        "input": {"images_per_second": batch_size / float(np.median(input_alone))},
        "end_to_end": {
            "images_per_second": batch_size / float(np.median(end_to_end)),
            "timed_images_per_second": batch_size / float(np.median(fed)),
            "input_stall": stall,
            "input_stall_error": error,
        },
    }


if __name__ == "__main__":
    command = "python -m lungseg_jax.main --mode=benchmark --config=FILE"
    sys.exit(f"Error: lungseg_jax.benchmark is no command: {command} measures")
