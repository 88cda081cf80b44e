"""The notebook runs from top to bottom on a machine that has nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from lungseg_jax.prediction.segmentation import Segmentation
from tests.images import write_kaggle
from tests.small import REPOSITORY

NOTEBOOK = REPOSITORY / "examples" / "lung_segmentation.ipynb"


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_runs(tmp_path):
    """Fault: a function renamed that the notebook still calls; outputs of real images in it.

    Or flags of a command among its outputs, which tell its reader nothing.
    """
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code)
    text = "\n\n".join(code_cells())
    # As short and small as it shows all the same that each cell works.
    text = text.replace("NUM_STEPS = 60", "NUM_STEPS = 4").replace(
        "config.data.num_phantoms = 60",
        f"config.data.num_phantoms, config.data.data_dir = 16, {str(tmp_path / 'data')!r}; "
        "config.data.image_size, config.model.width = 64, 4",
    )
    (tmp_path / "notebook.py").write_text(text)
    ended = subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "agg", "PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout
    assert not re.findall(r"(?m)(?:^|\s)--[a-z]+", ended.stdout)
    workdir = tmp_path / "runs" / "notebook-phantom-4"
    assert (workdir / "metrics.json").exists()
    assert (workdir / "predictions" / "predictions.csv").exists()


def test_images_to_segment_are_the_tested_ones(tmp_path, monkeypatch):
    """Fault: no image left, or masks taken for images, where the folder's name says mask."""
    folder = tmp_path / "chest-xray-masks-and-labels"
    images = write_kaggle(folder) / "CXR_png"
    (cell,) = (text for text in code_cells() if "import segment\n" in text)
    segmented = []

    def segment(path: Path) -> Segmentation:
        segmented.append(path)
        lung, unsure = np.ones((4, 4), bool), np.full((4, 4), 0.5, np.float32)
        return Segmentation(lung, lung, unsure, 0.9, (), (), None, "none")

    monkeypatch.setattr("lungseg_jax.predict.segment", segment)
    # Those of Montgomery have masks of the same name.
    tested = ("CHNCXR_0002_0", "MCUCXR_0001_1")
    names = {"SOURCE": "kaggle", "FOLDER": str(folder), "Path": Path}
    names["rows"] = [{"id": stem} for stem in tested]
    exec(cell, names)
    assert names["files"] == [images / f"{stem}.png" for stem in tested]
    assert segmented == names["files"][:1]


def test_each_source_and_length_has_its_folder():
    """Fault: a second run with other settings refused because the first one's folder is taken."""
    settings = code_cells()[0]
    folders = set()
    for change in (("", ""), ('"phantom"', '"kaggle"'), ("NUM_STEPS = 60", "NUM_STEPS = 2000")):
        names: dict[str, object] = {}
        exec(settings.replace(*change), names)
        folders.add(names["WORKDIR"])
    assert len(folders) == 3
