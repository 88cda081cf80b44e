"""Writes chest-radiograph phantoms as DICOM files with PNG masks.

The files differ from each other as those of a hospital's archive do: CR and DX objects, both
photometric interpretations, 10 to 16 bits, several transfer syntaxes, with or without window and
rescale. Decoding one by DICOM's rules (PS3.4 N.2: modality LUT, VOI LUT, then the inversion of
MONOCHROME1) gives back `Phantom.image` up to quantisation.

Every worker process imports this module, so keep its imports light.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pydicom
from jaxtyping import Bool, Float, UInt16
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from lungseg_jax import terminal
from lungseg_jax.errors import DataError
from lungseg_jax.file_digest import stamp
from lungseg_jax.runtime.cores import usable_cores
from lungseg_jax.runtime.sandbox import Sandboxes
from tfds_builder.phantom import Phantom, generate_phantom, patient_number

# Version of the generator: another version gives other phantoms.
VERSION = 1

# Memory of a worker, for the largest phantom.
_MEMORY_BYTES = 2**31

_TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)


@dataclasses.dataclass(frozen=True)
class _Encoding:
    """How one phantom is encoded.

    Attributes:
        modality: ``"CR"`` or ``"DX"``.
        inverted: MONOCHROME1, low values bright.
        bits: bits stored, 10 to 16.
        transfer_syntax: the file's transfer syntax.
        slope: rescale slope; 1 for DX, whose module allows nothing else.
        intercept: rescale intercept; 0 for DX.
        rescale: whether the rescale attributes are present.
        window: VOI LUT function, or None for a file without a window.
        low: stored value of the dark end.
        high: stored value of the bright end of the scale (before the inversion).
        spacing: which attributes hold the pixel spacing: only that of the detector, those of both
            planes without or with calibration, or only the calibrated one (CR only).
        magnification: detector plane over patient plane, in calibrated files.
    """

    modality: Literal["CR", "DX"]
    inverted: bool
    bits: int
    transfer_syntax: UID
    slope: float
    intercept: float
    rescale: bool
    window: Literal["LINEAR", "LINEAR_EXACT"] | None
    low: int
    high: int
    spacing: Literal["detector", "both", "calibrated", "calibrated only"]
    magnification: float


def _sample_encoding(seed: int, index: int) -> _Encoding:
    """Draws the encoding of phantom `index`."""
    rng = np.random.default_rng([seed, 2, index])
    is_cr = rng.random() < 0.5
    bits = int(rng.integers(10, 17))
    top = 2**bits - 1
    rescale = not is_cr or rng.random() < 0.6
    # DX for presentation must carry a window (PS3.3 C.8.11.3), CR may.
    window = ("LINEAR", "LINEAR_EXACT")[int(rng.random() < 0.3)]
    has_window = not is_cr or rng.random() < 0.6
    spacings = ("detector", "both", "calibrated", "calibrated only")
    return _Encoding(
        modality="CR" if is_cr else "DX",
        inverted=bool(rng.random() < 0.4),
        bits=bits,
        transfer_syntax=_TRANSFER_SYNTAXES[int(rng.choice(4, p=(0.55, 0.2, 0.15, 0.1)))],
        slope=(1.0, 0.5, 2.0)[int(rng.integers(3))] if is_cr and rescale else 1.0,
        intercept=(0.0, -1024.0, 200.0)[int(rng.integers(3))] if is_cr and rescale else 0.0,
        rescale=bool(rescale),
        window=window if has_window else None,
        low=int(top * rng.uniform(0.0, 0.2)) if has_window else 0,
        high=int(top * rng.uniform(0.75, 1.0)) if has_window else top,
        spacing=spacings[int(rng.integers(4 if is_cr else 3))],
        magnification=float(np.round(rng.uniform(1.05, 1.2), 3)),
    )


def _stored_values(
    image: Float[np.ndarray, "h w"], encoding: _Encoding
) -> UInt16[np.ndarray, "h w"]:
    """Returns the stored pixel values of `image`, which is in [0, 1]."""
    scale = 1 - image if encoding.inverted else image
    span = encoding.high - encoding.low
    return np.round(encoding.low + scale.astype(np.float64) * span).astype(np.uint16)


def _describe_patient(dataset: Dataset, phantom: Phantom, seed: int, index: int) -> None:
    """Fills in the patient, study and series modules (PS3.3 C.7.1 to C.7.3)."""
    patient = patient_number(index)

    def uid(*names: object) -> UID:
        return generate_uid(entropy_srcs=["lungseg phantom", str(seed), *map(str, names)])

    dataset.SOPInstanceUID = uid("instance", index)
    dataset.StudyInstanceUID = uid("study", index)
    dataset.SeriesInstanceUID = uid("series", index)
    dataset.PatientID = f"PHANTOM-{patient:05d}"
    dataset.PatientName = f"Phantom^{patient:05d}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = phantom.patient_sex
    dataset.PatientAge = f"{phantom.patient_age:03d}Y"
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = dataset.Manufacturer = ""
    dataset.StudyID = str(index)
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = phantom.projection
    # Columns run to the patient's left, rows to the feet (PS3.3 C.7.6.1.1.1).
    dataset.PatientOrientation = ["L", "F"]


def _describe_modality(dataset: Dataset, encoding: _Encoding) -> None:
    """Fills in what CR (PS3.3 A.2) and DX (PS3.3 A.26) objects require besides the image."""
    dataset.Modality = encoding.modality
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    if encoding.modality == "CR":
        dataset.SOPClassUID = ComputedRadiographyImageStorage
        return
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageLaterality = "U"
    dataset.AnatomicRegionSequence = []
    dataset.AcquisitionContextSequence = []
    dataset.DetectorType = ""
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PixelIntensityRelationship = "LOG"
    # +1: lower values for less X-ray intensity (PS3.3 C.8.11.3.1.2), here the dense parts.
    dataset.PixelIntensityRelationshipSign = 1 if encoding.inverted else -1
    dataset.PresentationLUTShape = "INVERSE" if encoding.inverted else "IDENTITY"


def _describe_spacing(dataset: Dataset, spacing: tuple[float, float], encoding: _Encoding) -> None:
    """Fills in the pixel spacing with the meaning of PS3.3 10.7.1.1.

    ImagerPixelSpacing applies at the detector; PixelSpacing applies at the patient if it differs
    from it and is marked as calibrated.
    """
    calibrated = encoding.spacing in ("calibrated", "calibrated only")
    enlarged = encoding.magnification if encoding.spacing == "calibrated" else 1.0
    if encoding.spacing != "calibrated only":
        dataset.ImagerPixelSpacing = [round(value * enlarged, 6) for value in spacing]
    if encoding.spacing != "detector":
        dataset.PixelSpacing = [round(value, 6) for value in spacing]
    if calibrated:
        dataset.PixelSpacingCalibrationType = "GEOMETRY"
        dataset.PixelSpacingCalibrationDescription = "Known detector and patient distances"


def _describe_greys(dataset: Dataset, encoding: _Encoding) -> None:
    """Fills in rescale and window (PS3.3 C.11.1 and C.11.2)."""
    if encoding.rescale:
        dataset.RescaleSlope, dataset.RescaleIntercept = encoding.slope, encoding.intercept
        dataset.RescaleType = "US"
    if encoding.window is None:
        return
    low = encoding.low * encoding.slope + encoding.intercept
    span = (encoding.high - encoding.low) * encoding.slope
    # LINEAR maps center - 0.5 -+ (width - 1) / 2 onto the ends of the scale, LINEAR_EXACT
    # center -+ width / 2 (PS3.3 C.11.2.1.2.1 and C.11.2.1.3.2).
    shift = 1.0 if encoding.window == "LINEAR" else 0.0
    dataset.WindowCenter, dataset.WindowWidth = low + (span + shift) / 2, span + shift
    if encoding.window != "LINEAR":
        dataset.VOILUTFunction = encoding.window


def _to_dicom(phantom: Phantom, encoding: _Encoding, seed: int, index: int) -> Dataset:
    """Returns the DICOM object of `phantom`, ready to be written."""
    dataset = Dataset()
    _describe_modality(dataset, encoding)
    _describe_patient(dataset, phantom, seed, index)
    _describe_spacing(dataset, phantom.spacing_mm, encoding)
    _describe_greys(dataset, encoding)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if encoding.inverted else "MONOCHROME2"
    dataset.Rows, dataset.Columns = phantom.image.shape
    dataset.BitsAllocated, dataset.BitsStored = 16, encoding.bits
    dataset.HighBit, dataset.PixelRepresentation = encoding.bits - 1, 0
    stored = _stored_values(phantom.image, encoding)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if encoding.transfer_syntax == RLELossless:
        dataset.compress(RLELossless, stored, generate_instance_uid=False)
    else:
        dataset.PixelData = stored.astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = encoding.transfer_syntax
    return dataset


def _write_mask(path: Path, mask: Bool[np.ndarray, "h w"]) -> None:
    """Writes `mask` as an 8-bit PNG of 0 and 255; raises OSError if that fails."""
    if not cv2.imwrite(str(path), mask.astype(np.uint8) * 255):
        raise OSError(f"cannot write {path}")


def _write_one(root: Path, seed: int, index: int) -> None:
    """Generates and writes one phantom below `root`; raises DataError if that fails."""
    try:
        _write_files(root, seed, index)
    except OSError as error:
        fault = error.strerror or str(error)
        raise DataError(root, fault, "check space and permissions") from error


def _name(index: int) -> str:
    """Returns the name, without suffix, of the files of phantom `index`."""
    return f"phantom_{index:05d}"


def _write_files(root: Path, seed: int, index: int) -> None:
    phantom = generate_phantom(seed, index)
    name = _name(index)
    dataset = _to_dicom(phantom, _sample_encoding(seed, index), seed, index)
    pydicom.dcmwrite(root / "images" / f"{name}.dcm", dataset, enforce_file_format=True)
    _write_mask(root / "masks" / "left" / f"{name}.png", phantom.left_lung)
    _write_mask(root / "masks" / "right" / f"{name}.png", phantom.right_lung)


def _write_all(root: Path, count: int, seed: int) -> None:
    """Writes all phantoms below `root`, in one worker process per core."""
    workers = min(usable_cores(), count)

    def write(index: int) -> None:
        sandboxes.call(root, _write_one, root, seed, index)

    with (
        terminal.progress("phantoms", count, "file") as bar,
        Sandboxes(workers, _MEMORY_BYTES, _write_one) as sandboxes,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        try:
            for _ in pool.map(write, range(count)):
                bar.update()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            sandboxes.stop()


def check_complete(directory: Path, count: int) -> None:
    """Checks that a folder still holds what `write_phantoms` wrote there.

    Caches are cleaned file by file, by age or until the cleaning is interrupted: fewer phantoms
    would be another data set under the same name.

    Raises:
        DataError: files are missing or empty.
    """
    folders = (("images", ".dcm"), ("masks/left", ".png"), ("masks/right", ".png"))
    names = [f"{folder}/{_name(i)}{suffix}" for i in range(count) for folder, suffix in folders]
    lost = [name for name in names if stamp(directory / name)[0] <= 0]
    if lost:
        raise DataError(
            directory,
            f"{len(lost)} of its {len(names)} files are missing or empty, such as {lost[0]}",
            "remove the folder to have its phantoms generated again",
        )


def write_phantoms(directory: Path, count: int, seed: int) -> None:
    """Writes `count` phantoms of the series `seed` as files, all of them or none.

    The files below `directory` are ``images/phantom_00000.dcm``, ``masks/left/phantom_00000.png``,
    ``masks/right/phantom_00000.png`` (8 bits, 0 or 255; sides of the PATIENT), and so on. The same
    arguments give the same bytes with the same versions of the libraries on processors with the
    same instructions; on others, grey values differ by rounding. About one in eight patients
    (PatientID) has two images.

    Args:
        directory: the folder to create; an existing one is complete by construction and left alone.
        count: number of phantoms, at least 1.
        seed: number of the series, not negative.

    Raises:
        ValueError: if `count` is below 1 or `seed` is negative.
        DataError: if a file cannot be written.
        OSError: if a folder cannot be made.
    """
    if count < 1 or seed < 0:
        raise ValueError(f"needs count >= 1 and seed >= 0, got {count} and {seed}")
    directory = Path(directory)
    if directory.exists():
        return
    # A sibling lies in the same file system, which makes the final rename atomic.
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for part in ("images", "masks/left", "masks/right"):
            (partial / part).mkdir(parents=True)
        _write_all(partial, count, seed)
        try:
            partial.rename(directory)
        except OSError:
            # Another process may have finished the same directory in the meantime.
            if not directory.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
