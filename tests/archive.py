"""A folder as a hospital might give it, in small: DICOM and PNG images with masks."""

from pathlib import Path
from typing import Any

from tests.images import chest, dicom_bytes, png_bytes

SIDE = 64


def write_archive(root: Path, count: int, **attributes: Any) -> Path:
    """Writes `count` pairs, every other image a DICOM file with the attributes."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        image, mask = chest(SIDE + number % 5, SIDE, number)
        stem = f"case{number:04d}"
        if number % 2:
            content = dicom_bytes(image, {"PatientID": f"patient {number // 4}"} | attributes)
            (root / "images" / f"{stem}.dcm").write_bytes(content)
        else:
            (root / "images" / f"{stem}.png").write_bytes(png_bytes(image))
        (root / "masks" / f"{stem}_mask.png").write_bytes(png_bytes(mask))
    return root
