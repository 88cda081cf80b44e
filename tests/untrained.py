"""A network that was not trained, and what tests look at of its results."""

import csv
from pathlib import Path

import jax

from lungseg_jax.network import make_model, split_model
from lungseg_jax.prediction.table import TABLE
from lungseg_jax.weights import Calibration, Weights
from tests.images import chest
from tests.small import small_config

CHEST = chest(120, 110, 0)[0]


def untrained_weights(calibration: Calibration, **changes) -> Weights:
    config = small_config(**changes)
    _, *variables = split_model(make_model(config))
    return Weights(config, tuple(jax.device_get(variables)), calibration)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
