"""Runs an experiment of `configs/` as a user would and commits its figures to `results/`.

  python benchmarks/main_job.py configs/unet.py [--config.KEY=VALUE …]

Writes `benchmarks/results/<experiment>.json`: hardware, versions, seconds from start to end,
`metrics.json` and the configuration. Paths are left out of it.
"""

import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main(config: str, *overrides: str) -> None:
    """Runs the experiment in a new folder and writes its result file."""
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
        "hardware": hardware(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")},
        "seconds": round(time.perf_counter() - start),
        "metrics": json.loads((workdir / "metrics.json").read_text()),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['experiment']}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Wrote {path}; the run is in {workdir}")


def hardware() -> str:
    """Names the accelerator, or the processor and the cores this process may use."""
    import jax

    from lungseg_jax.cores import usable_cores

    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{usable_cores()} cores of {model}"


if __name__ == "__main__":
    main(*sys.argv[1:])
