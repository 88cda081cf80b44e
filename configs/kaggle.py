"""U-Net on Kaggle's "Chest Xray Masks and Labels" (Montgomery and Shenzhen), on a CPU.

    python -m lungseg_jax.main --config=configs/kaggle.py --config.data.manual_dir=FOLDER

Two cores of an AMD EPYC, float32, jax 0.10.2: 19 minutes from files to figures, beside
other work. Test Dice .9624 (Montgomery .9713, Shenzhen .9603), HD95 14.7 px, on 112
images of 512 x 512; trained on 395 of the 563 labelled images available.
"""

from ml_collections import ConfigDict

from lungseg_jax.config import default_config


def get_config() -> ConfigDict:
    """Returns the configuration of a run of thirty passes over the training split."""
    config = default_config()
    config.data.source = "kaggle"
    config.num_steps = 740
    config.evaluation.every = 74
    config.optimizer.warmup_steps = 50
    config.optimizer.ema_decay = 0.995
    return config
