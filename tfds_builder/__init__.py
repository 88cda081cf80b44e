"""TensorFlow Datasets builder for chest radiographs with lung masks, and what it reads."""

from lungseg_jax.runtime.startup import begin_imports

begin_imports(__name__)
