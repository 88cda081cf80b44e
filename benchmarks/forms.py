"""Accuracy of three forms of a U-Net on real images.

  python -m benchmarks.forms FOLDER [NETWORK:SEED…]     (default: all of NETWORKS, seeds 0 to 2)

FOLDER holds Kaggle's "Chest Xray Masks and Labels", NETWORK is a form of `model_forms.py` and its
width. The networks have a quarter and half of the usual width, which two cores train in minutes. A
seed determines split, order, augmentation and initial parameters, the same for all networks. Writes
`benchmarks/results/forms.json`; runs that it already holds and that are not named are kept.
"""

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.command import call_with_arguments
from benchmarks.model_forms import FORMS
from benchmarks.result_files import earlier_result, write_result
from lungseg_jax.config import ModelConfig
from lungseg_jax.runtime.environment import environment

NUM_STEPS = 300

NETWORKS = ("plain-8", "blocks-of-2-16", "blocks-of-4-32", "plain-16", "blocks-of-4-64")
SEEDS = (0, 1, 2)


def model_of(network: str) -> ModelConfig:
    """Returns the model that a name of NETWORKS stands for."""
    form, _, width = network.rpartition("-")
    return dataclasses.replace(FORMS[form], width=int(width))


def train(folder: str, seed: int, model: ModelConfig) -> dict[str, float]:
    """Returns metrics of a run's test and validation splits."""
    with tempfile.TemporaryDirectory() as workdir:
        subprocess.run(  # noqa: S603
            [
                sys.executable, "-m", "lungseg_jax.main", "--config=configs/kaggle.py",
                f"--workdir={workdir}", f"--config.data.manual_dir={folder}",
                f"--config.seed={seed}", f"--config.num_steps={NUM_STEPS}",
                f"--config.evaluation.every={NUM_STEPS // 4}",
                f"--config.model.block_size={model.block_size}",
                f"--config.model.width={model.width}", f"--config.model.depth={model.depth}",
            ],
            check=True,
        )  # fmt: skip
        metrics = json.loads((Path(workdir) / "metrics.json").read_text())
    names = ("dice", "iou", "hd95_px", "assd_px", "surface_dice")
    return {f"{split}_{name}": metrics[split][name] for split in ("test", "val") for name in names}


def main(folder: str, *runs: str) -> None:
    """Trains every network with every seed, or the named runs, for the result file."""
    if unknown := [run for run in runs if not re.fullmatch(rf"({'|'.join(NETWORKS)}):\d+", run)]:
        sys.exit(f"not NETWORK:SEED of {', '.join(NETWORKS)}: {', '.join(unknown)}")
    found = earlier_result("forms").get("runs", {})
    for run in runs or [f"{network}:{seed}" for seed in SEEDS for network in NETWORKS]:
        network, _, seed = run.partition(":")
        own_environment = environment()
        found.setdefault(network, {})[seed] = train(folder, int(seed), model_of(network))
        result = {
            "last_run": own_environment,
            "num_steps": NUM_STEPS,
            "networks": {name: dataclasses.asdict(model_of(name)) for name in NETWORKS},
            "runs": found,
        }
        write_result("forms", result)


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
