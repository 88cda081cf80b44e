"""Building blocks of the segmentation networks, NHWC."""

from collections.abc import Callable
from typing import Literal

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lungseg_jax.models.convolution import convolve

Norm = Literal["batch", "group"]
Activation = Literal["relu", "silu", "gelu"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
}

# A running average over about ten steps: short runs on small data sets end with statistics of the
# final weights, and the exponential moving average of the state smooths what noise is left.
BATCH_NORM_MOMENTUM = 0.9


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


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Maximum of each 2×2 block.

    Reshape and max, not a windowed reduction, whose gradient is XLA's slow select-and-scatter.
    """
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


class Convolution(nnx.Module):
    """Convolution of the same size, without a bias.

    Not `nnx.Conv`, for the sake of `convolve`, which trains faster on a CPU.

    Args:
      size: side of the kernel, odd.
      in_features: channels in.
      out_features: channels out.
      initial: distribution of the initial kernel.
      dtype: to compute in; the kernel is float32.
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
        """Returns the convolved picture in the compute type, its channels times `scale`."""
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
      dtype: of the convolution and the activation; parameters and statistics stay float32.
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
            self.norm = nnx.BatchNorm(
                out_features,
                momentum=BATCH_NORM_MOMENTUM,
                dtype=dtype,
                axis_name=axis_name,
                rngs=rngs,
            )
        else:
            self.norm = nnx.GroupNorm(
                out_features, num_groups=None, group_size=8, dtype=dtype, rngs=rngs
            )
        self.activation = activation

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
        """Returns activations; with `train`, batch statistics are used and updated."""
        activation = ACTIVATIONS[self.activation]
        if not isinstance(self.norm, nnx.BatchNorm):
            return activation(self.norm(self.conv(x)))
        if train:
            return activation(self.norm(self.conv(x), use_running_average=False))
        # The running statistics are an affine function, which the convolution takes over.
        scale, shift = running_affine(self.norm)
        return activation(self.conv(x, scale) + shift.astype(self.conv.dtype))


def running_affine(norm: nnx.BatchNorm) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Returns scale and shift of each channel by which the running statistics normalise."""
    assert norm.scale is not None
    assert norm.bias is not None
    scale = norm.scale[...] * jax.lax.rsqrt(norm.var[...] + norm.epsilon)
    return scale, norm.bias[...] - norm.mean[...] * scale
