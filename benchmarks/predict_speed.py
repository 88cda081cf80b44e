"""Time of prediction on files with the weights in the package, on this machine's CPU.

  python -m benchmarks.predict_speed

Start-up time: the command on one small image, with an empty and with a filled cache of compiled
programs. Time per file: phantoms enlarged to several sizes, as PNG and DICOM; the difference
between the command on many of them and on one, divided by the difference of their numbers. Writes
`benchmarks/results/predict_speed.json`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.build_rate import to_dicom
from benchmarks.command import call_with_arguments
from benchmarks.result_files import write_result
from lungseg_jax.runtime.environment import environment
from tfds_builder.phantom import generate_phantom

SIDES = (512, 1024, 2048, 3000)
FILES = 12
REPEATS = 3


def main() -> None:
    """Measures and writes."""
    own_environment = environment()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folders = {side: _images(root / str(side), side) for side in SIDES}
        first = sorted(folders[512].iterdir())[0]
        start = [_seconds([first], root) for _ in range(1 + REPEATS)]
        # So that the program for several images at a time is compiled, too.
        _seconds(sorted(folders[512].iterdir()), root)
        result = {
            **own_environment,
            "start_seconds": {"empty cache": start[0], "filled cache": start[1:]},
            "seconds_a_file": {
                side: [_a_file(folder, root) for _ in range(REPEATS)]
                for side, folder in folders.items()
            },
        }
    write_result("predict_speed", result)
    print(json.dumps(result, indent=2))


def _a_file(folder: Path, root: Path) -> float:
    paths = sorted(folder.iterdir())
    return round((_seconds(paths, root) - _seconds(paths[:1], root)) / (len(paths) - 1), 3)


def _seconds(paths: list[Path], root: Path) -> float:
    """Returns the time of a command on files, all of which it must segment."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(root / "cache"), "JAX_PLATFORMS": "cpu"}
    output = Path(tempfile.mkdtemp(dir=root))
    start = time.perf_counter()
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", "lungseg_jax.predict", *paths, f"--output={output}"],
        env=os.environ | cache,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - start
    assert len(list(output.glob("*_mask.png"))) == len(paths)
    return round(seconds, 2)


def _images(folder: Path, side: int) -> Path:
    """Writes phantoms of a size, every second one as DICOM."""
    folder.mkdir()
    for number in range(FILES):
        image = generate_phantom(5, number).image.astype(np.float32)
        large = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
        path = folder / f"{number:02d}.png"
        cv2.imwrite(str(path), np.rint(np.clip(large, 0, 1) * 255).astype(np.uint8))
        if number % 2:
            path.with_suffix(".dcm").write_bytes(to_dicom(path, "p"))
            path.unlink()
    return folder


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
