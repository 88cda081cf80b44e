"""A trained U-Net as an ONNX graph (https://onnx.ai), for runtimes without JAX, NCHW.

Written layer by layer, because converters of JAX programs know neither what a network computes on
one platform only nor batch normalisation that is folded into a convolution.
"""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Shaped
from numpy.typing import ArrayLike

from lungseg_jax.models.batch_norm import BatchNorm
from lungseg_jax.models.layers import Activation, ConvNormActivation
from lungseg_jax.models.unet import Block, UNet

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

INPUT, OUTPUT = "images", "probabilities"

# The first with GELU; ONNX Runtime supports it from 1.17 on, OpenVINO from 2024.
OPSET = 20

# The version of the file format that came with it.
IR_VERSION = 9


def onnx_model(network: UNet, image_size: int) -> "ModelProto":
    """Returns the function from intensity × 65535 to the probability of each class.

    Its input is `images`, uint16 (n, 1, s, s), its output `probabilities`, float32 (n, c, s, s).
    Batch normalisation uses the running statistics.

    Args:
      network: a trained network.
      image_size: s, the side of its square in pixels.
    """
    from onnx import TensorProto, checker, helper

    graph = _Graph()
    images = graph.add("Cast", INPUT, to=TensorProto.FLOAT)
    logits = _logits(graph, network, graph.add("Div", images, np.float32(65535)))
    graph.add("Sigmoid", logits, result=OUTPUT)
    classes = network.head.bias.shape[0] // network.block_size**2
    model = helper.make_model(
        graph.finish(
            helper.make_tensor_value_info(
                INPUT, TensorProto.UINT16, ["n", 1, image_size, image_size]
            ),
            helper.make_tensor_value_info(
                OUTPUT, TensorProto.FLOAT, ["n", classes, image_size, image_size]
            ),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="lungseg_jax",
    )
    checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants, numbered in the order in which they are added."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(
        self,
        operator: str,
        *inputs: str | ArrayLike,
        result: str = "",
        **attributes: Any,
    ) -> str:
        """Adds an operation on tensors, by name, and on constants; returns its result's name."""
        from onnx import helper

        names = [x if isinstance(x, str) else self._constant(x) for x in inputs]
        result = result or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, names, [result], name=result, **attributes))
        return result

    def _constant(self, value: ArrayLike) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def finish(self, given: Any, result: Any) -> "GraphProto":
        """Returns the graph between two descriptions of tensors."""
        from onnx import helper

        return helper.make_graph(self._nodes, "lungseg_jax", [given], [result], self._constants)


def _logits(graph: _Graph, network: UNet, x: str) -> str:
    """As `UNet.__call__`."""
    if network.block_size > 1:
        x = graph.add("SpaceToDepth", x, blocksize=network.block_size)
    skips = []
    for level, block in enumerate(network.encoder):
        if level:
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = _block(graph, block, x)
        skips.append(x)
    for level in reversed(range(network.depth)):
        x = _upsample(graph, network.upsamples[level].conv.kernel[...], x)
        x = _block(graph, network.decoder[level], graph.add("Concat", skips[level], x, axis=1))
    head = network.head
    x = graph.add("Conv", x, _oihw(head.kernel[...]), head.bias[...])
    if network.block_size > 1:
        x = graph.add("DepthToSpace", x, blocksize=network.block_size)
    return x


def _block(graph: _Graph, block: Block, x: str) -> str:
    return _layer(graph, block.second, _layer(graph, block.first, x))


def _layer(graph: _Graph, layer: ConvNormActivation, x: str) -> str:
    """As `ConvNormActivation.__call__` without `train`."""
    kernel, pads = layer.conv.kernel[...], [1, 1, 1, 1]
    if isinstance(layer.norm, BatchNorm):
        scale, shift = layer.norm.running_affine()
        x = graph.add("Conv", x, _oihw(kernel * scale), shift, pads=pads)
    else:
        x = _group_norm(graph, layer.norm, graph.add("Conv", x, _oihw(kernel), pads=pads))
    return _activation(graph, layer.activation, x)


def _group_norm(graph: _Graph, norm: nnx.GroupNorm, x: str) -> str:
    """Normalises each group as one channel: ONNX's own operator has a scale for each group."""
    assert norm.scale is not None
    assert norm.bias is not None
    groups = norm.num_groups
    shape = graph.add("Shape", x)
    # 0 copies the number of images, -1 takes what is left.
    x = graph.add("Reshape", x, np.array([0, groups, -1]))
    ones = np.ones(groups, np.float32)
    x = graph.add("InstanceNormalization", x, ones, 0 * ones, epsilon=norm.epsilon)
    x = graph.add("Reshape", x, shape)
    x = graph.add("Mul", x, norm.scale[...][:, None, None])
    return graph.add("Add", x, norm.bias[...][:, None, None])


def _activation(graph: _Graph, activation: Activation, x: str) -> str:
    match activation:
        case "relu":
            return graph.add("Relu", x)
        case "silu":
            return graph.add("Mul", x, graph.add("Sigmoid", x))
        case "gelu":
            return graph.add("Gelu", x, approximate="tanh")


def _upsample(graph: _Graph, kernel: Shaped[jnp.ndarray, "1 1 c e"], x: str) -> str:
    """As `upsample`, by the transposed convolution that it is equivalent to."""
    blocks = np.asarray(kernel).reshape(kernel.shape[2], 2, 2, -1)
    return graph.add("ConvTranspose", x, blocks.transpose(0, 3, 1, 2), strides=[2, 2])


def _oihw(kernel: Shaped[jnp.ndarray, "s s c d"]) -> Shaped[np.ndarray, "d c s s"]:
    return np.asarray(kernel).transpose(3, 2, 0, 1)
