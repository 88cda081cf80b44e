"""Fits the template that distinguishes mirrored radiographs, and says how well it does so.

  python -m benchmarks.side_template FOLDER

FOLDER holds Kaggle's "Chest Xray Masks and Labels", whose images are all the right way round;
those with one lung are left out. The fit is a ridge regression to 1 on the asymmetry of each image;
its mirror image has the opposite asymmetry. Each image appears twice more, with the lower part of
either lung white and out of the mask, lest the smaller lung be taken for the left one.

Writes `lungseg_jax/imaging/side_template.npy`, fitted on all images, and
`benchmarks/results/side_template.json`: how often images left out of the fit, and their mirror
images, are recognised correctly. All images of a patient are left out together.
"""

import json
from pathlib import Path

import numpy as np

from benchmarks.command import call_with_arguments
from benchmarks.result_files import write_result
from lungseg_jax.imaging import files, sides
from lungseg_jax.imaging.mask_file import read_mask
from tfds_builder.sources import list_source

PENALTY = 100.0
FOLDS = 10


def main(folder: str) -> None:
    """Fits the template, measures it and writes both."""
    rows, tell, patients, random = [], [], [], np.random.default_rng(0)
    for case in list_source("kaggle", folder).cases:
        radiograph = files.read_radiograph(case.image)
        lungs = read_mask(Path(case.masks[0].path).read_bytes(), case.example_id) > 0
        if not all(lung.any() for lung in sides.split_lungs(lungs)):
            continue
        shapes = [(radiograph.pixels, lungs), *with_effusions(radiograph.pixels, lungs, random)]
        rows.append([sides.asymmetry(*shape) for shape in shapes])
        tell.append([sides.sizes_tell(*sides.split_lungs(mask)) for _, mask in shapes])
        patients.append(case.patient_id or case.example_id)
    asymmetries = np.array(rows, np.float64)
    names, members = np.unique(patients, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names))[members] % FOLDS
    scores = np.empty(asymmetries.shape[:2])
    for test_fold in range(FOLDS):
        scores[fold == test_fold] = asymmetries[fold == test_fold] @ fit(
            asymmetries[fold != test_fold]
        )
    groups = {"as they are": np.s_[:, :1], "with effusions": np.s_[:, 1:]}
    tells = np.array(tell)
    result = {
        name: describe(scores[columns].ravel(), tells[columns].ravel())
        for name, columns in groups.items()
    }
    write_result("side_template", result)
    print(json.dumps(result, indent=2))
    target = Path(sides.__file__).with_name("side_template.npy")
    np.save(target, fit(asymmetries).astype(np.float32))


def describe(scores: np.ndarray, tells: np.ndarray) -> dict:
    """Returns how well images left out of the fit, and their mirror images, are recognised.

    Args:
      scores: scores of the images; their mirror images have the opposite ones.
      tells: whether the lungs' sizes let the score decide.
    """
    bound = sides.UNSURE_BELOW
    return {
        "images": len(scores),
        "mean": round(float(scores.mean()), 3),
        "standard_deviation": round(float(scores.std()), 3),
        "smallest": [round(float(score), 2) for score in np.sort(scores)[:5]],
        "called_mirrored": int((tells & (scores < -bound)).sum()),
        "unsure": int((tells & (scores >= -bound) & (scores < bound)).sum()),
        "mirror_images_not_called_mirrored": int((~tells | (scores <= bound)).sum()),
        "mirror_images_taken_as_usual": int((~tells | (scores <= -bound)).sum()),
    }


def with_effusions(
    pixels: np.ndarray, lungs: np.ndarray, random: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns image and lungs without the lower part of one lung, then of the other."""
    shapes = []
    for lung in sides.split_lungs(lungs):
        rows = np.flatnonzero(lung.any(axis=1))
        gone = lung.copy()
        gone[: round(rows[0] + random.uniform(0.4, 1) * (rows[-1] - rows[0]))] = False
        shapes.append((np.where(gone, np.float32(random.uniform(0.6, 1)), pixels), lungs & ~gone))
    return shapes


def fit(asymmetries: np.ndarray) -> np.ndarray:
    """Returns the weights whose inner product with each asymmetry is near 1."""
    asymmetries = asymmetries.reshape(-1, asymmetries.shape[-1])
    gram = asymmetries.T @ asymmetries + PENALTY * np.eye(asymmetries.shape[1])
    return np.linalg.solve(gram, asymmetries.sum(axis=0))


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
