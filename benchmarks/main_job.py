"""Runs an experiment of `configs/` as a user would and writes its metrics to `results/`.

  python -m benchmarks.main_job configs/unet.py [--config.KEY=VALUE …]

Writes `benchmarks/results/<experiment>.json`: commit, versions, hardware, seconds from start to
end, and `metrics.json`.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.command import call_with_arguments
from lungseg_jax.runtime.environment import environment

RESULTS = Path(__file__).parent / "results"


def main(config: str, *overrides: str) -> None:
    """Runs the experiment in a new folder and writes its result file."""
    # First, because the commit may change later.
    own_environment = environment()
    workdir = Path(tempfile.mkdtemp(prefix="main_job-"))
    start = time.perf_counter()
    subprocess.run(  # noqa: S603
        [
            sys.executable, "-m", "lungseg_jax.main", f"--config={config}",
            f"--workdir={workdir}", *overrides,
        ],
        check=True,
    )  # fmt: skip
    result = {
        "experiment": Path(config).stem,
        **own_environment,
        "seconds": round(time.perf_counter() - start),
        "metrics": json.loads((workdir / "metrics.json").read_text()),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['experiment']}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Wrote {path}; the run is in {workdir}")


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
