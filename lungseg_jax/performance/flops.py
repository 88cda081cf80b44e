"""Work of the configured U-Net, counted from its architecture, not from what a compiler made of it.

A compiler's count includes padded channels and recomputation, and grows when a program gets worse.

Only the network of `models/unet.py` is counted. Another one, or a key of `ModelConfig` that changes
the convolutions, must be counted in `_layers`: otherwise MFU and the roofline are wrong.
"""

from lungseg_jax.config import ModelConfig

# A multiplication and an addition.
OPERATIONS_PER_TAP = 2


def forward_flops(model: ModelConfig, height: int, width: int, num_classes: int = 1) -> int:
    """Returns the floating-point operations of the convolutions of one image's forward pass.

    Normalisation, activation, pooling and loss, below a hundredth of these, are left out.

    Args:
      model: the network.
      height: the image's height in pixels; divisible by `block_size * 2**depth`.
      width: the image's width, likewise.
      num_classes: logits per pixel.
    """
    return sum(_layers(model, height, width, num_classes))


def training_flops(model: ModelConfig, height: int, width: int, num_classes: int = 1) -> int:
    """Returns the operations of one image's forward and backward pass.

    The backward pass does a convolution's work twice, for the gradients of its input and of its
    kernel; the image itself needs no gradient.
    """
    layers = _layers(model, height, width, num_classes)
    return 3 * sum(layers) - layers[0]


def _layers(model: ModelConfig, height: int, width: int, num_classes: int) -> list[int]:
    """Returns the operations of each convolution, the first layer's first."""
    block = model.block_size**2
    positions = height * width // block
    features = [model.width * 2**level for level in range(model.depth + 1)]

    def convolution(level: int, taps: int, channels_in: int, channels_out: int) -> int:
        return OPERATIONS_PER_TAP * positions // 4**level * taps * channels_in * channels_out

    layers = []
    for level, (c_in, c) in enumerate(zip([block, *features[:-1]], features, strict=True)):
        layers += [convolution(level, 9, c_in, c), convolution(level, 9, c, c)]
    for level, c in enumerate(features[:-1]):
        # 1 x 1 convolution to 4 c channels at half the resolution, then a block of two 3 x 3.
        layers.append(convolution(level + 1, 1, 2 * c, 4 * c))
        layers += [convolution(level, 9, 2 * c, c), convolution(level, 9, c, c)]
    layers.append(convolution(0, 1, model.width, block * num_classes))
    return layers
