"""The training step on one device and on many, in parts and whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lungseg_jax.optim import make_optimizer
from lungseg_jax.parallel import Parallel
from lungseg_jax.state import create_state
from lungseg_jax.step import accumulate, dice_sums, load_batch, make_train_step, prepare_step
from tests.small import (
    assert_trees_close,
    assert_trees_equal,
    run_steps,
    small_config,
    small_samples,
    without_augmentation,
)

# Two of eight images, of all devices' losses, are left out.
CONFIG = small_config(trimmed_share=0.25)

# Differences between orders of summation, through two steps of an optimizer.
ROUNDING = {"rtol": 2e-4, "atol": 5e-5}


@pytest.fixture(scope="module")
def on_one_device():
    return run_steps(CONFIG, Parallel("mesh", tuple(jax.devices()[:1])), 2)


@pytest.mark.parametrize(
    ("kind", "space_shards", "shard_optimizer", "resident"),
    [
        ("pmap", 1, False, True),
        ("mesh", 1, False, False),
        ("mesh", 4, True, False),
        pytest.param("pmap", 1, False, False, marks=pytest.mark.slow),
        pytest.param("mesh", 1, True, True, marks=pytest.mark.slow),
        pytest.param("mesh", 8, False, False, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_equal_one(
    kind, space_shards, shard_optimizer, resident, on_one_device, eight_devices
):
    """Fault: per-device Dice or trimming, unsynchronised batch statistics, sums for averages.

    With rows spread: borders between devices that see zeros, or the wrong neighbour. Augmentation
    is on and the foreground share differs between the devices.
    """
    parallel = Parallel(kind, eight_devices, space_shards, shard_optimizer)
    state, history = run_steps(CONFIG, parallel, 2, resident=resident)
    assert_trees_close(history, on_one_device[1], **ROUNDING)
    assert_trees_close(state, on_one_device[0], **ROUNDING)


def test_step_leaves_out_the_trimmed_share(on_one_device):
    """Fault: a share that does not reach the loss."""
    _, whole = run_steps(small_config(), Parallel("mesh", tuple(jax.devices()[:1])), 1)
    assert on_one_device[1][0]["loss"] < whole[0]["loss"]


def test_figures_of_a_step_are_those_of_its_docstring():
    """Fault: a Dice at another threshold, or the norm of the weights before the update."""
    logits = jnp.array([-2.0, -0.1, 0.1, 2.0]).reshape(1, 2, 2, 1)
    masks = jnp.array([0.0, 1.0, 1.0, 0.0]).reshape(1, 2, 2, 1)
    # Predicted are the last two, one of which is right, of two that there are.
    np.testing.assert_array_equal(dice_sums(logits, masks), [[1], [4]])
    parallel = Parallel("mesh", tuple(jax.devices()[:1]))
    before = jax.device_get(prepare_step(small_config(), parallel)[0].parameters)
    # The first step has a rate of zero.
    state, (_, figures) = run_steps(small_config(), parallel, 2)
    norms = [float(optax.tree.norm(x)) for x in (state.parameters, before)]
    assert [float(figures["parameter_norm"]) == pytest.approx(x, rel=1e-6) for x in norms] == [
        True,
        False,
    ]


def keeping_gradients() -> optax.GradientTransformation:
    """An optimizer that changes nothing, and whose state is the gradients that it was given."""
    return optax.GradientTransformation(
        lambda parameters: parameters,
        lambda gradients, *_: (jax.tree.map(jnp.zeros_like, gradients), gradients),
    )


def test_the_logged_gradient_is_that_of_the_update_and_dice_a_mean_over_classes():
    """Fault: the norm of something else, so that nobody sees a run diverge; a Dice above 1."""
    config = without_augmentation(small_config(data__labels="left_right", model__depth=1))
    optimizer = keeping_gradients()
    parallel = Parallel("mesh", tuple(jax.devices()[:1]))
    step = jax.jit(make_train_step(config, optimizer, parallel))
    image, mask = small_samples()
    both = np.repeat(mask, 2, axis=-1)
    batch = {"slot": jnp.arange(8), "image": jnp.asarray(image), "mask": jnp.asarray(both)}
    state = create_state(config, optimizer)
    after, figures = step(state, None, batch)
    norm = float(optax.tree.norm(after.optimizer))
    assert float(figures["gradient_norm"]) == pytest.approx(norm, rel=1e-5)
    assert norm != pytest.approx(float(figures["parameter_norm"]), rel=0.01)
    # Every pixel is lung, and so says the network.
    sure = jax.tree.map_with_path(
        lambda path, x: x + 40 if "head" in str(path) and "bias" in str(path) else x,
        state.parameters,
    )
    batch["mask"] = jnp.ones_like(batch["mask"])
    _, figures = step(state._replace(parameters=sure), None, batch)
    assert float(figures["dice"]) == pytest.approx(1)
    # Fault: NaN in the mean over classes, for a batch without one of the lungs.
    batch["mask"] = jnp.zeros_like(batch["mask"])
    none = jax.tree.map_with_path(
        lambda path, x: x - 80 if "head" in str(path) and "bias" in str(path) else x, sure
    )
    _, figures = step(state._replace(parameters=none), None, batch)
    assert float(figures["dice"]) == 0


def test_statistics_pass_through_every_part_of_a_batch():
    """Fault: running statistics that the last part alone reaches, with accumulation_steps."""
    state = create_state(CONFIG, make_optimizer(CONFIG))
    state = state._replace(batch_stats=jax.tree.map(jnp.zeros_like, state.batch_stats))

    def counted(parameters, batch_stats, images, masks):
        sums = jnp.zeros((2, masks.shape[-1]))
        after = jax.tree.map(lambda x: x + 1, batch_stats)
        return (images.sum(), (after, sums)), parameters

    images = jnp.ones((8, 4, 4, 1))
    result = accumulate(counted, state, images, images, 4)
    assert {float(x) for leaf in jax.tree.leaves(result.batch_stats) for x in leaf} == {4}
    # Of two images in each part.
    assert result.loss == 2 * 4 * 4


def test_pmap_on_one_device_equals_mesh(on_one_device):
    """Fault: a wrapper that changes the function."""
    state, history = run_steps(CONFIG, Parallel("pmap", tuple(jax.devices()[:1])), 2)
    assert_trees_close((state, history), on_one_device, **ROUNDING)


@pytest.mark.parametrize(
    ("kind", "devices"), [("pmap", 4), pytest.param("mesh", 4, marks=pytest.mark.slow)]
)
def test_accumulation_over_devices_equals_accumulation_on_one(kind, devices, eight_devices):
    """Fault: parts made of other examples on many devices, or an average over the wrong count."""
    config = small_config(accumulation_steps=2)
    alone = run_steps(config, Parallel("mesh", eight_devices[:1]), 2)
    spread = run_steps(config, Parallel(kind, eight_devices[:devices]), 2)
    assert_trees_close(spread, alone, **ROUNDING)


def test_accumulated_gradient_is_the_mean_over_parts(eight_devices):
    """Fault: gradients added up, so that clipping and decay act on another scale.

    With group norm and equal images every part is the whole batch over again.
    """
    config = without_augmentation(small_config(model__norm="group", model__width=8))
    parallel = Parallel("mesh", eight_devices[:1])
    images = small_samples(2)
    repeated = jax.tree.map(lambda x: np.tile(x, (4, 1, 1, 1)), images)
    results = []
    for parts in (1, 4):
        config = dataclasses.replace(config, accumulation_steps=parts)
        state, step = prepare_step(config, parallel)
        order = np.arange(8, dtype=np.int32)
        # Part i takes every fourth example: two different images each.
        image, mask = (np.repeat(x[:2], 4, axis=0) for x in repeated)
        batch = {"position": order, "slot": order, "image": image, "mask": mask}
        results.append(jax.device_get(step(state, None, parallel.shard(batch))))
    # Dice of a part and of the batch differ by the smoothing alone.
    assert_trees_close(results[0], results[1], rtol=2e-3, atol=1e-4)


def test_loss_falls(eight_devices):
    """Fault: an update with the wrong sign, or one that never reaches the parameters."""
    config = without_augmentation(
        small_config(num_steps=40, optimizer__warmup_steps=2, optimizer__learning_rate=1e-2)
    )
    state, history = run_steps(config, Parallel("pmap", eight_devices), 30)
    losses = [float(metrics["loss"]) for metrics in history]
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    assert int(state.step) == 30
    assert history[-1]["dice"] > 0.8


def test_ema_follows_the_parameters_and_their_statistics(eight_devices):
    """Fault: an average that is never updated, that is the state itself, or lacks statistics."""
    config = small_config(num_steps=9, optimizer__warmup_steps=0)
    parallel = Parallel("pmap", eight_devices[:1])
    before = create_state(config, make_optimizer(config))
    start = jax.device_get((before.parameters, before.batch_stats))
    after, _ = run_steps(config, parallel, 1)
    end = after.parameters, after.batch_stats
    # The decay of the first step, however large the configured one.
    expected = jax.tree.map(lambda x, y: 0.1 * x + 0.9 * y, start, jax.device_get(end))
    assert_trees_close(after.ema, expected, rtol=1e-5, atol=1e-7)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), start, jax.device_get(after.ema))
    assert all(max(jax.tree.leaves(part)) > 1e-4 for part in moved)


def test_each_step_changes_its_images_otherwise():
    """Fault: the same turn and the same noise at every step, which is no augmentation."""
    image, mask = map(jnp.asarray, small_samples())
    batch = {"slot": jnp.arange(8), "image": image, "mask": mask}
    first, again, second = (load_batch(CONFIG, jnp.int32(step), None, batch) for step in (0, 0, 1))
    assert_trees_equal(first, again)
    # Fault: runs of other seeds that see the same turns and the same noise.
    seeded = load_batch(dataclasses.replace(CONFIG, seed=1), jnp.int32(0), None, batch)
    for changed in (second, seeded):
        for one, other in zip(first, changed, strict=True):
            assert (np.asarray(one) != np.asarray(other)).any(axis=(1, 2, 3)).all()


def test_the_logged_learning_rate_is_the_one_of_the_update(on_one_device):
    """Fault: the next step's rate, so that curves of loss and rate are shifted."""
    rates = [float(metrics["learning_rate"]) for metrics in on_one_device[1]]
    # The warm-up of a run of 20 steps ends at the 19th.
    assert rates == pytest.approx([0, CONFIG.optimizer.learning_rate / 19])
