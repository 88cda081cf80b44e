"""Prints how each file in a folder and those below it is read, and why, as a Markdown table.

python -m benchmarks.dicom_table FOLDER
"""

import itertools
from collections.abc import Iterator

from etils import epath
from pydicom.dataset import Dataset

from benchmarks.command import call_with_arguments
from lungseg_jax.errors import DataError
from lungseg_jax.imaging.dicom_file import guarded, is_dicom, parse_dicom
from lungseg_jax.imaging.files import decode_radiograph
from lungseg_jax.imaging.find_files import files_below
from lungseg_jax.imaging.greyscale import read_greyscale
from lungseg_jax.imaging.header import read_numbers, read_word
from lungseg_jax.imaging.radiograph import NOT_LIKE_A_CHEST, Orientation, Radiograph
from tfds_builder.sources.layout import read_regular

COLUMNS = (
    "file", "rows x columns", "bits", "photometric", "transfer syntax", "grey scale",
    "spacing in mm", "stored", "notes or refusal",
)  # fmt: skip
PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422")
MAX_BYTES = 2**30


def lines(folder: epath.Path) -> Iterator[str]:
    """Yields the table's lines; only header values from fixed vocabularies appear in it."""
    paths = files_below(folder, go_on=True)
    rows = (_row(path, path.relative_to(folder).as_posix()) for path in paths)
    for row in itertools.chain([COLUMNS, ("---",) * len(COLUMNS)], rows):
        yield f"| {' | '.join(row)} |"


def _row(path: epath.Path, name: str) -> tuple[str, ...]:
    try:
        content = read_regular(path, MAX_BYTES)
    except DataError as error:
        return name, *("",) * (len(COLUMNS) - 2), error.fault
    try:
        header = _describe_header(content, path.name) if is_dicom(content) else ("",) * 5
    except DataError:
        header = ("",) * 5
    try:
        outcome = _describe_radiograph(decode_radiograph(content, path.name))
    except DataError as error:
        outcome = ("", "", f"{type(error).__name__}: {error.fault}")
    return name, *header, *outcome


def _describe_header(content: bytes, name: str) -> tuple[str, ...]:
    with guarded(name, "broken header"):
        dataset = parse_dicom(content, name, MAX_BYTES, until_pixels=True)
        sizes = (read_numbers(dataset, keyword) for keyword in ("Rows", "Columns"))
        bits = (read_numbers(dataset, f"Bits{part}") for part in ("Stored", "Allocated"))
        signed = ", signed" if read_numbers(dataset, "PixelRepresentation") == (1,) else ""
        syntax = dataset.file_meta.TransferSyntaxUID
        photometric = read_word(dataset, "PhotometricInterpretation")
        return (
            " x ".join(f"{size[0]:.0f}" if size else "?" for size in sizes),
            " of ".join(f"{count[0]:.0f}" if count else "?" for count in bits) + signed,
            photometric if photometric in PHOTOMETRIC else "other",
            syntax.name if syntax.is_transfer_syntax else "other",
            _describe_greyscale(dataset),
        )


def _describe_greyscale(dataset: Dataset) -> str:
    greyscale = read_greyscale(dataset)
    steps = {"table": "modality table", "rescale": "rescale", "none": ""}[greyscale.modality]
    window = "VOI table" if greyscale.window == "table" else greyscale.window
    return ", ".join(step for step in (steps, window, "inverted" * greyscale.inverted) if step)


def _describe_radiograph(radiograph: Radiograph) -> tuple[str, str, str]:
    spacing = " x ".join(f"{value:.4g}" for value in radiograph.spacing_mm or ())
    upright = radiograph.orientation == Orientation()
    doubts = () if radiograph.looks_frontal else (NOT_LIKE_A_CHEST,)
    return (
        f"{spacing} {radiograph.spacing_source}".strip(),
        "upright" if upright else "turned",
        "; ".join((*doubts, *radiograph.notes)),
    )


def main(folder: str) -> None:
    """Prints the table."""
    for line in lines(epath.Path(folder)):
        print(line, flush=True)


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
