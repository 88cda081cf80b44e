"""The structure of the configured network."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.network import model_graph, multiplies_bfloat16, split_model, to_intensity
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


def test_state_that_no_checkpoint_would_have_is_refused():
    """Fault: dropout that draws other numbers after a run is resumed, or a trace of Flax."""
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(2, 2, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))
    with pytest.raises(ConfigError, match=r"Sequential: holds layers\.1\.rngs\.count"):
        split_model(model)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int32])
def test_images_of_another_type_are_refused(dtype):
    """Fault: a network that is trained on, or asked about, all but black images."""
    with pytest.raises(DataError, match=f"of type {np.dtype(dtype)}; give intensity x 65535"):
        to_intensity(jnp.ones((1, 2, 2, 1), dtype))
    whole = np.array([0, 13107, 65535], np.uint16)
    np.testing.assert_allclose(to_intensity(jnp.asarray(whole)), [0, 0.2, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("platform", "capability", "multiplies"),
    [
        ("cpu", None, False),
        ("tpu", None, True),
        ("gpu", "7.0", False),
        ("gpu", "7.5", False),
        ("gpu", "8.0", True),
        ("gpu", "12.0", True),
        ("gpu", "gfx90a", True),
    ],
)
def test_old_gpus_compute_in_float32(platform, capability, multiplies):
    """Fault: a T4 or a V100 that emulates bfloat16, slower than float32 and less exact."""
    device = SimpleNamespace(platform=platform)
    if capability:
        device.compute_capability = capability
    assert multiplies_bfloat16(device) == multiplies
