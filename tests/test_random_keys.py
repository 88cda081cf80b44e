"""What random numbers depend on."""

import jax
import jax.numpy as jnp

from lungseg_jax.random_keys import named_key


def test_named_streams_differ():
    """Fault: augmentation that repeats the numbers of the initial parameters."""
    keys = [named_key(0, "parameters"), named_key(0, "augment"), named_key(1, "augment")]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 3
    assert jnp.array_equal(*(jax.random.key_data(named_key(0, "augment")) for _ in range(2)))
