"""Lung segmentation on frontal chest radiographs in JAX and Flax NNX."""

from lungseg_jax.runtime.interrupts import end_at_once_while_importing

__version__ = "0.1.0"

end_at_once_while_importing(__name__)
