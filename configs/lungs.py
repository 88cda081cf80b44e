"""The recipe of the weights in the package: Kaggle's pictures, changed as hospitals differ.

python -m lungseg_jax.main --config=configs/lungs.py --config.data.manual_dir=FOLDER
"""

from ml_collections import ConfigDict

from lungseg_jax.config import default_config


def get_config() -> ConfigDict:
    """Returns sixty passes over the training split."""
    config = default_config()
    config.data.source = "kaggle"
    config.num_steps = 1500
    config.evaluation.every = 250
    config.optimizer.warmup_steps = 100
    config.optimizer.ema_decay = 0.998
    config.augment.rotation_degrees = 12.0
    config.augment.scale = 0.2
    config.augment.aspect = 0.25
    config.augment.shear = 0.08
    config.augment.shift = 0.08
    config.augment.gamma = 1.0
    config.augment.contrast = 0.5
    config.augment.brightness = 0.15
    config.augment.blur = 1.5
    config.augment.tone = 0.15
    config.augment.local_contrast = 1.0
    config.augment.shading = 0.1
    config.augment.opacity = 0.35
    config.augment.bars = 0.15
    return config
