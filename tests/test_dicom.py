"""DICOM files as a whole: real ones, broken ones, and what must not leave a header."""

import hashlib
import hmac
import io
import logging
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian

from lungseg_jax.errors import DataError, NotFrontalError
from lungseg_jax.imaging.dicom import hash_patient, read_dicom, read_patient_id, read_sex_and_age
from lungseg_jax.imaging.files import read_radiograph
from lungseg_jax.imaging.radiograph import ReadOptions
from tests.images import PATIENT_ID, PATIENT_NAME, SHARED, chest, dicom_bytes

STORED = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
SIGNED = STORED.astype(np.int16) - 2048
RAMP = {"WindowCenter": 2048, "WindowWidth": 4096}  # LINEAR: 0 to 4095 onto 0 to 1
KEY = b"of the data set"
ANYTHING = ReadOptions(frontal_only=False)


@pytest.mark.parametrize(
    ("keyword", "good", "bad"),
    [
        ("PixelSpacing", ["0.15", "0.25"], b"0.15\\abcd"),
        ("PixelSpacing", ["0.15", "0.25"], b"0.15\\nan "),
        ("EstimatedRadiographicMagnificationFactor", "1.25", b"1,25"),
        ("WindowWidth", "4000", b"wide"),
        ("PatientBirthDate", "19700101", b"1970Roe^"),
        ("SpecificCharacterSet", "ISO_IR 100", b"ISO_IR 1XX"),
        ("StudyInstanceUID", "1.2.3.4.5.66", b"1.2.3.x.5.66"),
    ],
)
def test_nonsense_beside_the_pixels_does_not_stop_or_warn(keyword, good, bad):
    """Hospitals' headers are full of it; pydicom's warnings would quote it on the terminal."""
    content = dicom_bytes(STORED, {keyword: good})
    written = "\\".join(good) if isinstance(good, list) else good
    assert content.count(written.encode()) == 1
    content = content.replace(written.encode(), bad)
    log = io.StringIO()
    # The root logger is what absl prints; warnings are errors in tests.
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    try:
        radiograph = read_dicom(content, "image.dcm")
        read_patient_id(content, "image.dcm", KEY)
    finally:
        logging.getLogger().removeHandler(handler)
    assert not log.getvalue()
    assert radiograph.spacing_mm is None
    assert np.isfinite(radiograph.pixels).all()


def test_trailing_bytes_after_the_pixels_do_not_warn():
    """Padding to whole blocks is common."""
    content = dicom_bytes(STORED, {**RAMP, "PixelData": STORED.tobytes() + b"\0" * 10})
    np.testing.assert_allclose(read_dicom(content, "x").pixels, STORED / 4095, atol=1e-5)


def cut_short(content: bytes) -> bytes:
    return content[:-20]


def of_unknown_transfer_syntax(content: bytes) -> bytes:
    return content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (dicom_bytes(STORED, {"PixelData": None}), "without PixelData"),
        (dicom_bytes(STORED, {"NumberOfFrames": 2}), "several frames"),
        (
            dicom_bytes(STORED, {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}),
            "not grey",
        ),
        (dicom_bytes(STORED, {"PhotometricInterpretation": "PALETTE COLOR"}), "not grey"),
        (dicom_bytes(STORED, {"PhotometricInterpretation": None}), "without PhotometricInterp"),
        (cut_short(dicom_bytes(STORED)), "do not decode"),
        (dicom_bytes(STORED, {"Rows": 9}), "do not decode"),
        (dicom_bytes(STORED, {"BitsAllocated": None}), "do not decode"),
        (of_unknown_transfer_syntax(dicom_bytes(STORED)), "do not decode"),
        (dicom_bytes(STORED)[:200], "DICOM"),
        (dicom_bytes(STORED)[:132] + b"\xff" * 400, "DICOM"),
        (b"\0" * 128 + b"DICM", "DICOM"),
        (b"no DICOM at all", "not a DICOM file"),
        (dicom_bytes(STORED).replace(b"\x28\0\x04\0CS", b"\x28\0\x04\0ZZ"), "DICOM"),
    ],
)
def test_refusals_name_file_and_fault_and_not_the_patient(content, fault):
    """A traceback helps nobody; a name in a log breaks confidentiality."""
    with pytest.raises(DataError) as caught:
        read_dicom(content, "image.dcm")
    message = str(caught.value)
    assert message.startswith("image.dcm: ")
    assert fault in message
    assert caught.value.remedy
    # What led to it would be printed with it where nobody catches it.
    assert caught.value.__cause__ is None
    for private in (PATIENT_ID, *PATIENT_NAME.split("^")):
        assert private not in message


@given(st.data())
@settings(max_examples=300)
def test_damaged_files_raise_data_errors_only(data):
    """Any other exception would end a run over a thousand files with a traceback."""
    content = bytearray(dicom_bytes(STORED, RAMP | {"PixelSpacing": ["0.15", "0.25"]}))
    header = len(content) - STORED.nbytes
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = read_dicom(bytes(content), "image.dcm").pixels
        assert np.isfinite(pixels).all()
        read_patient_id(bytes(content), "image.dcm", KEY)
    except DataError as error:
        assert "image.dcm" in str(error)  # noqa: PT017


def patient_hash(key: bytes = KEY, **attributes: Any) -> str | None:
    patient_id, notes = read_patient_id(dicom_bytes(STORED, attributes), "image.dcm", key)
    assert notes == ()
    return patient_id


@pytest.mark.parametrize(
    ("sex", "age", "expected"),
    [
        ("F", "045Y", ("F", 45)), ("M", "010M", ("M", 0)), ("m ", "105W", ("M", 2)),
        ("O", "091Y", ("", 90)), ("", "", ("", None)), ("F", "45", ("F", None)),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_sex_and_age_are_read_where_they_are_known(sex, age, expected):
    """Fault: months for years, a slip for an age, or the age of the few who are older than 90."""
    content = dicom_bytes(chest(32, 32, 0)[0], {"PatientSex": sex, "PatientAge": age})
    assert read_sex_and_age(content, "image.dcm") == expected


def test_patient_ids_are_compared_but_not_kept():
    """Fault: an identifier in a record, in the open or as a hash that anybody can try out."""
    first = patient_hash()
    assert first == hmac.new(KEY, PATIENT_ID.encode(), hashlib.sha256).hexdigest()[:16]
    assert first == patient_hash(PatientID=f" {PATIENT_ID} ") == patient_hash(PatientName="Doe")
    assert first == hash_patient(f"{PATIENT_ID}\t", KEY)
    assert len({first, patient_hash(b"another"), patient_hash(PatientID="MRN-4712")}) == 3


@pytest.mark.parametrize("identifier", ["", None, " "])
def test_no_patient_id(identifier):
    """Fault: all patients without identifier taken for one, or two images of a study for two."""

    def read(study: str | None) -> tuple[str | None, tuple[str, ...]]:
        attributes = {"PatientID": identifier} | ({"StudyInstanceUID": study} if study else {})
        return read_patient_id(dicom_bytes(STORED, attributes), "e.dcm", KEY)

    (first, notes), (second, _) = read("1.2.3"), read("1.2.4")
    assert first == hash_patient("1.2.3", KEY)
    assert first != second
    assert notes == ("no PatientID: each study counts as a patient",)
    assert read(None) == (None, ("no PatientID: counts as a patient of its own",))


def test_patient_id_of_large_deflated_files():
    """Fault: films beyond the default size are read on request, and their patient refused."""
    pixels = {"PixelData": bytes(2**27)}
    content = dicom_bytes(STORED, pixels, DeflatedExplicitVRLittleEndian)
    with pytest.raises(DataError, match="inflates beyond"):
        read_patient_id(content, "e.dcm", KEY, ReadOptions(max_pixels=2**23))
    options = ReadOptions(max_pixels=2**25)
    assert read_patient_id(content, "e.dcm", KEY, options) == (patient_hash(), ())


def test_patient_id_of_broken_files():
    """Fault: a traceback, or a hash of nonsense."""
    # A type of value that does not exist.
    content = dicom_bytes(STORED).replace(b"\x10\0\x20\0LO", b"\x10\0\x20\0Z!")
    with pytest.raises(DataError, match=r"^e\.dcm: broken DICOM header"):
        read_patient_id(content, "e.dcm", KEY)
    with pytest.raises(DataError, match=r"^e\.dcm: not a DICOM file"):
        read_patient_id(b"no DICOM at all, but long enough", "e.dcm", KEY)


REAL = SHARED / "dicom"
real = pytest.mark.skipif(not REAL.is_dir(), reason="no real DICOM files in ../shared/data/dicom")

# Boxes (top, bottom, left, right, as shares) seen by eye to lie in a lung and in the mediastinum.
REAL_CHESTS = {
    "chest_cr_mono1_10bit_explicit": ((0.35, 0.55, 0.12, 0.28), (0.35, 0.55, 0.40, 0.50)),
    "chest_cr_mono1_15bit_jpeg2000": ((0.28, 0.36, 0.17, 0.27), (0.45, 0.65, 0.45, 0.58)),
    "chest_cr_mono1_15bit_jpegls_near": ((0.28, 0.36, 0.17, 0.27), (0.45, 0.65, 0.45, 0.58)),
    "chest_cr_mono1_8bit_jpeg_baseline": ((0.30, 0.50, 0.12, 0.30), (0.45, 0.65, 0.48, 0.58)),
    "chest_dx_mono2_8bit_implicit": ((0.35, 0.50, 0.20, 0.32), (0.45, 0.65, 0.45, 0.58)),
}


@real
@pytest.mark.parametrize("name", sorted(REAL_CHESTS))
def test_real_chests_have_dark_lungs(name):
    """Real headers break rules that generated ones keep; inverted or saturated is useless."""
    pixels = read_radiograph(REAL / f"{name}.dcm").pixels
    assert np.isfinite(pixels).all()
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert np.ptp(np.percentile(pixels, (5, 95))) > 0.3
    lung, mediastinum = (
        np.median(pixels[int(t * len(pixels)) : int(b * len(pixels)), int(le * w) : int(r * w)])
        for w in [pixels.shape[1]]
        for t, b, le, r in REAL_CHESTS[name]
    )
    assert lung + 0.1 < mediastinum


@real
def test_every_real_chest_is_looked_at():
    """A new file would go untested."""
    assert {path.stem for path in REAL.glob("chest_*.dcm")} == set(REAL_CHESTS)


@real
@pytest.mark.parametrize(
    "name",
    [
        "other_cr_jpeg2000_lossless",
        "other_cr_jpeg_lossless",
        "other_cr_jpegls_lossless",
        "other_cr_modality_lut_sequence",
        "other_cr_rle",
        "other_signed_16bit",
    ],
)
def test_real_files_of_other_kinds_decode(name):
    """Each exercises another decoder or table."""
    pixels = read_radiograph(REAL / f"{name}.dcm", ANYTHING).pixels
    assert np.isfinite(pixels).all()
    assert 0 <= pixels.min() < pixels.max() <= 1
    # Whose headers name nothing else.
    if name in ("other_cr_modality_lut_sequence", "other_signed_16bit"):
        assert not read_radiograph(REAL / f"{name}.dcm").looks_frontal
        return
    with pytest.raises(NotFrontalError):
        read_radiograph(REAL / f"{name}.dcm")


@real
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("other_cr_rle", "other_cr_jpeg2000_lossless"),
        ("other_cr_jpeg_lossless", "other_cr_jpegls_lossless"),
    ],
)
def test_lossless_encodings_of_one_image_agree(one, other):
    """Decoders that disagree by a bit shift would both look plausible."""
    first, second = (
        read_radiograph(REAL / f"{name}.dcm", ANYTHING).pixels for name in (one, other)
    )
    np.testing.assert_array_equal(first, second)


@real
def test_real_file_without_pixels_is_refused():
    """Its header promises 4218 x 3420 pixels."""
    with pytest.raises(DataError, match=r"^other_no_pixel_data.dcm: .*without PixelData"):
        read_radiograph(REAL / "other_no_pixel_data.dcm", ANYTHING)


@real
@pytest.mark.parametrize(
    "name", ["chest_cr_mono1_15bit_jpeg2000", "chest_cr_mono1_8bit_jpeg_baseline", "other_cr_rle"]
)
def test_compressed_streams_cut_short_are_refused(name):
    """Lenient decoders fill the missing rows with grey."""
    dataset = pydicom.dcmread(REAL / f"{name}.dcm")
    stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([stream[: len(stream) * 7 // 20 * 2]])
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    with pytest.raises(DataError, match="do not decode"):
        read_dicom(buffer.getvalue(), "image.dcm", ANYTHING)
    with pytest.raises(DataError, match="cut short"):
        read_dicom(buffer.getvalue()[:-2000], "image.dcm", ANYTHING)
