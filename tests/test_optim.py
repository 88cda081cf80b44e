"""The optimizer's parts where a library call hides a choice."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lungseg_jax.optim import learning_rate_schedule, make_optimizer
from tests.small import small_config


def test_schedule_rises_linearly_and_ends_at_zero():
    """Fault: decay counted from the end of the warm-up, so that it never ends."""
    config = small_config(num_steps=100, optimizer__warmup_steps=10, optimizer__learning_rate=0.1)
    schedule = learning_rate_schedule(config)
    assert schedule(0) == 0
    assert schedule(5) == pytest.approx(0.05)
    assert schedule(10) == pytest.approx(0.1)
    assert schedule(55) == pytest.approx(0.05)
    assert schedule(100) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("warmup", [0, 1, 5, 50])
def test_runs_shorter_than_the_warm_up_work(warmup):
    """Fault: an obscure error, or a rate of NaN, in a trial run of a few steps."""
    for num_steps in (1, 2, 5):
        config = small_config(num_steps=num_steps, optimizer__warmup_steps=warmup)
        schedule = learning_rate_schedule(config)
        assert np.isfinite([schedule(step) for step in range(num_steps)]).all()


def test_gradients_are_clipped_by_the_norm_of_all_of_them():
    """Fault: no clipping, or each array clipped by itself, which turns the gradient."""
    config = small_config(optimizer__warmup_steps=0, optimizer__weight_decay=0.0)
    limit = config.optimizer.clip_norm
    optimizer = make_optimizer(config)
    parameters = {"first": jnp.ones(1), "second": jnp.ones(1)}

    def moments(*values: float) -> list[float]:
        gradients = dict(zip(parameters, map(jnp.atleast_1d, values), strict=True))
        _, state = optimizer.update(gradients, optimizer.init(parameters), parameters)
        return [float(moment[0]) for moment in optax.tree.get(state, "mu").values()]

    small, large = moments(0.3 * limit, 0.4 * limit), moments(30 * limit, 40 * limit)
    # The norm is half of the limit, and fifty times it.
    np.testing.assert_allclose(large, np.multiply(small, 2), rtol=1e-5)


def test_decay_pulls_kernels_only():
    """Fault: weight decay on normalisation scales and biases, or the library's own rate of it."""
    config = small_config(optimizer__warmup_steps=0, optimizer__weight_decay=0.1)
    optimizer = make_optimizer(config)
    parameters = {"kernel": jnp.ones((3, 3, 1, 1)), "scale": jnp.ones(1)}
    zero = {"kernel": jnp.zeros((3, 3, 1, 1)), "scale": jnp.zeros(1)}
    updates, _ = optimizer.update(zero, optimizer.init(parameters), parameters)
    np.testing.assert_allclose(updates["kernel"], -0.1 * config.optimizer.learning_rate, rtol=1e-6)
    assert (updates["scale"] == 0).all()
