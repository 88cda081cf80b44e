"""Random keys by name: functions of the seed, so that no state has to carry one."""

import jax
from jaxtyping import Array


def named_key(seed: int, name: str) -> Array:
    """Returns the random key of a named stream; streams of different names are independent."""
    key = jax.random.key(seed)
    for byte in name.encode():
        key = jax.random.fold_in(key, byte)
    return key
