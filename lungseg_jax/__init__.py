"""Lung segmentation on frontal chest radiographs in JAX and Flax NNX."""

from lungseg_jax.runtime.interrupts import end_at_once_while_importing

end_at_once_while_importing(__name__)
