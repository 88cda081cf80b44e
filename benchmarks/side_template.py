"""Fits what tells a mirrored radiograph from one the right way round, and says how well it does.

  python -m benchmarks.side_template FOLDER

FOLDER holds Kaggle's "Chest Xray Masks and Labels", whose pictures are all the right way round.
Ridge regression to 1 on the asymmetry of each picture; its mirror image has the opposite one.
Writes `lungseg_jax/imaging/side_template.npy`, fitted on all pictures, and
`benchmarks/results/side_template.json`: how often pictures left out of the fit, and their mirror
images, are told right. Patients who come twice are left out together.
"""

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.main_job import RESULTS
from lungseg_jax.imaging import files, png, sides
from tfds_builder.sources import list_source

PENALTY = 100.0
FOLDS = 10


def main(folder: str) -> None:
    """Fits, measures and writes."""
    rows, patients = [], []
    for case in list_source("kaggle", folder).cases:
        radiograph = files.read_radiograph(case.image)
        lungs = png.read_mask(Path(case.masks[0].path).read_bytes(), case.example_id) > 0
        rows.append(sides.asymmetry(radiograph.pixels, lungs))
        patients.append(case.patient_id or case.example_id)
    asymmetries = np.array(rows, np.float64)
    names, members = np.unique(patients, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names))[members] % FOLDS
    scores = np.empty(len(rows))
    for own in range(FOLDS):
        scores[fold == own] = asymmetries[fold == own] @ fit(asymmetries[fold != own])
    bound = sides.MIRRORED_BELOW
    result = {
        "pictures": len(rows),
        "left_out_scores": {
            "mean": round(float(scores.mean()), 3),
            "standard_deviation": round(float(scores.std()), 3),
            "smallest": [round(float(score), 2) for score in np.sort(scores)[:5]],
        },
        "called_mirrored": int((scores < bound).sum()),
        "mirror_images_not_called_mirrored": int((-scores >= bound).sum()),
    }
    (RESULTS / "side_template.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    target = Path(sides.__file__).with_name("side_template.npy")
    np.save(target, fit(asymmetries).astype(np.float32))


def fit(asymmetries: np.ndarray) -> np.ndarray:
    """Returns the weights whose product with an asymmetry is near 1."""
    gram = asymmetries.T @ asymmetries + PENALTY * np.eye(asymmetries.shape[1])
    return np.linalg.solve(gram, asymmetries.sum(axis=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
