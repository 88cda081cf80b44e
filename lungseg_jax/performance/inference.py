"""Rates of evaluation and inference."""

from typing import Any

import jax
import numpy as np

from lungseg_jax.config import Config
from lungseg_jax.data.labels import num_classes
from lungseg_jax.data.synthetic import synthetic_batch
from lungseg_jax.network import make_forward
from lungseg_jax.optim import make_optimizer
from lungseg_jax.parallel import Parallel, batch_size_over
from lungseg_jax.performance.flops import forward_flops
from lungseg_jax.performance.roofline import Peaks, Rate
from lungseg_jax.performance.timing import Call, Seconds, spread, time_calls
from lungseg_jax.state import create_state, pack_state


def time_forward(config: Config, parallel: Parallel) -> dict[str, Seconds]:
    """Returns the seconds of the forward pass on random images.

    `evaluation` takes a batch from the host's memory and brings the probabilities back, like a
    single batch of `Evaluator`; `inference` leaves out the transfers; `single` is one image on one
    device, from and to the host's memory.
    """
    forward = make_forward(config)
    state = create_state(config, make_optimizer(config))

    def prepare(parallel: Parallel, count: int) -> tuple[Call, Call]:
        """Returns the calls on `count` images of this host: with transfers, and without."""
        apply = parallel.wrap_forward(forward)
        variables = pack_state(state).ema if parallel.pack_state else state.ema
        placed = parallel.replicate(jax.device_get(variables))
        images = synthetic_batch(config, count)["image"]
        on_device = parallel.shard(images)
        return (
            lambda: parallel.collect(apply(placed, parallel.shard(images))),
            lambda: apply(placed, on_device),
        )

    batch_size = batch_size_over(parallel.batch_shards, config.evaluation.batch_size)
    evaluation, inference = prepare(parallel, batch_size // jax.process_count())
    single, _ = prepare(Parallel("mesh", (jax.local_devices()[0],)), 1)
    calls = {"evaluation": evaluation, "inference": inference, "single": single}
    warmup, steps = config.benchmark.warmup_steps, config.benchmark.steps
    return {name: time_calls(call, warmup, steps) for name, call in calls.items()}


def forward_figures(
    config: Config, seconds: dict[str, Seconds], peaks: Peaks, parallel: Parallel
) -> dict[str, Any]:
    """Returns the figures of what `time_forward` timed."""
    size = config.data.image_size
    flops = forward_flops(config.model, size, size, num_classes(config.data.labels))
    devices = len(parallel.devices)
    batch_size = batch_size_over(parallel.batch_shards, config.evaluation.batch_size)

    def figures(name: str, rate: Rate) -> dict[str, Any]:
        durations = seconds[name]
        return (
            {"batch_size": rate.images}
            | spread(durations)
            | rate.figures(float(np.median(durations)))
        )

    return {
        "evaluation": figures("evaluation", Rate(devices, batch_size, flops, peaks)),
        "inference": figures("inference", Rate(devices, batch_size, flops, peaks))
        | {"single": {"batch_size": 1} | spread(seconds["single"])},
    }
