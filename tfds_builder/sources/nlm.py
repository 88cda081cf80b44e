"""What the National Library of Medicine's two sets share, wherever their files lie.

Jaeger et al. 2014 (https://doi.org/10.3978/j.issn.2223-4292.2014.11.20). An image is called
`MCUCXR_0001_0` (Montgomery County) or `CHNCXR_0001_0` (Shenzhen); the last digit is 0 for a normal
image and 1 for tuberculosis.
"""

from collections.abc import Iterable

from etils import epath

from tfds_builder.sources import clinical
from tfds_builder.sources.layout import (
    MAX_READING_BYTES,
    Case,
    Clinical,
    Finding,
    MaskFile,
    read_regular,
)

MONTGOMERY_SPACING_MM = (0.0875, 0.0875)

# Images of one patient under two numbers, found by comparing pixels.
_SAME_PATIENT = {
    "CHNCXR_0605": "CHNCXR_0477",
    "MCUCXR_0117": "MCUCXR_0113",
    "MCUCXR_0166": "MCUCXR_0162",
    "MCUCXR_0170": "MCUCXR_0162",
    "MCUCXR_0223": "MCUCXR_0144",
    "MCUCXR_0313": "MCUCXR_0264",
    "MCUCXR_0316": "MCUCXR_0264",
}
_FINDINGS: dict[str, Finding] = {"0": "normal", "1": "abnormal"}
_SOURCES = {"MCUCXR": "montgomery", "CHNCXR": "shenzhen"}


def make_case(
    stem: str,
    image: epath.Path,
    masks: Iterable[MaskFile],
    reading: epath.Path | None,
    other_source: str,
) -> Case:
    """Returns the case that an image's name and reading describe.

    Args:
      stem: the image's file name without suffix.
      image: its file.
      masks: its masks.
      reading: its clinical reading, if there is one.
      other_source: the source of images whose name belongs to neither set.

    Raises:
      DataError: the reading is not readable.
    """
    patient, _, finding = stem.rpartition("_")
    source = _SOURCES.get(stem.partition("_")[0], other_source)
    return Case(
        example_id=stem,
        patient_id=_SAME_PATIENT.get(patient, patient or stem),
        source=source,
        image=image,
        masks=tuple(masks),
        clinical=_read(reading, source, _FINDINGS.get(finding, "unknown")),
        spacing_mm=MONTGOMERY_SPACING_MM if source == "montgomery" else None,
    )


def _read(reading: epath.Path | None, source: str, finding: Finding) -> Clinical:
    if reading is None:
        return Clinical(finding=finding)
    text = read_regular(reading, MAX_READING_BYTES).decode("utf-8-sig", errors="replace")
    parse = clinical.parse_montgomery if source == "montgomery" else clinical.parse_shenzhen
    return parse(text, finding)
