"""The configuration of a run, to train it again in another folder.

    python -m lungseg_jax.main --config=configs/repeat.py:RUN --workdir=runs/again

RUN is the run's folder, of which only `config.json` is read. If it comes from elsewhere, add
`--config.data.manual_dir=FOLDER --config.data.data_dir=FOLDER` and, if the run had a split file,
`--config.data.splits=RUN/splits.json`; on one host instead of several, add
`--config.distributed=false`. `environment.json` says which commit, versions, number of devices and
settings to use for the same bits, and by `images` whether these are the same images.
"""

import dataclasses

from ml_collections import ConfigDict

from lungseg_jax.errors import UserError
from lungseg_jax.paths import run_folder
from lungseg_jax.workdir import read_config


def get_config(run: str = "") -> ConfigDict:
    """Returns the configuration of the run in a folder."""
    if not run:
        raise ValueError("no run is named; write --config=configs/repeat.py:RUN")
    try:
        return ConfigDict(dataclasses.asdict(read_config(run_folder(run))))
    except UserError as error:
        # ml_collections makes errors anew, of one text.
        raise ValueError(str(error)) from error
