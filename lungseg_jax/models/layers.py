"""Building blocks of the segmentation networks, NHWC."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lungseg_jax.models.batch_norm import BatchNorm
from lungseg_jax.models.convolution import convolve

Norm = Literal["batch", "group"]
Activation = Literal["relu", "silu", "gelu"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
}


def space_to_depth(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 c2"]:
    """Moves each `factor`×`factor` block of pixels into channels (Shi et al. 2016, inverted)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor**2 * c)


def depth_to_space(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 c2"]:
    """Spreads channels over `factor`×`factor` pixels: the inverse of `space_to_depth`.

    Sub-pixel upsampling, https://arxiv.org/abs/1609.05158.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, factor, factor, c // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)


class Convolution(nnx.Module):
    """Convolution of the same size, without a bias.

    Not `nnx.Conv`, for the sake of `convolve`, which trains faster on a CPU.

    Args:
      size: side of the kernel, odd.
      in_features: channels in.
      out_features: channels out.
      initial: distribution of the initial kernel.
      dtype: compute type; the kernel is float32.
      rngs: source of the initial kernel.
    """

    def __init__(
        self,
        size: int,
        in_features: int,
        out_features: int,
        *,
        initial: nnx.Initializer,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel = nnx.Param(initial(rngs.params(), (size, size, in_features, out_features)))
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "b h w c"], scale: Float[Array, " d"] | None = None
    ) -> Float[Array, "b h w d"]:
        """Returns the convolved image in the compute type, its channels times `scale`."""
        kernel = self.kernel[...] if scale is None else self.kernel[...] * scale
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype))


class ConvNormActivation(nnx.Module):
    """3×3 convolution, normalisation, activation.

    The convolution has no bias: the normalisation removes it, and its gradient would be rounding
    noise that Adam scales up to a step.

    Args:
      in_features: channels in.
      out_features: channels out.
      norm: `batch` (synchronised over `axis_name` where one is given) or `group` (8 channels each).
      activation: name in `ACTIVATIONS`.
      dtype: type of the convolution and the activation; parameters and statistics stay float32.
      axis_name: mapped axis over which batch statistics are averaged, `None` for a global batch.
      rngs: source of the initial kernel.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        norm: Norm,
        activation: Activation,
        dtype: DTypeLike,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = Convolution(
            3,
            in_features,
            out_features,
            initial=nnx.initializers.he_normal(),
            dtype=dtype,
            rngs=rngs,
        )
        if norm == "batch":
            self.norm = BatchNorm(out_features, axis_name)
        else:
            self.norm = nnx.GroupNorm(
                out_features, num_groups=None, group_size=8, dtype=dtype, rngs=rngs
            )
        self.activation: Activation = activation

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
        """Returns activations; with `train`, batch statistics are used and updated."""
        activation = ACTIVATIONS[self.activation]
        if not isinstance(self.norm, BatchNorm):
            return activation(self.norm(self.conv(x)))
        if train:
            return self.norm(self.conv(x), activation)
        # The running statistics are an affine function, which the convolution takes over.
        scale, shift = self.norm.running_affine()
        return activation(self.conv(x, scale) + shift.astype(self.conv.dtype))


class Head(nnx.Module):
    """Logits of each pixel: a linear function of its channels, float32.

    With several logits per pixel, products have the backend's default precision, which on TPUs
    rounds kernels to bfloat16; sums are float32 everywhere.

    Args:
      in_features: channels in.
      out_features: logits.
      rngs: source of the initial kernel.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        initial = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(initial(rngs.params(), (1, 1, in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Returns logits."""
        kernel = self.kernel[0, 0]
        x = x.astype(jnp.float32)
        if kernel.shape[1] == 1:
            # A product and a sum, which XLA fuses with what comes before and after them; a
            # convolution would write the float32 channels out.
            logits = (x * kernel[:, 0]).sum(-1, keepdims=True)
        else:
            logits = convolve(x, self.kernel[...])
        return logits + self.bias[...]
