"""Forms of a U-Net that are compared: the same channels at the same resolutions.

Forms with blocks leave out the finest one or two resolutions, where a network takes most of its
time.
"""

from lungseg_jax.config import ModelConfig

FORMS = {
    "plain": ModelConfig(block_size=1, width=32, depth=4),
    "blocks-of-2": ModelConfig(block_size=2, width=64, depth=3),
    "blocks-of-4": ModelConfig(block_size=4, width=128, depth=2),
}
