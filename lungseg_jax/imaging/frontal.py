"""Whether a DICOM header describes a frontal chest radiograph.

Headers are often empty and sometimes in the hospital's own words: only those that name something
else, in DICOM's words, are refused. `chest_template` judges the pixels of what passes.
"""

import re
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.sr.codedict import Collection, codes
from pydicom.sr.coding import Code

from lungseg_jax.errors import NotFrontalError
from lungseg_jax.imaging.header import read_word
from lungseg_jax.imaging.orientation import is_lateral

# Modalities (DICOM PS3.3 C.7.3.1.1.1) other than projection radiographs of the trunk.
OTHER_MODALITIES = frozenset((
    "AR", "AU", "BDUS", "BI", "BMD", "CD", "CT", "DG", "DMS", "DOC", "ECG", "EEG", "EMG",
    "ES", "FID", "GM", "HC", "HD", "IO", "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN", "LS",
    "M3D", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPV", "OSS", "PLAN", "POS",
    "PR", "PT", "PX", "REG", "RESP", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT",
    "SEG", "SM", "SMR", "SR", "SRF", "STAIN", "TG", "US", "VA", "XA", "XC",
))  # fmt: skip

# Words of BodyPartExamined (PS3.16 Annex L, and abbreviations in use) for what is not a chest.
OTHER_BODY_PARTS = frozenset((
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CERVICALSPINE",
    "CLAVICLE", "COCCYX", "CSPINE", "CTSPINE", "ELBOW", "EXTREMITY", "FACE", "FEMUR", "FIBULA",
    "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HEADNECK", "HIP", "HUMERUS", "JAW", "KNEE",
    "LEG", "LOWEREXTREMITY", "LOWERLEG", "LSPINE", "LSSPINE", "LUMBARSPINE", "MANDIBLE",
    "MAXILLA", "NASALBONE", "NECK", "ORBIT", "PATELLA", "PELVIS", "RADIUS", "SACRUM", "SCAPULA",
    "SHOULDER", "SINUS", "SKULL", "SPINE", "SSPINE", "STERNUM", "TEETH", "THIGH",
    "THORACICSPINE", "THUMB", "TIBIA", "TLSPINE", "TOE", "TSPINE", "ULNA", "UPPERARM",
    "UPPEREXTREMITY", "WHOLEBODY", "WRIST", "ZYGOMA",
))  # fmt: skip

# Anatomic regions (PS3.16 CID 4031) that a frontal chest radiograph may be filed under.
CHEST_REGIONS = frozenset((
    "ApexOfLung", "Bronchus", "Chest", "ChestAbdomenAndPelvis", "ChestAndAbdomen", "Heart",
    "Mediastinum", "NeckAndChest", "NeckChestAbdomenAndPelvis", "NeckChestAndAbdomen",
    "Phantom", "Rib", "Trachea",
))  # fmt: skip

# ViewPosition (PS3.3 C.8.1.1, C.8.11.5.1.1) and words in use.
OTHER_VIEWS = frozenset((
    "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "LAT", "LATERAL",
    "LLAT", "RLAT", "OBL", "OBLIQUE", "DECUBITUS",
))  # fmt: skip

# View codes (PS3.16 CID 4010) of frontal images; a lordotic one is frontal and axial.
FRONTAL_VIEWS = frozenset((
    "AnteroPosterior", "AxialProjection", "Frontal", "PosteroAnterior",
))  # fmt: skip


def check_header(dataset: Dataset, name: str) -> None:
    """Checks that nothing in a header speaks against a frontal chest radiograph.

    Raises:
      NotFrontalError: modality, body part, view or orientation names something else.
    """
    for fault in _contradictions(dataset):
        raise NotFrontalError(name, f"{fault} according to its header", "leave it out")


def _contradictions(dataset: Dataset) -> Iterator[str]:
    modality = read_word(dataset, "Modality")
    if modality in OTHER_MODALITIES:
        yield f"of modality {modality}"
    for word in _body_parts(dataset):
        if word in OTHER_BODY_PARTS:
            yield f"of body part {word}"
    region = _coded(dataset, "AnatomicRegionSequence", codes.cid4031)
    if region and region not in CHEST_REGIONS:
        yield f"of body part {_spelt(region)}"
    for word in _words(dataset, "ViewPosition"):
        if word in OTHER_VIEWS:
            yield f"in view {word}"
    view = _coded(dataset, "ViewCodeSequence", codes.cid4010)
    if view and view not in FRONTAL_VIEWS:
        yield f"in view {_spelt(view)}"
    if is_lateral(dataset):
        yield "lateral"


def _words(dataset: Dataset, keyword: str) -> list[str]:
    return re.findall(r"[A-Z]+", read_word(dataset, keyword))


def _body_parts(dataset: Dataset) -> list[str]:
    """Returns the words of BodyPartExamined; if one of them means the chest, only the spine's.

    A chest with the abdomen is a chest; the thoracic spine is not.
    """
    words = _words(dataset, "BodyPartExamined")
    if any(re.match("CHEST|THORA|TORA|LUNG", word) for word in words):
        return [word for word in words if word.endswith("SPINE")]
    return words


def _coded(dataset: Dataset, keyword: str, group: Collection) -> str | None:
    """Returns pydicom's name of a coded concept; `None` if it is not in the context group."""
    for item in dataset.get(keyword) or ():
        stated = Code(item.get("CodeValue") or "", item.get("CodingSchemeDesignator") or "", "")
        for name, concept in group.concepts.items():
            if concept == stated:
                return name
    return None


def _spelt(name: str) -> str:
    """Returns `LeftLateral` as `LEFT LATERAL`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).upper()
