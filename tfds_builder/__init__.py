"""TensorFlow Datasets builder for chest radiographs with lung masks, and what it reads."""
