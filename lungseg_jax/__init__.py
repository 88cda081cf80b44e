"""Lung segmentation on frontal chest radiographs in JAX and Flax NNX."""

from lungseg_jax.runtime.startup import begin_imports

__version__ = "0.1.0"

begin_imports(__name__)
