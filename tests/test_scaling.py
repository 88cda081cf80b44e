"""The arithmetic of predicted efficiencies."""

import pytest

from benchmarks.result_files import read_result
from benchmarks.scaling import nodes_seconds, predict, torus_seconds
from configs import tpu
from lungseg_jax.config import resolve
from lungseg_jax.performance.hardware import ACCELERATORS

V4, V5E = ACCELERATORS["TPU v4"], ACCELERATORS["TPU v5 lite"]
SIZE = 10**9


@pytest.mark.parametrize(
    ("topology", "chip", "expected"),
    [
        # All four links of 50 GB/s; 8 + 8 hops there and back.
        ("v5e:16x16", V5E, 2 * 255 / 256 / 200 + 32e-6),
        # Neither axis closes: one link along each; 1 + 3 hops.
        ("v5e:2x4", V5E, 2 * 7 / 8 / 100 + 8e-6),
        # An axis of one chip has no links in use.
        ("v4:2x2x1", V4, 2 * 3 / 4 / 100 + 4e-6),
        # All six links of a closed cube; 2 + 2 + 2 hops.
        ("v4:4x4x4", V4, 2 * 63 / 64 / 300 + 12e-6),
    ],
)
def test_all_reduce_on_a_torus(topology, chip, expected):
    """Fault: links of open axes counted twice, one phase instead of two, hops of one axis only."""
    assert torus_seconds(topology, chip, SIZE) == pytest.approx(expected)


def test_all_reduce_over_nodes():
    """Fault: the whole gradient over each adapter instead of a GPU's eighth."""
    inside = 2 * 7 / 8 / 450 + 20e-6
    assert nodes_seconds(8, SIZE) == pytest.approx(inside)
    assert nodes_seconds(16, SIZE) == pytest.approx(inside + 2 / 8 / 2 / 50 + 30e-6)


def test_results_are_of_one_step_and_formula():
    """Fault: a table of another formula, or of a step other than the one in README's table."""
    result = read_result("scaling")
    step = read_result("tpu")["v5e:2x2:blocks-of-4:256:32"]
    for topology, compiled in result["compiled"].items():
        predicted = predict(topology, compiled, resolve(tpu.get_config()))
        assert result["predicted"][topology] == pytest.approx(predicted)
        if topology.startswith("v5e"):
            cycles = compiled["train_step"]["cycles"]
            assert cycles == pytest.approx(step["train_step"]["cycles"], rel=0.02)
