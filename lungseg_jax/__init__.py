"""Lung segmentation on frontal chest radiographs in JAX and Flax NNX."""

from lungseg_jax.runtime.interrupts import end_at_once_during_imports

end_at_once_during_imports(__name__)
