"""U-Net on Kaggle's "Chest Xray Masks and Labels" (Montgomery and Shenzhen), on a CPU."""

from ml_collections import ConfigDict

from lungseg_jax.config import default_config


def get_config() -> ConfigDict:
    """Returns thirty passes over the training split."""
    config = default_config()
    config.data.source = "kaggle"
    config.num_steps = 740
    config.evaluation.every = 74
    config.optimizer.warmup_steps = 50
    config.optimizer.ema_decay = 0.995
    return config
