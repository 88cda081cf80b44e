"""What XLA makes of the training step: the forms and the communication that its speed rests on.

The step is traced, and compiled where communication matters, for eight virtual CPU devices. What
the step says in StableHLO is the same on every backend; collectives are those of XLA's partitioner,
which all backends share, before a backend's own passes merge more of them.
"""

import math
import re

import jax
import pytest

from lungseg_jax.compile_ahead import lower_step
from lungseg_jax.network import count_parameters, make_model, split_model
from lungseg_jax.optim import make_optimizer
from lungseg_jax.parallel import Parallel
from lungseg_jax.performance import hlo
from lungseg_jax.state import abstract_state
from tests.small import small_config

CONVOLUTION = re.compile(r"stablehlo\.convolution\(.*?: \((.*)\) -> tensor<(.*)>")
ALL_REDUCED = re.compile(r"\}\) : \(tensor<(.*?)>\)")
LHS_DILATION = re.compile(r"lhs_dilate = \[([\d, ]+)\]")


def elements(shape: str) -> int:
    """Elements of an array as StableHLO writes its type, `3x3x4x8xf32`."""
    return math.prod(int(side) for side in shape.split("x")[:-1])


@pytest.fixture(scope="module")
def lowered(eight_devices):
    """The step as it is traced for an accelerator's bfloat16, blocks of pixels included."""
    config = small_config(model__dtype="bfloat16", model__block_size=2)
    return lower_step(config, Parallel("pmap", eight_devices)).as_text()


def test_no_transposed_convolution_and_no_select_and_scatter(lowered):
    """Fault: upsampling or pooling in a form whose gradient XLA runs several times slower."""
    assert "select_and_scatter" not in lowered
    dilations = LHS_DILATION.findall(lowered)
    assert len(dilations) >= 30, "convolutions are no longer found"
    assert set(dilations) == {"1, 1"}


def test_only_the_head_is_a_float32_convolution_under_bfloat16(lowered):
    """Fault: a promotion somewhere before a convolution, which then runs at a fraction of the rate.

    The head's 1×1 convolution and its input's gradient are meant: logits are float32. Its kernel's
    gradient is a product.
    """
    whole = [line for line in CONVOLUTION.findall(lowered) if "f32" in " ".join(line)]
    assert len(whole) == 2
    for operands, result in whole:
        sides = [shape.split("x")[:2] for shape in (*re.findall(r"<(.*?)>", operands), result)]
        assert ["1", "1"] in sides, f"{operands} -> {result} is not the head's"


def test_gradients_are_one_all_reduce(lowered):
    """Fault: a message for every parameter, each at a message's price.

    Besides it: two statistics of each of the ten batch normalisations in one message forward and
    one backward, and the same for the sums of the loss.
    """
    _, *messages = lowered.split('"stablehlo.all_reduce"')
    sizes = [elements(ALL_REDUCED.findall(text)[0]) for text in messages]
    _, parameters, _ = split_model(make_model(small_config(model__block_size=2)))
    # The sums of Dice, two a class, travel with the gradients.
    assert [size for size in sizes if size > 200] == [count_parameters(parameters) + 2]
    assert len(sizes) == 2 * 10 + 2 + 1


def test_rows_meet_at_their_borders_only(eight_devices):
    """Fault: activations gathered whole on every device, which is what `space` is there to avoid.

    A convolution of three rows asks each neighbour for one.
    """
    config = small_config(data__image_size=64, batch_size=2, parallel="mesh", space_shards=4)
    compiled = lower_step(config, Parallel("mesh", eight_devices, config.space_shards)).compile()
    found = hlo.collectives(hlo.parse(compiled.as_text()))
    halos = [collective for collective in found if collective.kind == "collective-permute"]
    convolutions = 2 * (2 * config.model.depth + 1)
    # Forward, and backward but for the image, which has no gradient; from above and from below.
    assert len(halos) >= 2 * (2 * convolutions - 1)
    row_of_activations = 4 * config.data.image_size * 2 * config.model.width
    assert max(collective.size for collective in halos) <= 2 * row_of_activations
    # The blur of the augmentation exchanges parts of images; the network sums, and that is all.
    others = {collective.kind for collective in found if "jvp" in collective.op_name} - {
        "collective-permute"
    }
    assert others == {"all-reduce"}
    assert "all-gather" not in {collective.kind for collective in found}


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_step_writes_the_state_in_place(eight_devices, kind):
    """Fault: two states in memory at a time: a donated array found no result of its kind."""
    config = small_config(parallel=kind)
    text = lower_step(config, Parallel(kind, eight_devices)).as_text()
    state = abstract_state(config, make_optimizer(config))
    donated = text.count("tf.aliasing_output") + text.count("jax.buffer_donor")
    assert donated == len(jax.tree.leaves(state))
