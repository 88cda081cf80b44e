"""U-Net on generated phantoms: the first run on any machine.

    python -m lungseg_jax.main --config=configs/unet.py

Two cores of an AMD EPYC, float32, jax 0.10.2: 1.9 minutes (4.6 on
another such machine). Test Dice .9677, HD95 11.6 px, on 39 unseen phantoms.
"""

from ml_collections import ConfigDict

from lungseg_jax.config import default_config


def get_config() -> ConfigDict:
    """Returns the default configuration."""
    return default_config()
