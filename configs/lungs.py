r"""The recipe of the packaged weights: augmentation for differences between hospitals.

    python -m lungseg_jax.main --config=configs/lungs.py --config.data.manual_dir=FOLDER \
        --config.data.splits=configs/splits/pooled.json --workdir=runs/pooled
    python -m benchmarks.accuracy pooled runs/pooled

FOLDER holds Kaggle's "Chest Xray Masks and Labels". Two cores of an AMD EPYC, float32, jax 0.10.2:
15 to 36 minutes beside other work. Test Dice .9633 (Montgomery .9724, Shenzhen .9612), HD95 13.2
px, with the validation split's threshold and two lungs kept.

From one hospital to the other: `--config.data.splits=configs/splits/montgomery_to_shenzhen.json`,
or `shenzhen_to_montgomery.json`. Other seeds: `--config.seed=1`; `python -m benchmarks.repeats
pooled WORKDIR…` gives their spread and the mean of their networks. Five folds of all images:
`--config.fold=0` to `4` without `data.splits`, evaluated together by `python -m benchmarks.accuracy
folds WORKDIR…`. From phantoms alone: `--config.data.source=phantom --config.data.num_phantoms=600
--config.num_steps=500`, measured by `python -m benchmarks.accuracy phantoms_to_real WORKDIR on
FOLDER configs/splits/all_tested.json`.

If you have few images, train on phantoms first, then with `--config.start_from=` that run's folder.
From Montgomery to Shenzhen this gives .9528 instead of .9519; benchmarks/ABLATIONS.md says why it
is not the recipe.

The packaged weights, calibrated by the pooled run, which held out images for that purpose:

    python -m lungseg_jax.main --config=configs/lungs.py --config.data.manual_dir=FOLDER \
        --config.data.splits=configs/splits/all.json --config.num_steps=2000 \
        --config.evaluation.every=2000 --workdir=runs/all
    python -m lungseg_jax.export --checkpoint=runs/pooled --output=pooled.safetensors
    python -m lungseg_jax.export --checkpoint=runs/all --calibration=pooled.safetensors \
        --output=lungseg_jax/pretrained/lungs.safetensors
"""

from ml_collections import ConfigDict

from lungseg_jax.config import default_config


def get_config() -> ConfigDict:
    """Returns the configuration of a run of sixty passes over the training split."""
    config = default_config()
    config.data.source = "kaggle"
    config.num_steps = 1500
    config.trimmed_share = 1 / 8
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
