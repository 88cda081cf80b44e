"""The state of a run."""

import jax
import jax.numpy as jnp
import numpy as np

from lungseg_jax import state as state_module
from lungseg_jax.optim import make_optimizer
from lungseg_jax.state import create_state, update_ema
from tests.small import assert_trees_close, assert_trees_equal, small_config


def test_initial_parameters_are_a_function_of_the_seed():
    """Fault: two runs of one seed that start apart, or all seeds that start alike."""
    states = [
        create_state(config, make_optimizer(config))
        for config in (small_config(), small_config(), small_config(seed=1))
    ]
    assert_trees_equal(states[0], states[1])
    kernels = [state.parameters["head"]["kernel"][...] for state in states]
    assert np.abs(kernels[0] - kernels[2]).max() > 0.01


def test_quick_compilation_changes_last_bits_at_most(monkeypatch):
    """Fault: other initial weights on a CPU than those that a seed gives elsewhere."""
    config = small_config()
    quick = create_state(config, make_optimizer(config))
    # XLA's own level, whatever the other tests are compiled at.
    thorough = {"xla_backend_optimization_level": 3}
    monkeypatch.setattr(state_module, "_compiler_options", lambda: thorough)
    state = create_state(config, make_optimizer(config))
    if jax.__version_info__ < (0, 11):
        assert_trees_equal(quick, state)
    # JAX 0.12 gives another last bit in two arrays.
    assert_trees_close(quick, state, rtol=1e-6, atol=1e-7)


def test_ema_forgets_its_start_early_and_then_averages():
    """Fault: short runs evaluated at their random start, or a decay that never ends."""
    start, new = {"x": jnp.zeros(())}, {"x": jnp.ones(())}
    early = update_ema(start, new, jnp.int32(0), 0.99)
    np.testing.assert_allclose(early["x"], 0.9)
    late = update_ema(start, new, jnp.int32(10**6), 0.99)
    np.testing.assert_allclose(late["x"], 0.01, rtol=1e-5)
