"""Rate and memory of building records, next to a plain pydicom and Pillow loop.

  python -m benchmarks.build_rate FOLDER [--memory|--large]

FOLDER holds Kaggle's "Chest Xray Masks and Labels". Each image is built twice, from its PNG file
and from a DICOM copy of it. The loop does what a script would: read, window, shrink, encode, write;
it checks nothing. All variants run in turn on one machine, five times. The whole of `prepare` is
timed, from listing the folder to the manifest, but not the garbage that imports leave. `--large`
takes a sixth of the images, enlarged to the 2048 x 2048 pixels of a hospital's radiographs.
`--memory` measures peak memory for 500 and 5,000 pairs instead. Writes
`benchmarks/results/build_rate.json`, `build_rate_large.json` or `build_memory.json`.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from benchmarks.command import call_with_arguments
from benchmarks.result_files import write_result
from lungseg_jax.runtime.environment import environment
from tfds_builder.sources import list_source

IMAGE_SIZE = 256
REPEATS = 5

BUILD = """
import gc, json, resource, sys, time
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import LungsConfig
from tfds_builder.prepare import prepare
gc.collect()
start = time.perf_counter()
prepare(LungsConfig(source="folder", image_size=256), *sys.argv[1:])
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "peak_mebibytes_of_a_worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
}))
"""


def main(folder: str, option: str = "") -> None:
    """Measures and writes a result file."""
    if option not in ("", "--memory", "--large"):
        sys.exit(f"unknown option {option}\n{__doc__}")
    own_environment = environment()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        if option == "--memory":
            result = {"pairs": {n: _build(_many(folder, root, n), root, 2) for n in (500, 5000)}}
            name = "build_memory"
        elif option == "--large":
            result, name = _rates(_pairs(folder, root, every=6, side=2048)), "build_rate_large"
        else:
            result, name = _rates(_pairs(folder, root)), "build_rate"
    result = {**own_environment, **result}
    write_result(name, result)
    print(json.dumps(result, indent=2))


def _rates(folder: Path) -> dict:
    count = len(list((folder / "images").iterdir()))
    seconds: dict[str, list[float]] = {"loop": [], "one core": [], "two cores": []}
    for _ in range(REPEATS):
        seconds["loop"].append(_timed_loop(folder))
        for cores, name in ((1, "one core"), (2, "two cores")):
            with tempfile.TemporaryDirectory() as data_dir:
                seconds[name].append(_build(folder, Path(data_dir), cores)["seconds"])
    ratios = {
        "one core over loop": ("loop", "one core"),
        "two cores over one": ("one core", "two cores"),
    }
    return {
        "pairs": count,
        "pairs_per_second": {
            name: round(count / statistics.median(times), 1) for name, times in seconds.items()
        },
        "ratios_by_repeat": {
            name: [round(a / b, 2) for a, b in zip(seconds[slow], seconds[fast], strict=True)]
            for name, (slow, fast) in ratios.items()
        },
    }


def _build(folder: Path, data_dir: Path, cores: int) -> dict[str, float]:
    """Builds in a process that may use `cores` cores; returns seconds and peak memory."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    output = subprocess.run(  # noqa: S603
        [sys.executable, "-c", BUILD, data_dir / "records", folder],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    ).stdout
    return json.loads(output.splitlines()[-1])


def _timed_loop(folder: Path) -> float:
    """Returns the seconds that the plain loop takes on one core."""
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        for path in sorted((folder / "images").iterdir()):
            image = _read(path)
            mask = Image.open(folder / "masks" / f"{path.stem}.png").convert("L")
            mask = Image.fromarray((np.asarray(mask) > 127).astype(np.uint8))
            size = (IMAGE_SIZE, IMAGE_SIZE)
            square = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
            written = np.rint(np.clip(square, 0, 1) * 65535).astype(np.uint16)
            for name, content in (
                ("image", Image.fromarray(written)),
                ("mask", mask.resize(size)),
                ("original_mask", mask),
            ):
                content.save(Path(output) / f"{path.stem}_{name}.png")
        return time.perf_counter() - start


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        return np.asarray(Image.open(path).convert("L"), np.float32) / 255
    dataset = pydicom.dcmread(path)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    values = values.astype(np.float32)
    values = (values - values.min()) / (values.max() - values.min())
    return 1 - values if dataset.PhotometricInterpretation == "MONOCHROME1" else values


def _pairs(folder: str, root: Path, every: int = 1, side: int | None = None) -> Path:
    """Writes each pair twice, the second time as DICOM."""
    archive = root / "archive"
    for name in ("images", "masks"):
        (archive / name).mkdir(parents=True)
    for case in list_source("kaggle", folder).cases[::every]:
        path = archive / "images" / Path(case.image).name
        mask, copy = archive / "masks" / f"{path.stem}.png", f"{path.stem}_dicom"
        for source, target in ((case.image, path), (case.masks[0].path, mask)):
            target.write_bytes(Path(source).read_bytes())
            if side is not None:
                Image.open(target).convert("L").resize((side, side)).save(target)
        path.with_name(f"{copy}.dcm").write_bytes(to_dicom(path, copy))
        mask.with_name(f"{copy}.png").write_bytes(mask.read_bytes())
    return archive


def _many(folder: str, root: Path, count: int) -> Path:
    """Writes `count` pairs, repeating the same images under other names."""
    archive = root / f"archive-{count}"
    for name in ("images", "masks"):
        (archive / name).mkdir(parents=True)
    cases = list_source("kaggle", folder).cases
    for number in range(count):
        case = cases[number % len(cases)]
        for name, path in (("images", case.image), ("masks", case.masks[0].path)):
            (archive / name / f"{number:05d}.png").write_bytes(Path(path).read_bytes())
    return archive


def to_dicom(path: Path, patient_id: str) -> bytes:
    """Returns an image file as a DICOM file with uncompressed pixels."""
    pixels = np.asarray(Image.open(path).convert("L"))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3"
    dataset.PatientID, dataset.Modality = patient_id, "CR"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.WindowCenter, dataset.WindowWidth = 128, 256
    dataset.add_new("PixelData", "OB", pixels.tobytes())
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
