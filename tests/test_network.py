"""The structure of the configured network."""

import jax.numpy as jnp
from flax import nnx

from lungseg_jax.network import model_graph
from lungseg_jax.optim import make_optimizer
from lungseg_jax.state import create_state
from tests.small import small_config


def test_graph_of_any_axis_takes_the_same_state():
    """Fault: a checkpoint of `pmap` that `mesh` cannot read."""
    config = small_config()
    state = create_state(config, make_optimizer(config))
    for axis_name in (None, "data"):
        model = nnx.merge(model_graph(config, axis_name), state.parameters, state.batch_stats)
        assert model(jnp.zeros((1, 32, 32, 1))).shape == (1, 32, 32, 1)
