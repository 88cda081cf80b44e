"""What the TPU compiler predicts for three forms of a U-Net at several batches; no TPU is run.

  python -m benchmarks.tpu [TOPOLOGY:FORM:SIZE:BATCH…]     (default: all of CASES)

FORM is a name in MODELS, SIZE the images' side, BATCH the images per device. Writes
`benchmarks/results/tpu.json`; cases that it already holds and that are not named are kept. A case
takes minutes.
"""

import dataclasses
import sys
import tempfile
from typing import Any

from benchmarks.command import call_with_arguments
from benchmarks.model_forms import FORMS
from benchmarks.result_files import earlier_result, write_result
from lungseg_jax.compile_ahead import compile_ahead, topology_devices
from lungseg_jax.config import Config, DataConfig
from lungseg_jax.runtime.environment import revision

MODELS = FORMS | {"blocks-of-4-wide": dataclasses.replace(FORMS["blocks-of-4"], width=256)}
CASES = [
    *(
        f"{topology}:{form}:256:{batch}"
        for topology in ("v5e:2x2", "v6e:2x2")
        for form in FORMS
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
        model=dataclasses.replace(MODELS[form], dtype="bfloat16"),
    )
    with tempfile.TemporaryDirectory() as workdir:
        result = compile_ahead(config, workdir, topology)
    kept = {name: result[name] for name in (*KEPT, "train_step", "collectives") if name in result}
    return kept | {"topology": topology, "form": form}


def main(*cases: str) -> None:
    """Compiles the cases and writes them to the result file."""
    if unknown := {case for case in cases if not _is_case(case)}:
        sys.exit(f"not TOPOLOGY:FORM:SIZE:BATCH, as {CASES[0]}: {', '.join(sorted(unknown))}")
    # Once, because writing the file modifies the checkout.
    commit = revision()
    for case in cases or CASES:
        found = earlier_result("tpu") | {case: measure(case) | {"revision": commit}}
        write_result("tpu", dict(sorted(found.items())))


def _is_case(case: str) -> bool:
    form, size, batch = case.split(":")[-3:] if case.count(":") == 4 else ("", "", "")
    return form in MODELS and size.isdecimal() and batch.isdecimal()


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
