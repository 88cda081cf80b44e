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
from benchmarks.result_files import write_result
from lungseg_jax.runtime.environment import environment


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
    write_result(result["experiment"], result)
    print(f"The run is in {workdir}")


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
