"""Accuracy of three forms of a U-Net on real images.

  python -m benchmarks.forms FOLDER [FORM:SEED…]     (default: all of FORMS, seeds 0 to 2)

FOLDER holds Kaggle's "Chest Xray Masks and Labels". The forms have the same channels at the same
resolutions; those with blocks leave out the finest one or two, where a network takes most of its
time. The networks have a quarter and half of the usual width, which two cores train in
minutes. A seed determines split, order, augmentation and initial parameters, the same for all
forms. Writes `benchmarks/results/forms.json`; runs that it already holds and that are not named are
kept.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.command import call_with_arguments
from benchmarks.main_job import RESULTS
from lungseg_jax.runtime.environment import environment

RESULT = RESULTS / "forms.json"

NUM_STEPS = 300

# Name: (block size, width, depth).
FORMS = {
    "plain-8": (1, 8, 4),
    "blocks-of-2-16": (2, 16, 3),
    "blocks-of-4-32": (4, 32, 2),
    "plain-16": (1, 16, 4),
    "blocks-of-4-64": (4, 64, 2),
}
SEEDS = (0, 1, 2)


def train(folder: str, seed: int, form: str) -> dict[str, float]:
    """Returns metrics of a run's test and validation splits."""
    block_size, width, depth = FORMS[form]
    with tempfile.TemporaryDirectory() as workdir:
        subprocess.run(  # noqa: S603
            [
                sys.executable, "-m", "lungseg_jax.main", "--config=configs/kaggle.py",
                f"--workdir={workdir}", f"--config.data.manual_dir={folder}",
                f"--config.seed={seed}", f"--config.num_steps={NUM_STEPS}",
                f"--config.evaluation.every={NUM_STEPS // 4}",
                f"--config.model.block_size={block_size}", f"--config.model.width={width}",
                f"--config.model.depth={depth}",
            ],
            check=True,
        )  # fmt: skip
        metrics = json.loads((Path(workdir) / "metrics.json").read_text())
    names = ("dice", "iou", "hd95_px", "assd_px", "surface_dice")
    return {f"{split}_{name}": metrics[split][name] for split in ("test", "val") for name in names}


def main(folder: str, *runs: str) -> None:
    """Trains every form with every seed, or the named runs, and adds them to the result file."""
    found = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else {}
    for run in runs or [f"{form}:{seed}" for seed in SEEDS for form in FORMS]:
        form, seed = run.split(":")
        own_environment = environment()
        found.setdefault(form, {})[seed] = train(folder, int(seed), form)
        result = {
            "last_run": own_environment,
            "num_steps": NUM_STEPS,
            "forms": {
                name: {"block_size": block_size, "width": width, "depth": depth}
                for name, (block_size, width, depth) in FORMS.items()
            },
            "runs": found,
        }
        RESULT.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
