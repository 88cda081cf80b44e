"""From a file to the network's input; imports are light, because worker processes run it."""

import numpy as np
from etils import epath
from jaxtyping import UInt16

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.files import read_radiograph
from lungseg_jax.imaging.geometry import fit_to_square, to_square
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions

# In a smaller image, lungs cannot be made out.
MIN_SIDE = 96


def network_input(radiograph: Radiograph, name: str, size: int) -> UInt16[np.ndarray, "s s 1"]:
    """Returns intensity × 65535 in the model's square.

    Args:
      radiograph: an upright radiograph, of which its `field` is shown.
      name: what errors call it.
      size: side of the square.

    Raises:
      DataError: the radiograph is too small.
    """
    height, width = radiograph.pixels.shape
    if min(height, width) < MIN_SIDE:
        raise DataError(
            name, f"too small: {height} x {width} pixels", f"give at least {MIN_SIDE} a side"
        )
    return stored_square(radiograph, size)[..., None]


def stored_square(radiograph: Radiograph, size: int) -> UInt16[np.ndarray, "s s"]:
    """Returns intensity × 65535 in a square, as records keep it and networks are trained on."""
    field = radiograph.field
    fit = fit_to_square(field.height, field.width, size)
    return np.rint(to_square(field.cut(radiograph.pixels), fit) * 65535).astype(np.uint16)


def read_network_input(
    path: epath.PathLike, options: ReadOptions, size: int
) -> tuple[Radiograph, UInt16[np.ndarray, "s s 1"]]:
    """Returns the radiograph in a file, and the network's input.

    Args:
      path: DICOM, PNG or JPEG file.
      options: how the file is read.
      size: side of the model's square.

    Raises:
      NotFrontalError: by its header, an image of something other than a frontal chest.
      DataError: the file cannot be read or its image is too small.
    """
    radiograph = read_radiograph(path, options)
    return radiograph, network_input(radiograph, epath.Path(path).name, size)
