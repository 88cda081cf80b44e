"""The step cut short: what is left of it, and the differences."""

import jax
import numpy as np
import pytest

from lungseg_jax.data.samples import Samples
from lungseg_jax.data.synthetic import synthetic_batch
from lungseg_jax.optim import make_optimizer
from lungseg_jax.parallel import Parallel
from lungseg_jax.performance.stages import Dispatcher, cut_steps, stage_figures, step_of_one_device
from lungseg_jax.state import create_state
from lungseg_jax.step import prepare_step
from tests.small import small_config


def test_compiler_drops_what_a_cut_step_does_not_need(eight_devices):
    """Fault: the backward pass timed as forward, the stages after it as nothing."""
    # As accelerators have it: on a CPU kernels' gradients are loops, whose body XLA counts once.
    config = small_config(batch_size=2, model__width=8, model__dtype="bfloat16")
    state = create_state(config, make_optimizer(config))
    batch = synthetic_batch(config, 2)
    flops = {}
    cuts = cut_steps(config, Parallel("mesh", eight_devices[:1]))
    for name, step in cuts.items():
        analysis = jax.jit(step).lower(state, None, batch).compile().cost_analysis()
        assert analysis is not None
        flops[name] = analysis.get("flops", 0)
    assert flops["call"] == 0
    forward = flops["loss"] - flops["augment"]
    backward = flops["gradients"] - flops["loss"]
    assert forward > 0
    # A convolution's gradients are twice its work; XLA counts what surrounds it as well.
    assert 1.5 < backward / forward < 3


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_cut_steps_end_with_the_figures_of_the_whole(eight_devices, kind):
    """Fault: a stage timed on other images, on one device of eight, or with another state."""
    config = small_config()
    parallel = Parallel(kind, eight_devices)
    state, step = prepare_step(config, parallel)
    batch = parallel.shard(synthetic_batch(config, config.batch_size))
    dispatch = Dispatcher(state, None)
    cut = cut_steps(config, parallel)
    loss, norm = dispatch(parallel.wrap_step(cut["gradients"]), batch)
    metrics = dispatch(step, batch)
    np.testing.assert_allclose(loss, metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(norm, metrics["gradient_norm"], rtol=1e-4)
    assert int(dispatch.state.step) == 1, "a cut step makes no update"


@pytest.mark.parametrize("trimmed_share", [0.0, 1 / 8])
def test_one_device_takes_its_share_of_the_batch(eight_devices, trimmed_share):
    """Fault: communication measured against a step of another size.

    Or none at all, where less than an image of a device's share is to be left out.
    """
    config = small_config(batch_size=16, trimmed_share=trimmed_share)
    parallel = Parallel("pmap", eight_devices)
    call = step_of_one_device(config, parallel, None)
    loss = call()["loss"]
    assert np.isfinite(loss)
    assert call.args[1]["image"].shape == (1, 2, 32, 32, 1)
    # Fault: images carried by the batch where the whole step takes them from the store.
    batch = synthetic_batch(config, 2)
    store = parallel.replicate(Samples(batch["image"], batch["mask"]))
    call = step_of_one_device(config, parallel, store)
    assert call.args[1].keys() == {"position", "slot"}
    np.testing.assert_allclose(call()["loss"], loss, rtol=1e-6)


def test_stages_are_differences_within_a_round():
    """Fault: differences of medians, which another program's pause shifts."""
    pause = np.array([0.0, 1.0, 0.0])
    seconds = {
        "call": 0.02 + pause,
        "augment": 0.1 + pause,
        "loss": 0.3 + pause,
        "gradients": 0.7 + pause,
        "whole": 0.75 + pause,
    }
    figures = stage_figures(seconds)
    assert figures["all_reduce"] is None
    expected = {"call": 20, "augment": 80, "forward_and_loss": 200, "backward": 400, "update": 50}
    for name, milliseconds in expected.items():
        assert figures[name]["median_ms"] == pytest.approx(milliseconds)
    assert figures["backward"]["p95_ms"] == pytest.approx(400)
    whole = stage_figures(seconds | {"one_device": 0.65 + pause})["all_reduce"]
    assert whole["median_ms"] == pytest.approx(100)
