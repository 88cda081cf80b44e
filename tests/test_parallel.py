"""Spreading over devices and collecting again."""

import jax
import numpy as np
import pytest

from lungseg_jax.parallel import Parallel, batch_size_over


@pytest.mark.parametrize(
    ("kind", "count", "space_shards"),
    [("pmap", 1, 1), ("pmap", 8, 1), ("mesh", 4, 1), ("mesh", 8, 1), ("mesh", 8, 4)],
)
def test_collected_results_keep_the_order_of_the_batch(eight_devices, kind, count, space_shards):
    """Fault: shards concatenated in another order than they were cut, or copies counted twice."""
    parallel = Parallel(kind, eight_devices[:count], space_shards)
    batch = np.arange(16 * 8, dtype=np.float32).reshape(16, 8)
    forward = parallel.wrap_forward(lambda scale, x: scale * x)
    results = parallel.collect(forward(parallel.replicate(np.float32(2)), parallel.shard(batch)))
    np.testing.assert_array_equal(results, 2 * batch)


@pytest.mark.parametrize(("asked", "given"), [(1, 8), (8, 8), (12, 16)])
def test_a_batch_that_does_not_divide_grows(asked: int, given: int):
    """Fault: a batch rounded down: of none at all, or smaller than its user's memory allows."""
    assert batch_size_over(8, asked) == given


def test_rows_of_a_forward_pass_are_spread_like_those_of_a_step(eight_devices):
    """Fault: images that training spreads, and one device holds whole when they are evaluated."""
    parallel = Parallel("mesh", eight_devices, space_shards=4)
    images = jax.ShapeDtypeStruct((2, 8, 4, 1), np.float32)
    forward = parallel.wrap_forward(lambda _, images: 2 * images)
    lowered = forward.lower(np.float32(0), images)
    # Of two images with eight rows, a device has two rows of one.
    assert "f32[1,2,4,1]" in lowered.compile().as_text()


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_state_and_store_stay_where_they_are(eight_devices, kind):
    """Fault: the state or the resident images copied to every device at each step."""
    parallel = Parallel(kind, eight_devices)
    state = parallel.replicate({"x": np.ones(8, np.float32)})
    store = parallel.replicate(np.ones(1000, np.float32))

    def step(state, store, batch):
        total = batch.sum()
        if parallel.axis_name:
            total = jax.lax.psum(total, parallel.axis_name)
        return {"x": state["x"] + store[:8] * total}, {"total": total}

    wrapped = parallel.wrap_step(step)
    batch = parallel.shard(np.ones(16, np.float32))
    state, _ = wrapped(state, store, batch)
    with jax.transfer_guard("disallow"):
        state, metrics = wrapped(state, store, batch)
    assert state["x"].sharding.is_equivalent_to(parallel.replicated, 1)
    np.testing.assert_array_equal(state["x"], np.full(8, 33.0))
    assert float(metrics["total"]) == 16


def test_optimizer_takes_an_eighth_of_the_memory_on_each_device(eight_devices):
    """Fault: an array that was to be spread held whole, or one that does not divide cut."""
    parallel = Parallel("mesh", eight_devices, shard_optimizer=True)
    tree = {
        "kernel": np.arange(3 * 3 * 16 * 8).reshape(3, 3, 16, 8),
        "bias": np.arange(16),
        "odd": np.arange(3 * 3 * 4 * 4).reshape(3, 3, 4, 4),
    }
    placed = parallel.place(tree, jax.tree.map(parallel.optimizer_sharding, tree))
    held = jax.tree.map(lambda x: x.addressable_shards[0].data.shape, placed)
    assert held == {"kernel": (3, 3, 2, 8), "bias": (2,), "odd": (3, 3, 4, 4)}
    jax.tree.map(np.testing.assert_array_equal, placed, tree)
    # Fault: devices that share an image's rows counted as if each had a part of the batch.
    pairs = Parallel("mesh", eight_devices, space_shards=4, shard_optimizer=True)
    placed = pairs.place(tree, jax.tree.map(pairs.optimizer_sharding, tree))
    held = jax.tree.map(lambda x: x.addressable_shards[0].data.shape, placed)
    assert held == {"kernel": (3, 3, 8, 8), "bias": (8,), "odd": (3, 3, 2, 4)}


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_state_is_donated(eight_devices, kind):
    """Fault: two states in memory at a time."""
    parallel = Parallel(kind, eight_devices)
    state = parallel.replicate({"x": np.ones(8, np.float32)})
    wrapped = parallel.wrap_step(lambda state, _, batch: ({"x": state["x"] + 1}, batch.shape[0]))
    wrapped(state, None, parallel.shard(np.ones(16, np.float32)))
    assert state["x"].is_deleted()
