r"""The U-Net in the form that runs fastest on TPUs, for a host with eight of them.

    python -m lungseg_jax.main --config=configs/tpu.py --config.data.source=kaggle \
        --config.data.manual_dir=FOLDER --workdir=runs/tpu
    python -m lungseg_jax.main --config=configs/tpu.py --mode=compile --topology=v5e:2x4

Blocks of 4 x 4 pixels at the input and 128 channels at the finest level fill the 128 lanes of a
TPU's vector and matrix units. The three levels are the three coarsest of a plain U-Net of width 32
and depth 4 (128, 256 and 512 channels at 64², 32² and 16²), with the same field of view at the
bottom and 4 % fewer parameters.

Predicted by the TPU compiler for v5e:2x2, 32 images of 256² per device, jax 0.10.2, libtpu
0.0.42.1 (`benchmarks/results/tpu.json`), without running a TPU: 15.9 M cycles and 10.6 ms per step,
3,023 images/s per device, MFU 58.6 %, 0.6 GiB per device, gradients in one all-reduce of 28.5 MiB.
The plain U-Net (width 32, depth 4, block size 1) at the same batch: 144.8 M cycles, 332 images/s
per device; at 128 per device, which suits it better, 751 images/s.

The cost is accuracy: at a quarter of the widths, blocks of 4 have a test Dice of .9503 on real
images, blocks of 2 .9552 and the plain form .9543 (`benchmarks/forms.py`, means of three seeds).
Validation runs on the host and takes longer than 50 steps, the default interval, which take half a
second. Here it is done every 200 steps, which is once in a run of the default length.

Blocks of 2, as accurate as the plain form, run fastest at 128 images per device: 1,447 images/s
there, MFU 40.5 %:

    python -m lungseg_jax.main --config=configs/tpu.py --config.data.source=kaggle \
        --config.data.manual_dir=FOLDER --config.model.block_size=2 --config.model.width=64 \
        --config.model.depth=3 --config.batch_size=1024 --workdir=runs/tpu
"""

from ml_collections import ConfigDict

from lungseg_jax.config import default_config

NUM_DEVICES = 8


def get_config() -> ConfigDict:
    """Returns the configuration of this form, with 32 images per device."""
    config = default_config()
    config.batch_size = 32 * NUM_DEVICES
    config.model.block_size = 4
    config.model.width = 128
    config.model.depth = 2
    config.evaluation.every = config.num_steps
    return config
