"""Lung segmentation on frontal chest radiographs in JAX and Flax NNX."""
