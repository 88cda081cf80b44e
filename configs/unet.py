"""U-Net on generated phantoms."""

from ml_collections import ConfigDict

from lungseg_jax.config import default_config


def get_config() -> ConfigDict:
    """Returns the defaults."""
    return default_config()
