"""The state of a run and what its random numbers depend on."""

import jax
import jax.numpy as jnp
import numpy as np

from lungseg_jax.optim import make_optimizer
from lungseg_jax.state import create_state, model_graph, named_key, update_ema
from tests.small import assert_trees_equal, small_config


def test_initial_parameters_are_a_function_of_the_seed():
    """Fault: two runs of one seed that start apart, or all seeds that start alike."""
    states = [
        create_state(config, make_optimizer(config))
        for config in (small_config(), small_config(), small_config(seed=1))
    ]
    assert_trees_equal(states[0], states[1])
    kernels = [state.parameters["head"]["kernel"][...] for state in states]
    assert np.abs(kernels[0] - kernels[2]).max() > 0.01


def test_graph_of_any_axis_takes_the_same_state():
    """Fault: a checkpoint of `pmap` that `mesh` cannot read."""
    config = small_config()
    state = create_state(config, make_optimizer(config))
    for axis_name in (None, "data"):
        from flax import nnx

        model = nnx.merge(model_graph(config, axis_name), state.parameters, state.batch_stats)
        assert model(jnp.zeros((1, 32, 32, 1))).shape == (1, 32, 32, 1)


def test_named_streams_differ():
    """Fault: augmentation that repeats the numbers of the initial parameters."""
    keys = [named_key(0, "parameters"), named_key(0, "augment"), named_key(1, "augment")]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 3
    assert jnp.array_equal(*(jax.random.key_data(named_key(0, "augment")) for _ in range(2)))


def test_ema_forgets_its_start_early_and_then_averages():
    """Fault: short runs evaluated at their random start, or a decay that never ends."""
    start, new = {"x": jnp.zeros(())}, {"x": jnp.ones(())}
    early = update_ema(start, new, jnp.int32(0), 0.99)
    np.testing.assert_allclose(early["x"], 0.9)
    late = update_ema(start, new, jnp.int32(10**6), 0.99)
    np.testing.assert_allclose(late["x"], 0.01, rtol=1e-5)
