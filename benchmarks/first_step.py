"""Time from the start of Python to the end of a run's first step, on phantoms.

  python -m benchmarks.first_step

With an empty and with a filled cache of compiled programs, for `configs/unet.py` and for the plain
U-Net of the same width. Records exist beforehand. Takes about four minutes on two cores; writes
`benchmarks/results/first_step.json`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.command import call_with_arguments
from benchmarks.result_files import write_result
from configs import unet
from lungseg_jax.config import resolve
from lungseg_jax.data.records import build_records
from lungseg_jax.runtime.environment import environment
from lungseg_jax.runtime.huge_pages import huge_page_variables

FORMS = {"configs/unet.py": (), "the plain U-Net": ("--config.model.block_size=1",)}
REPEATS = 3

# What `lungseg_jax.main` does up to its first step, with the seconds at which each part ended.
PROGRAM = """
import json, sys, tempfile, time
start, arguments = float(sys.argv[1]), sys.argv[2:]
# As `python -m` begins.
sys.argv, sys.orig_argv = ["-m"], [sys.executable, "-m", "lungseg_jax.main"]
import lungseg_jax
import jax
from etils import epath
from lungseg_jax.command_line import parse
from lungseg_jax.parallel import all_devices
from lungseg_jax.runtime.compilation_cache import use_compilation_cache
from lungseg_jax.runtime.cpu_devices import use_all_cores
from lungseg_jax.runtime.startup import end_imports
from lungseg_jax.train import started
end_imports()
ended = {"imports": time.time() - start}
config = parse(["main", "--config=configs/unet.py", *arguments]).config
use_compilation_cache()
use_all_cores(config)
parallel = all_devices(config.parallel, config.space_shards)
with tempfile.TemporaryDirectory() as folder, started(config, parallel, epath.Path(folder)) as run:
    ended["run ready"] = time.time() - start
    batch = run.parallel.shard(next(run.batches))
    jax.block_until_ready(run.step(run.state, run.store, batch))
    ended["first step"] = time.time() - start
print(json.dumps({part: round(seconds, 2) for part, seconds in ended.items()}))
"""


def main() -> None:
    """Measures and writes."""
    result: dict[str, object] = dict(environment())
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary) / "cache"
        build_records(resolve(unet.get_config()))
        for form, keys in FORMS.items():
            shutil.rmtree(cache, ignore_errors=True)
            empty, *filled = [_seconds(cache, *keys) for _ in range(1 + REPEATS)]
            result[form] = {"empty cache": empty, "filled cache": filled}
    write_result("first_step", result)
    print(json.dumps(result, indent=2))


def _seconds(cache: Path, *keys: str) -> dict[str, float]:
    """Returns when each part of a start ended, in seconds from the start of the process."""
    variables = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}
    # The clock starts here, so that Python's own start counts.
    child = subprocess.run(  # noqa: S603
        [sys.executable, "-c", PROGRAM, str(time.time()), *keys],
        env=os.environ | huge_page_variables() | variables,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(child.stdout)


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
