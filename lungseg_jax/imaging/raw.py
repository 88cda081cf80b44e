"""Files of bare pixels, as the JSRT set is published."""

import numpy as np

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.radiograph import Radiograph

JSRT_SIDE = 2048
JSRT_BYTES = JSRT_SIDE * JSRT_SIDE * 2

# Spacing on the digitised film, which lay where a detector would.
JSRT_SPACING_MM = (0.175, 0.175)

_MAX_VALUE = 2**12 - 1


def read_jsrt(content: bytes, name: str) -> Radiograph:
    """Returns the radiograph in an `.IMG` file of the JSRT set.

    It holds 2048 x 2048 values of 12 bits in big-endian words without a header; a high value means
    dense, that is dark, film (Shiraishi et al. 2000, https://doi.org/10.2214/ajr.174.1.1740071).

    Args:
      content: the file's bytes.
      name: what errors call the file.

    Raises:
      DataError: not the size of such a file, or values beyond 12 bits.
    """
    if len(content) != JSRT_BYTES:
        raise DataError(
            name,
            f"{len(content)} bytes, where a JSRT image has {JSRT_BYTES}",
            "fetch it again or leave it out",
        )
    density = np.frombuffer(content, ">u2").reshape(JSRT_SIDE, JSRT_SIDE)
    if density.max() > _MAX_VALUE:
        raise DataError(
            name, "values beyond 12 bits", "give big-endian words, as the set is published"
        )
    pixels = 1 - density.astype(np.float32) / np.float32(_MAX_VALUE)
    return Radiograph(pixels, JSRT_SPACING_MM, "detector")
