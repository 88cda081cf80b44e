"""Procedural chest-radiograph phantoms with exact lung masks.

A phantom is a pure function of (seed, index): `phantom_anatomy` draws a patient and its outlines,
`phantom_tissue` adds up the path lengths of tissue, air and bone along the beam, and `phantom_film`
turns the transmitted beam into an image. The masks are filled from the same projected outlines as
the image, so they agree with it by construction.

The masks follow the convention of the Montgomery County and JSRT annotations: the visible lung
FIELD, that is, without the silhouettes of heart and mediastinum and without what lies below the
domes of the diaphragm. Ribs, clavicles, vessels and opacities over the lung belong to it; a pleural
effusion does not.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from tfds_builder import phantom_film
from tfds_builder.phantom_anatomy import SIDES, Points, Side, Thorax, outward, sample_anatomy
from tfds_builder.phantom_film import Projector
from tfds_builder.phantom_tissue import COARSE, HEART_FRONT, Scene, heart_outline, optical_depth

# Eight patients share nine images.
_GROUP = 8


@dataclasses.dataclass(frozen=True)
class Phantom:
    """One synthetic frontal chest radiograph with its masks.

    Attributes:
        image: grey levels in [0, 1], bone bright, patient's left on the right of the image.
        left_lung: field of the PATIENT'S left lung, on the right of the image.
        right_lung: field of the PATIENT'S right lung, on the left of the image.
        spacing_mm: distance between neighbouring (rows, columns).
        projection: ``"PA"`` or ``"AP"``.
        patient_sex: ``"F"`` or ``"M"``.
        patient_age: age in years.
    """

    image: Float[np.ndarray, "h w"]
    left_lung: Bool[np.ndarray, "h w"]
    right_lung: Bool[np.ndarray, "h w"]
    spacing_mm: tuple[float, float]
    projection: Literal["PA", "AP"]
    patient_sex: Literal["F", "M"]
    patient_age: int


def patient_number(index: int) -> int:
    """Returns the patient of image `index`: the last of every eight patients has two images."""
    group, slot = divmod(index, _GROUP + 1)
    return _GROUP * group + min(slot, _GROUP - 1)


def generate_phantom(seed: int, index: int) -> Phantom:
    """Generates phantom `index` of the endless series `seed`.

    Args:
        seed: number of the series, not negative.
        index: position in the series, not negative. Images with the same `patient_number` show the
            same anatomy in different exposures.

    Returns:
        The phantom; the same for the same arguments, whatever was generated before.

    Raises:
        ValueError: if `seed` or `index` is negative.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    anatomy = sample_anatomy(np.random.default_rng([seed, 0, patient_number(index)]))
    view = phantom_film.sample_acquisition(np.random.default_rng([seed, 1, index]))
    thorax = Thorax(anatomy, view.inspiration)
    centre_y = 0.5 * (thorax.height + anatomy.dome_rise[0])
    scene = Scene(
        thorax, view, Projector(view, centre_y), Projector(view, centre_y, reduction=COARSE)
    )
    rng = np.random.default_rng(view.noise_seed)
    fluid = _effusion(scene)
    window = phantom_film.collimator_window(view)
    masks = {side: _lung_mask(scene, side, fluid, window) for side in SIDES}
    lungs = masks["left"] | masks["right"]
    depth = optical_depth(scene, fluid, rng)
    image = phantom_film.develop(view, phantom_film.expose(view, depth, rng), lungs)
    image = phantom_film.letter(view, phantom_film.collimate(view, image, window), rng)
    return Phantom(
        image=image.astype(np.float32),
        left_lung=masks["left"],
        right_lung=masks["right"],
        spacing_mm=(view.spacing_mm, view.spacing_mm),
        projection=view.projection,
        patient_sex=anatomy.sex,
        patient_age=anatomy.age_years,
    )


def _effusion(scene: Scene) -> tuple[Side, Points] | None:
    """Returns side and outline of the pleural fluid: a meniscus that rises towards the wall."""
    findings, thorax = scene.view.findings, scene.thorax
    side = findings.effusion_side
    if side is None:
        return None
    dome = thorax.dome(side)
    bottom = dome[0, 1] + 60
    wall_level = dome[0, 1] - findings.effusion_height * scene.anatomy.lung_height
    width = thorax.half_width(side) * 1.1
    u = np.linspace(0, width, 24)
    level = wall_level + (1 - (u / width) ** 1.5) * 0.45 * (bottom - wall_level)
    surface = np.stack([u, level], axis=1)
    outline = np.concatenate([surface, [(width, bottom), (0, bottom)]])
    return side, outline * (outward(side), 1)


def _lung_mask(
    scene: Scene,
    side: Side,
    fluid: tuple[Side, Points] | None,
    window: UInt8[np.ndarray, "h w"],
) -> Bool[np.ndarray, "h w"]:
    """Returns the visible lung field: the largest piece of the cavity not under a silhouette."""
    draw, thorax = scene.fine, scene.thorax
    field = draw.fill(thorax.cavity(side))
    for outline, front in ((thorax.mediastinum(), 0.0), (heart_outline(scene), HEART_FRONT)):
        draw.fill(outline, front=front, level=0, out=field)
    if fluid is not None and fluid[0] == side:
        draw.fill(fluid[1], level=0, out=field)
    field = ((field > 127) & (window > 127)).astype(np.uint8)
    # Slivers between two silhouettes are too thin for an annotator's pencil.
    pencil = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    opened = cv2.morphologyEx(field, cv2.MORPH_OPEN, pencil)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if count < 2:
        return np.zeros(draw.shape, np.bool_)
    return labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
