"""Trees of arrays as vectors, and the training step that carries them."""

import shutil
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from lungseg_jax.log import Log
from lungseg_jax.optim import make_optimizer
from lungseg_jax.packing import Packed, is_kernel, pack, pack_like, unpack
from lungseg_jax.parallel import Parallel, all_devices
from lungseg_jax.state import create_state, pack_state
from lungseg_jax.train import loop, started
from tests.small import (
    assert_trees_close,
    assert_trees_equal,
    run_steps,
    small_config,
    small_config_with_data,
)

# Differences between orders of summation, through the steps of an optimizer.
ROUNDING = {"rtol": 2e-4, "atol": 5e-5}


def numbered(*shapes: tuple[int, ...]):
    """Arrays that hold different numbers, under names and numbers as modules and lists are."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    numbers = np.split(np.arange(sum(sizes), dtype=np.float32), np.cumsum(sizes)[:-1])
    arrays = [
        jnp.asarray(values).reshape(shape) for values, shape in zip(numbers, shapes, strict=True)
    ]
    return {"first": arrays[:1], "rest": {i: {"x": array} for i, array in enumerate(arrays[1:])}}


@pytest.mark.parametrize(
    "tree",
    [
        numbered((3, 3, 2, 4), (4,), (1, 1, 4, 2), (2,), ()),
        numbered((4,), (2,)),
        numbered((2, 3), (3, 1)),
        {},
    ],
    ids=["both", "no kernel", "kernels", "nothing"],
)
def test_what_is_packed_comes_back(tree):
    """Fault: an array in another's place, or in another shape; a network without statistics."""
    packed = pack(tree)
    kernels = sum(x.size for x in jax.tree.leaves(tree) if is_kernel(x.shape))
    others = sum(x.size for x in jax.tree.leaves(tree)) - kernels
    assert (packed.kernels is None) == (kernels == 0)
    assert (packed.others is None) == (others == 0)
    assert sum(x.size for x in jax.tree.leaves(packed)) == kernels + others
    for unpacked in (unpack(packed), jax.jit(unpack)(packed)):
        assert jax.tree.structure(unpacked) == jax.tree.structure(tree)
        assert_trees_equal(unpacked, tree)


def test_state_is_packed_whole():
    """Fault: moments or averages left in pieces, each at a kernel's and a call's price."""
    config = small_config()
    state = create_state(config, make_optimizer(config))
    packed = pack_state(state)
    # Parameters, their two moments and their average; statistics and theirs are no kernels.
    vectors = [x for x in jax.tree.leaves(packed) if x.ndim]
    assert len(vectors) == 4 * 2 + 2
    assert {x.ndim for x in vectors} == {1}
    assert_trees_equal(unpack(packed), state)
    again = pack_like(state, packed)
    assert jax.tree.structure(again) == jax.tree.structure(packed)
    assert_trees_equal(again, packed)
    assert jax.tree.structure(pack_like(state, state)) == jax.tree.structure(state)


@pytest.mark.parametrize(
    ("kind", "devices", "changes"),
    [
        ("pmap", 8, {}),
        ("mesh", 1, {"accumulation_steps": 2}),
        pytest.param("mesh", 8, {}, marks=pytest.mark.slow),
        pytest.param(
            "pmap", 1, {"model__norm": "group", "model__width": 8}, marks=pytest.mark.slow
        ),
    ],
)
def test_packed_steps_equal_plain_ones(kind, devices, changes, eight_devices):
    """Fault: decay of scales and biases, statistics in another's place, a norm of a part.

    Or places that are equal and not the same object, which each call would compare.
    Decay is strong enough to show within three steps.
    """
    config = small_config(
        optimizer__weight_decay=5.0, optimizer__learning_rate=1e-2, optimizer__warmup_steps=1,
        **changes,
    )  # fmt: skip
    chosen = eight_devices[:devices]
    plain, expected = run_steps(config, Parallel(kind, chosen), 3)
    packed, history = run_steps(config, Parallel(kind, chosen, pack_state=True), 3)
    assert isinstance(packed.parameters, Packed)
    assert len(jax.tree.leaves(packed)) < 20 < len(jax.tree.leaves(plain))
    assert_trees_close(history, expected, **ROUNDING)
    assert_trees_close(jax.jit(unpack)(packed), plain, **ROUNDING)


@pytest.mark.parametrize("kind", ["pmap", pytest.param("mesh", marks=pytest.mark.slow)])
def test_run_goes_on_from_its_checkpoint_packed_or_not(kind, tmp_path, eight_devices):
    """Fault: a checkpoint that only the machine that wrote it can read, or averages mixed up.

    Interrupted after the checkpoint of step 2, a run ends with the bits of one that was not.
    """
    config = small_config_with_data(tmp_path, num_steps=4, evaluation__every=2)
    packed = Parallel(kind, eight_devices, pack_state=True)
    plain = Parallel(kind, eight_devices)

    def run_on(name: str, parallel: Parallel, until: int = 4):
        workdir = epath.Path(tmp_path / name)
        with started(config, parallel, workdir) as run, Log(workdir, first_step=1) as log:
            loop(run, log, lambda step: step == until)
        return jax.device_get(unpack(run.state))

    whole = run_on("whole", packed)
    interrupted = run_on("interrupted", packed, until=2)
    assert int(interrupted.step) == 2
    shutil.copytree(tmp_path / "interrupted", tmp_path / "elsewhere")
    assert_trees_equal(run_on("interrupted", packed), whole)
    assert_trees_close(run_on("elsewhere", plain), whole, **ROUNDING)


@pytest.mark.parametrize(
    ("platform", "shard_optimizer", "expected"),
    [("gpu", False, True), ("gpu", True, False), ("cpu", False, False), ("tpu", False, False)],
)
def test_only_gpus_pack_the_state(platform, shard_optimizer, expected, monkeypatch):
    """Fault: packing that no machine does, or moments held whole that were to be spread."""
    monkeypatch.setattr(jax, "devices", lambda: [Mock(spec=jax.Device, platform=platform)])
    parallel = all_devices("mesh", shard_optimizer=shard_optimizer)
    assert (parallel.pack_state, parallel.shard_optimizer) == (expected, shard_optimizer)
