"""U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597) in Flax NNX, NHWC."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lungseg_jax.models.layers import (
    Activation,
    ConvNormActivation,
    Convolution,
    Head,
    Norm,
    depth_to_space,
    space_to_depth,
)
from lungseg_jax.models.pooling import max_pool
from lungseg_jax.models.upsampling import upsample


class Block(nnx.Module):
    """Two 3×3 convolutions at one resolution."""

    def __init__(self, in_features: int, out_features: int, **layer: Any) -> None:
        self.first = ConvNormActivation(in_features, out_features, **layer)
        self.second = ConvNormActivation(out_features, out_features, **layer)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
        """Returns activations; see `ConvNormActivation`."""
        return self.second(self.first(x, train=train), train=train)


class Upsample(nnx.Module):
    """Doubles the resolution; see `upsample`."""

    def __init__(
        self, in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        # A bias would add a pattern of four pixels at the cost of a pass over all activations.
        # Only the kernel is used; it is in a layer because the packaged weights name it as one.
        self.conv = Convolution(
            1,
            in_features,
            4 * out_features,
            initial=nnx.initializers.lecun_normal(),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Returns activations at twice the height and width."""
        kernel = self.conv.kernel[...]
        return upsample(x.astype(self.conv.dtype), kernel.astype(self.conv.dtype))


class UNet(nnx.Module):
    """Encoder and decoder with a skip connection at every resolution.

    Level `i` has `width * 2**i` channels at `1 / 2**i` of the first level's resolution. With
    `block_size > 1` the first level sees the image at `1 / block_size` of its resolution, each
    block of pixels as channels, and predicts as many logits per position: the same field of view
    at a fraction of the memory traffic.

    Args:
      width: channels of the first level.
      depth: number of times the resolution is halved.
      block_size: side of the blocks that space-to-depth folds into channels; 1 for the plain form.
      num_classes: logits per pixel.
      norm: see `ConvNormActivation`.
      activation: see `ConvNormActivation`.
      dtype: compute type; parameters, statistics and logits are float32.
      remat: recompute each block's activations in the backward pass instead of keeping them.
      axis_name: mapped axis over which batch statistics are synchronised.
      rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        block_size: int = 1,
        num_classes: int = 1,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        axis_name: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        layer: dict[str, Any] = {
            "norm": norm,
            "activation": activation,
            "dtype": dtype,
            "axis_name": axis_name,
            "rngs": rngs,
        }
        features = [width * 2**level for level in range(depth + 1)]
        self.encoder = nnx.List(
            [
                Block(c_in, c_out, **layer)
                for c_in, c_out in zip([block_size**2, *features[:-1]], features, strict=True)
            ]
        )
        self.upsamples = nnx.List(
            [Upsample(2 * c, c, dtype=dtype, rngs=rngs) for c in features[:-1]]
        )
        self.decoder = nnx.List([Block(2 * c, c, **layer) for c in features[:-1]])
        self.head = Head(width, num_classes * block_size**2, rngs=rngs)
        self.depth, self.block_size, self.dtype, self.remat = depth, block_size, dtype, remat

    def __call__(
        self, image: Float[Array, "b h w 1"], *, train: bool = False
    ) -> Float[Array, "b h w classes"]:
        """Returns float32 logits at the image's resolution.

        Args:
          image: in [0, 1]; sides divisible by `block_size * 2**depth`.
          train: use and update the batch's own statistics instead of the running ones.

        Raises:
          ValueError: a side is not divisible; the message states the padding that would do.
        """
        check_divisible(image.shape[1], image.shape[2], self.block_size * 2**self.depth)
        x = space_to_depth(image, self.block_size).astype(self.dtype)
        skips = []
        # The scopes name the level of each op in profiles and in compiled modules.
        for level, block in enumerate(self.encoder):
            with jax.named_scope(f"encoder{level}"):
                x = self._run(block, max_pool(x) if level else x, train)
            skips.append(x)
        skips.pop()
        for level in reversed(range(self.depth)):
            with jax.named_scope(f"decoder{level}"):
                x = jnp.concatenate([skips[level], self.upsamples[level](x)], axis=-1)
                x = self._run(self.decoder[level], x, train)
        return depth_to_space(self.head(x), self.block_size)

    def _run(
        self, block: Block, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h w d"]:
        if not self.remat:
            return block(x, train=train)
        return nnx.remat(lambda block, x: block(x, train=train))(block, x)


def check_divisible(height: int, width: int, multiple: int) -> None:
    """Raises `ValueError`, stating the padding, unless both sides divide by `multiple`."""
    pad_h, pad_w = -height % multiple, -width % multiple
    if pad_h or pad_w:
        raise ValueError(
            f"image of {height} x {width} pixels: sides must divide by {multiple} "
            f"(block_size * 2**depth); pad by {pad_h} rows and {pad_w} columns "
            f"to {height + pad_h} x {width + pad_w}"
        )
