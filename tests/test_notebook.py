"""The notebook runs from top to bottom on a machine that has nothing."""

import json
import os
import subprocess
import sys

from tests.small import REPOSITORY

NOTEBOOK = REPOSITORY / "examples" / "lung_segmentation.ipynb"


def test_the_notebook_runs(tmp_path):
    """Fault: a function renamed that the notebook still calls; outputs of real pictures in it."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code)
    text = "\n\n".join("".join(cell["source"]) for cell in code)
    # As short as it shows all the same that each cell works.
    text = text.replace("NUM_STEPS = 60", "NUM_STEPS = 4").replace(
        "config.data.num_phantoms = 60",
        f"config.data.num_phantoms, config.data.data_dir = 16, {str(tmp_path / 'data')!r}",
    )
    (tmp_path / "notebook.py").write_text(text)
    subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "agg", "PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""},
        check=True,
        timeout=600,
    )
    assert (tmp_path / "runs" / "notebook" / "metrics.json").exists()
    assert (tmp_path / "runs" / "notebook" / "predictions" / "predictions.csv").exists()
