"""Headers of what is no frontal chest are refused, all others pass."""

import warnings

import pytest
from pydicom.dataset import Dataset

from lungseg_jax.errors import NotFrontalError
from lungseg_jax.imaging.dicom import read_dicom
from lungseg_jax.imaging.frontal import check_header
from lungseg_jax.imaging.radiograph import ReadOptions
from tests.images import chest, dicom_bytes

IMAGE = chest(40, 36, 0)[0]


def header(**attributes: object) -> Dataset:
    dataset = Dataset()
    # Headers in lower case break DICOM's rules, of which pydicom warns.
    with warnings.catch_warnings(action="ignore"):
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
    return dataset


def coded(value: str, scheme: str = "SCT") -> list[Dataset]:
    return [header(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning="Roe")]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        *({"Modality": value} for value in ("CR", "DX", "RG", "", "OT", "ROE")),
        *(
            {"BodyPartExamined": value}
            for value in ("CHEST", "Chest PA", "THORAX", "TORAX", "CHEST ABDOMEN", "", "PORTABLE")
        ),
        *({"ViewPosition": value} for value in ("PA", "AP", "", "CHEST AP", "ROE")),
        *({"AnatomicRegionSequence": coded(value)} for value in ("816094009", "51185008", "1")),
        # Heart, chest and abdomen.
        *({"AnatomicRegionSequence": coded(value)} for value in ("80891009", "416550000")),
        {"AnatomicRegionSequence": coded("T-D3000", "SRT")},
        *({"ViewCodeSequence": coded(value)} for value in ("272479007", "399348003", "399033003")),
        {"ViewCodeSequence": coded("R-10214", "SRT")},
        {"AnatomicRegionSequence": [Dataset()], "ViewCodeSequence": []},
    ],
)
def test_chests_and_empty_headers_pass(attributes):
    """Fault: an archive whose headers are empty, or in its own words, refused as a whole."""
    check_header(header(**attributes), "image.dcm")


@pytest.mark.parametrize(
    ("attributes", "quoted"),
    [
        *(
            ({"Modality": value}, value)
            for value in ("CT", "MR", "MG", "IO", "PX", "US", "SR", "PR", "KO", "SEG")
        ),
        ({"BodyPartExamined": "HIP"}, "HIP"),
        ({"BodyPartExamined": "L-hand 2 views"}, "HAND"),
        ({"BodyPartExamined": "abdomen"}, "ABDOMEN"),
        ({"BodyPartExamined": "THORACIC SPINE"}, "SPINE"),
        ({"BodyPartExamined": "ThoracicSpine"}, "THORACICSPINE"),
        ({"BodyPartExamined": "CHEST/T-SPINE"}, "SPINE"),
        ({"AnatomicRegionSequence": coded("818981001")}, "ABDOMEN"),
        ({"AnatomicRegionSequence": coded("122495006")}, "THORACIC SPINE"),
        ({"AnatomicRegionSequence": coded("T-D8500", "SRT")}, "FOREARM"),
        *(({"ViewPosition": value}, value) for value in ("LL", "RL", "LLO", "RLO", "LLD")),
        ({"ViewPosition": "Left lateral"}, "LATERAL"),
        ({"ViewPosition": "CHEST LATERAL"}, "LATERAL"),
        ({"ViewPosition": "Thorax LAT"}, "LAT"),
        ({"ViewCodeSequence": coded("399173006")}, "LEFT LATERAL"),
        ({"ViewCodeSequence": coded("399135007")}, "LEFT ANTERIOR OBLIQUE"),
        ({"ViewCodeSequence": coded("R-10236", "SRT")}, "LEFT LATERAL"),
    ],
)
def test_other_images_are_refused_by_what_they_are(attributes, quoted):
    """Fault: a hand or a lateral chest in a data set; or the header's own words in a log."""
    stated = {"StudyDescription": "Roe", "SeriesDescription": "Roe"}
    with pytest.raises(NotFrontalError) as caught:
        check_header(header(**stated, **attributes), "image.dcm")
    assert f" {quoted} according to its header" in str(caught.value)
    assert "Roe" not in str(caught.value)


def test_refusals_can_be_switched_off():
    """Fault: an option that only half of the checks heed."""
    content = dicom_bytes(IMAGE, {"BodyPartExamined": "HIP", "ViewPosition": "LL"})
    with pytest.raises(NotFrontalError, match="HIP"):
        read_dicom(content, "image.dcm")
    read_dicom(content, "image.dcm", ReadOptions(frontal_only=False))


def test_what_has_no_pixels_is_still_named():
    """Fault: a report or presentation state counted as a broken image."""
    content = dicom_bytes(IMAGE, {"Modality": "SR", "PixelData": None})
    with pytest.raises(NotFrontalError, match="of modality SR"):
        read_dicom(content, "image.dcm")


@pytest.mark.parametrize(("flag", "noted"), [("YES", True), ("NO", False), ("", False)])
def test_burned_in_text_is_noted(flag, noted):
    """Fault: a name in the pixels that nobody is warned of."""
    radiograph = read_dicom(dicom_bytes(IMAGE, {"BurnedInAnnotation": flag}), "image.dcm")
    assert ("text burned into the pixels according to the header" in radiograph.notes) == noted
