"""The count of a network's work."""

import dataclasses
import math
import re
import typing

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lungseg_jax.config import ModelConfig
from lungseg_jax.network import make_model
from lungseg_jax.performance.flops import forward_flops, training_flops
from tests.small import small_config

CONVOLUTION = re.compile(r"stablehlo\.convolution.*tensor<(.*?)>\) -> tensor<(.*)>")

# A single logit is a product summed over channels.
CHANNEL_SUM = re.compile(r"stablehlo\.add across dimensions = \[3\] : \(tensor<(.*?)>,")


def traced_flops(model: ModelConfig, size: int) -> int:
    """Twice the taps of every convolution and sum over channels, as written for any accelerator."""
    half = dataclasses.replace(model, dtype="bfloat16")
    network = nnx.eval_shape(lambda: make_model(small_config(**_as_keys(half))))
    graph, state = nnx.split(network)
    image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    text = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, image).as_text()
    total = 0
    for kernel, result in CONVOLUTION.findall(text):
        total += 2 * math.prod(sides(result)) * math.prod(sides(kernel)[:-1])
    return total + sum(2 * math.prod(sides(summed)) for summed in CHANNEL_SUM.findall(text))


def _as_keys(model: ModelConfig) -> dict:
    return {f"model__{key}": value for key, value in dataclasses.asdict(model).items()}


def choices() -> list[dict]:
    """Each value of each of the model's keys that is a choice."""
    kinds = typing.get_type_hints(ModelConfig)
    values = {
        key: (False, True) if kind is bool else typing.get_args(kind) for key, kind in kinds.items()
    }
    return [{key: value} for key in values for value in values[key]]


def sides(shape: str) -> list[int]:
    """Sides of an array as StableHLO writes its type, `3x3x4x8xf32`."""
    return [int(side) for side in shape.split("x")[:-1]]


@pytest.mark.parametrize(("width", "depth", "block_size"), [(8, 2, 1), (4, 3, 2)])
def test_count_is_that_of_the_network(width, depth, block_size):
    """Fault: a layer that the formula forgets, or counts at another level's resolution."""
    model = ModelConfig(width=width, depth=depth, block_size=block_size)
    assert forward_flops(model, 64, 64) == traced_flops(model, 64)


@pytest.mark.parametrize("choice", choices(), ids=str)
def test_every_choice_of_model_is_counted(choice: dict):
    """Fault: a new network or form of it that is given the plain U-Net's work."""
    model = ModelConfig(**{"width": 8, "depth": 2, "block_size": 1} | choice)
    assert forward_flops(model, 64, 64) == traced_flops(model, 64)


def test_count_agrees_with_one_by_hand():
    """Fault: a factor of two. U-Net of width 64 at 512 x 512: 1154 GFLOP of training work."""
    products = 512**2 * (9 * (64 + 64**2) + 64)
    for level in range(1, 5):
        side, channels = 512 / 2**level, 64 * 2**level
        products += side**2 * 9 * (channels / 2 + channels) * channels
    for level in range(4):
        side, channels = 512 / 2**level, 64 * 2**level
        products += side**2 * (2 * channels**2 + 9 * 3 * channels**2)
    model = ModelConfig(width=64, depth=4, block_size=1)
    # Two operations a product, three passes; the image needs no gradient.
    by_hand = 6 * products - 2 * 512**2 * 9 * 64
    assert by_hand == pytest.approx(1154e9, rel=0.02)
    assert training_flops(model, 512, 512) == pytest.approx(by_hand)
