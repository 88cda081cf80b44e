"""Images as a step takes them: a batch's own, or those it points to in device memory."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, UInt8, UInt16


class Samples(NamedTuple):
    """Images and masks in the model's square.

    Attributes:
      image: intensity × 65535, bone bright.
      mask: {0, 1}, a channel for each of the labels.
    """

    image: UInt16[np.ndarray, "b s s 1"]
    mask: UInt8[np.ndarray, "b s s c"]


Batch = dict[str, np.ndarray]
# The whole split on the device, or None where batches carry their own images.
Store = Samples | None


def fetch(
    batch: dict[str, Array], store: Store
) -> tuple[UInt16[Array, "b s s 1"], UInt8[Array, "b s s c"]]:
    """Returns the images and masks of a batch: its own, or those it points to in the store.

    Runs inside the jitted step; which of the two is fixed when it is traced.
    """
    if store is not None:
        return store.image[batch["position"]], store.mask[batch["position"]]
    return batch["image"], batch["mask"]
