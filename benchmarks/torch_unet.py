"""The U-Net of `lungseg_jax.models.unet`, its loss and its update in PyTorch, made for speed.

It is the same function: `torch_variables` converts our parameters, and tests/test_torch_peer.py
compares outputs, loss, gradients and running statistics. Tensors are (b, c, h, w) in
channels_last memory format.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch._inductor import config as inductor

from lungseg_jax.losses import DICE_SMOOTHING

# How a program is run. `eager`: the library's own kernels. `compile`: torch.compile.
# `reduce-overhead`: with CUDA graphs on a GPU. `max-autotune`: also with kernels chosen by timing.
# `freeze`: compiled, with the weights as constants in the layout that the kernels want; for
# inference.
Mode = Literal["eager", "compile", "freeze", "reduce-overhead", "max-autotune"]


class ConvNormActivation(nn.Module):
    """3×3 convolution without bias, batch normalisation, ReLU."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_features, out_features, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_features)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Returns activations."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class Block(nn.Module):
    """Two convolutions at one resolution."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.first = ConvNormActivation(in_features, out_features)
        self.second = ConvNormActivation(out_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Returns activations."""
        return self.second(self.first(x))


class Upsample(nn.Module):
    """Doubles the resolution: 1×1 convolution, then depth to space."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_features, 4 * out_features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns activations at twice the height and width."""
        return depth_to_space(self.conv(x), 2)


class UNet(nn.Module):
    """U-Net with one input channel and one output logit per pixel.

    Args:
      width: channels of the first level.
      depth: number of times the resolution is halved.
      block_size: side of the pixel blocks folded into channels; 1 for the plain form.
    """

    def __init__(self, width: int, depth: int, block_size: int = 1) -> None:
        super().__init__()
        features = [width * 2**level for level in range(depth + 1)]
        pairs = zip([block_size**2, *features[:-1]], features, strict=True)
        self.encoder = nn.ModuleList([Block(c_in, c_out) for c_in, c_out in pairs])
        self.upsamples = nn.ModuleList([Upsample(2 * c, c) for c in features[:-1]])
        self.decoder = nn.ModuleList([Block(2 * c, c) for c in features[:-1]])
        self.head = nn.Conv2d(width, block_size**2, 1)
        self.depth, self.block_size = depth, block_size

    def forward(self, image: Tensor) -> Tensor:
        """Returns float32 logits of images in [0, 1]."""
        x = F.pixel_unshuffle(image, self.block_size) if self.block_size > 1 else image
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for level in reversed(range(self.depth)):
            x = torch.cat([skips[level], self.upsamples[level](x)], dim=1)
            x = self.decoder[level](x)
        with torch.autocast(x.device.type, enabled=False):
            logits = self._logits(x.float())
        return depth_to_space(logits, self.block_size) if self.block_size > 1 else logits

    def _logits(self, x: Tensor) -> Tensor:
        weight, bias = self.head.weight, self.head.bias
        assert bias is not None
        if torch.compiler.is_compiling() and len(bias) == 1:
            # As in our network: the compiler fuses this with its neighbours, unlike convolutions.
            return (x * weight[0]).sum(1, keepdim=True) + bias
        return self.head(x)


def depth_to_space(x: Tensor, factor: int) -> Tensor:
    """Spreads channels over pixels in the order of our network.

    `F.pixel_shuffle` takes channels in another order, which separates the channels of a pixel in
    channels_last memory.
    """
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(b, h, w, factor, factor, c // factor**2)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)
    return x.permute(0, 3, 1, 2)


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Returns binary cross-entropy plus soft Dice loss; see `lungseg_jax.losses`."""
    probabilities = torch.sigmoid(logits)
    common, total = (probabilities * mask).sum(), (probabilities + mask).sum()
    dice = (2 * common + DICE_SMOOTHING) / (total + DICE_SMOOTHING)
    return F.binary_cross_entropy_with_logits(logits, mask) + 1 - dice


def make_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Returns fused AdamW; weight decay applies to convolution kernels only."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def make_training_step(
    model: UNet, optimizer: torch.optim.Optimizer, clip_norm: float, dtype: torch.dtype, mode: Mode
) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the function (image, mask) → loss of one update: gradients, clipping, AdamW."""

    def loss_of(image: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast(image.device.type, dtype, enabled=dtype != torch.float32):
            logits = model(image)
        return segmentation_loss(logits, mask)

    loss_of = _compiled(loss_of, mode)
    parameters = list(model.parameters())

    def step(image: Tensor, mask: Tensor) -> Tensor:
        loss = loss_of(image, mask)
        loss.backward()
        update(optimizer, parameters, clip_norm)
        return loss.detach()

    return step


def update(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], clip_norm: float
) -> None:
    """Updates parameters with their gradients, clipped to a global norm of `clip_norm`."""
    nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def make_inference(model: UNet, dtype: torch.dtype, mode: Mode) -> Callable[[Tensor], Tensor]:
    """Returns the function from images to probabilities, with normalisation folded into kernels."""
    fold_batch_norm(model.eval())

    def probabilities(image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, dtype, enabled=dtype != torch.float32):
            return torch.sigmoid(model(image))

    return torch.inference_mode()(_compiled(probabilities, mode))


def fold_batch_norm(model: UNet) -> None:
    """Merges each convolution and its normalisation into one convolution with a bias, in place."""
    for module in model.modules():
        if isinstance(module, ConvNormActivation):
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]


def torch_variables(variables: Mapping[tuple[str | int, ...], np.ndarray]) -> dict[str, Tensor]:
    """Returns our variables under PyTorch's names and in its layouts.

    Args:
      variables: flat state of `lungseg_jax.models.unet.UNet`, or gradients of the same structure.
    """
    converted = {}
    for path, value in variables.items():
        *module, leaf = path
        name = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
        if leaf == "kernel":
            value = value.transpose(3, 2, 0, 1)
        key = ".".join(map(str, [*module, name.get(str(leaf), leaf)]))
        converted[key] = torch.tensor(value)
    return converted


def _compiled(function: Callable[..., Tensor], mode: Mode) -> Callable[..., Tensor]:
    if mode == "eager":
        return function
    # Triton's convolutions lost to cuDNN's at every size of the network on an H200, and take
    # minutes to try.
    inductor.max_autotune_conv_backends = "ATEN"
    inductor.freezing = mode == "freeze"
    known = None if mode in ("compile", "freeze") else mode
    return torch.compile(function, mode=known, fullgraph=True, dynamic=False)
