"""What the TPU compiler predicts for three forms of a U-Net at several batches; no TPU is run.

  python -m benchmarks.tpu [TOPOLOGY:FORM:SIZE:BATCH…]     (default: all of CASES)

FORM is a name in FORMS, SIZE the images' side, BATCH the images per device. Writes
`benchmarks/results/tpu.json`; cases that it already holds and that are not named are kept. A case
takes minutes.
"""

import dataclasses
import json
import tempfile
from typing import Any

from benchmarks.command import call_with_arguments
from benchmarks.main_job import RESULTS
from lungseg_jax.compile_ahead import compile_ahead, topology_devices
from lungseg_jax.config import Config, DataConfig, ModelConfig
from lungseg_jax.runtime.environment import revision

RESULT = RESULTS / "tpu.json"

# The same channels at the same resolutions; forms with blocks leave out the finest ones.
FORMS = {
    "plain": ModelConfig(block_size=1, width=32, depth=4),
    "blocks-of-2": ModelConfig(block_size=2, width=64, depth=3),
    "blocks-of-4": ModelConfig(block_size=4, width=128, depth=2),
    "blocks-of-4-wide": ModelConfig(block_size=4, width=256, depth=2),
}
CASES = [
    *(
        f"{topology}:{form}:256:{batch}"
        for topology in ("v5e:2x2", "v6e:2x2")
        for form in ("plain", "blocks-of-2", "blocks-of-4")
        for batch in (32, 64, 128)
    ),
    "v5e:2x2:blocks-of-4-wide:512:16",
    "v6e:2x2:blocks-of-4-wide:512:16",
]
KEPT = (
    "device",
    "num_devices",
    "batch_size",
    "image_size",
    "model",
    "versions",
    "fits",
    "memory",
)


def measure(case: str) -> dict[str, Any]:
    """Returns what the compiler predicts for a case."""
    topology, form, size, batch = case.rsplit(":", 3)
    config = Config(
        batch_size=int(batch) * len(topology_devices(topology)),
        data=DataConfig(image_size=int(size)),
        model=dataclasses.replace(FORMS[form], dtype="bfloat16"),
    )
    with tempfile.TemporaryDirectory() as workdir:
        result = compile_ahead(config, workdir, topology)
    kept = {name: result[name] for name in (*KEPT, "train_step", "collectives") if name in result}
    return kept | {"topology": topology, "form": form}


def main(*cases: str) -> None:
    """Compiles the cases and writes them to the result file."""
    # Once, because writing the file modifies the checkout.
    commit = revision()
    for case in cases or CASES:
        found = measure(case) | {"revision": commit}
        kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        RESULT.write_text(json.dumps({**kept, case: found}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
