"""Parameters and outlines of the chest-radiograph phantom, in millimetres in the patient.

Coordinates: ``x`` runs to the right of the image, that is, to the PATIENT'S LEFT in the standard
display; ``y`` runs down from the level of the right lung's apex. The midline of the thorax is
``x = 0``. Every outline is a polygon or a polyline of ``(x, y)`` points. Sizes follow adult
radiographic norms: a cardiothoracic ratio of 0.37 to 0.62, the right dome of the diaphragm 2 to
22 mm above the left one, nine to ten posterior ribs above the dome at full inspiration.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

# Anonymous axes: curves of different lengths meet in one call.
Points = Float[np.ndarray, "_ 2"]
Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("right", "left")
RIB_COUNT = 11


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """What stays the same between two radiographs of one patient. Lengths are in millimetres.

    Attributes:
        sex: ``"F"`` or ``"M"``.
        age_years: 6 to 90; patients under 18 are small.
        habitus: 0 (thin) to 1 (obese).
        half_width: distance from the midline to the right inner chest wall at the widest level.
        left_width_ratio: the left hemithorax's width over the right one's.
        lung_height: distance from the right apex to the right dome at full inspiration.
        wall_taper: below 1 a barrel-shaped thorax, above 1 a narrow-shouldered one.
        depth: anteroposterior thickness of the trunk.
        cardiothoracic_ratio: the heart's width over the thorax's inner width.
        heart_right_share: share of the heart's width that lies right of the midline.
        heart_top: level of the heart's top as a share of ``lung_height``.
        mediastinum_half_width: half width of the mediastinum without heart and aortic knob.
        aortic_knob: how far the arch juts out beyond the mediastinum.
        pulmonary_trunk: how far the pulmonary trunk juts out beyond the mediastinum.
        dome_gap: how much lower the left dome stands.
        dome_rise: height of the domes over the costophrenic angles, (right, left).
        dome_fall: height of the domes over the cardiophrenic angles, (right, left).
        recess_depth: thickness of the lung that hangs down behind the domes.
        great_vessels: thickness of the vessels that veil the lung beside the mediastinum.
        rib_drop: descent of a middle rib from the spine to its anterior end.
        rib_slope: tilt of the posterior ribs, descent over lateral distance.
        rib_height: height of a rib's projected band.
        bone_density: 0.6 (osteopenic) to 1.3, relative.
        breast_radius: radius of the breasts; 0 for none.
        breast_ptosis: 0 to 1, from high to low breasts.
        vascularity: relative size of the pulmonary vessels.
        texture_seed: seed of the details (vessel trees, vertebrae, bowel gas).
    """

    sex: Literal["F", "M"]
    age_years: int
    habitus: float
    half_width: float
    left_width_ratio: float
    lung_height: float
    wall_taper: float
    depth: float
    cardiothoracic_ratio: float
    heart_right_share: float
    heart_top: float
    mediastinum_half_width: float
    aortic_knob: float
    pulmonary_trunk: float
    dome_gap: float
    dome_rise: tuple[float, float]
    dome_fall: tuple[float, float]
    recess_depth: float
    great_vessels: float
    rib_drop: float
    rib_slope: float
    rib_height: float
    bone_density: float
    breast_radius: float
    breast_ptosis: float
    vascularity: float
    texture_seed: int

    @property
    def scale(self) -> float:
        """Body size relative to an average adult, for parts without a parameter of their own."""
        return self.lung_height / 225.0


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draws one patient."""
    female = rng.random() < 0.5
    small = rng.random() < 0.08
    size = rng.uniform(0.62, 0.85) if small else 1.0
    habitus = float(rng.beta(2.0, 2.5))
    height = rng.normal(212 if female else 232, 16) * size
    half_width = (rng.normal(130 if female else 143, 7) + 6 * habitus) * size
    lung_height = float(np.clip(height, 110, 285))
    age = int(rng.integers(6, 18) if small else rng.integers(18, 91))
    has_breasts = female or rng.random() < 0.12
    return Anatomy(
        sex="F" if female else "M",
        age_years=age,
        habitus=habitus,
        half_width=float(np.clip(half_width, 72, 158)),
        left_width_ratio=rng.uniform(0.93, 1.03),
        lung_height=lung_height,
        wall_taper=rng.uniform(0.55, 1.12),
        depth=(185 + 110 * habitus + rng.normal(0, 10)) * (0.5 + 0.5 * size),
        cardiothoracic_ratio=float(np.clip(rng.normal(0.46, 0.05), 0.37, 0.62)),
        heart_right_share=rng.uniform(0.27, 0.38),
        heart_top=rng.uniform(0.36, 0.48),
        mediastinum_half_width=rng.uniform(19, 29) * (0.4 + 0.6 * size),
        aortic_knob=float(rng.uniform(1, 9) + max(0, age - 40) * rng.uniform(0.0, 0.3)),
        pulmonary_trunk=rng.uniform(0, 11),
        dome_gap=rng.uniform(2, 22),
        dome_rise=(lung_height * rng.uniform(0.09, 0.25), lung_height * rng.uniform(0.11, 0.27)),
        dome_fall=(lung_height * rng.uniform(0.02, 0.10), lung_height * rng.uniform(0.02, 0.10)),
        recess_depth=rng.uniform(12, 65) * size,
        great_vessels=rng.uniform(0, 55) * size,
        rib_drop=lung_height * rng.uniform(0.46, 0.66),
        rib_slope=rng.uniform(-0.02, 0.24),
        rib_height=rng.uniform(9.5, 14) * (0.4 + 0.6 * size),
        bone_density=rng.uniform(0.6, 1.3),
        breast_radius=rng.uniform(42, 58 + 28 * habitus) * size if has_breasts else 0.0,
        breast_ptosis=rng.uniform(0, 1),
        vascularity=rng.uniform(0.7, 1.35),
        texture_seed=int(rng.integers(2**31)),
    )


def spline(points: Points, *, closed: bool = False, steps: int = 12) -> Points:
    """Returns a Catmull-Rom curve through `points`, with `steps` samples per segment."""
    before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
    if not closed:
        before[0], after[-1] = points[0], points[-1]
    tangents = (after - before) / 2
    start, end = (points, after) if closed else (points[:-1], points[1:])
    tangent_in = tangents if closed else tangents[:-1]
    tangent_out = np.roll(tangents, -1, axis=0) if closed else tangents[1:]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    hermite = (
        (2 * t**3 - 3 * t**2 + 1) * start[:, None]
        + (t**3 - 2 * t**2 + t) * tangent_in[:, None]
        + (3 * t**2 - 2 * t**3) * end[:, None]
        + (t**3 - t**2) * tangent_out[:, None]
    ).reshape(-1, 2)
    return hermite if closed else np.concatenate([hermite, points[-1:]])


def band(centre: Points, half_widths: Float[np.ndarray, " n"]) -> Points:
    """Returns the polygon of a ribbon along `centre` with the given half width at each point."""
    tangent = np.gradient(centre, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    offset = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * half_widths[:, None]
    return np.concatenate([centre + offset, (centre - offset)[::-1]])


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> Points:
    """Returns the polygon of an ellipse turned clockwise (as seen in the image) by `degrees`."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x, y = radii[0] * np.cos(angle), radii[1] * np.sin(angle)
    turn = np.deg2rad(degrees)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y], axis=1)


def outward(side: Side) -> int:
    """Returns the sign of ``x`` on the patient's `side`: patient's left is the image's right."""
    return 1 if side == "left" else -1


@dataclasses.dataclass(frozen=True)
class Thorax:
    """Outlines of one patient at one depth of inspiration.

    Attributes:
        anatomy: the patient.
        inspiration: 0.74 (poor) to 1.06 (deep); scales the level of the domes.
    """

    anatomy: Anatomy
    inspiration: float

    @property
    def height(self) -> float:
        """Distance from the apex to the right dome at this inspiration."""
        return self.anatomy.lung_height * self.inspiration

    def half_width(self, side: Side) -> float:
        """Returns the distance from the midline to the widest inner chest wall on `side`."""
        ratio = self.anatomy.left_width_ratio if side == "left" else 1.0
        return self.anatomy.half_width * ratio

    def wall(self, side: Side) -> Points:
        """Returns the inner chest wall from the medial apex to below the domes: (outward, down)."""
        shape = np.array(
            [(0.02, 0.34), (0.10, 0.20), (0.155, 0.10), (0.23, 0.03), (0.36, 0.0), (0.50, 0.025),
             (0.645, 0.105), (0.77, 0.23), (0.87, 0.40), (0.935, 0.57), (0.975, 0.75),
             (1.0, 0.95), (1.0, 1.3)]
        )  # fmt: skip
        lateral = shape[:, 0] > 0.4
        shape[lateral, 0] = 1 - (1 - shape[lateral, 0]) * self.anatomy.wall_taper
        return spline(shape * (self.half_width(side), self.anatomy.lung_height))

    def wall_at(self, side: Side, y: float) -> float:
        """Returns the distance of the lateral chest wall from the midline at level `y`."""
        wall = self.wall(side)
        wall = wall[np.argmin(wall[:, 1]) :]
        return float(np.interp(y, np.maximum.accumulate(wall[:, 1]), wall[:, 0]))

    def dome(self, side: Side) -> Points:
        """Returns the dome of the diaphragm from the chest wall to the midline: (outward, down)."""
        a, index = self.anatomy, SIDES.index(side)
        top = self.height + (a.dome_gap if side == "left" else 0.0)
        angle_level = top + a.dome_rise[index]
        width = self.wall_at(side, angle_level) * 0.992
        peak = width * (0.47 if side == "right" else 0.52)
        u = np.linspace(width, 0, 40)
        lateral, medial = (u - peak) / (width - peak), (peak - u) / peak
        fall = np.where(
            u > peak,
            a.dome_rise[index] * np.maximum(lateral, 0) ** 2.3,
            a.dome_fall[index] * np.maximum(medial, 0) ** 2.0,
        )
        return np.stack([u, top + fall], axis=1)

    def cavity(self, side: Side) -> Points:
        """Returns half of the thoracic cavity above the dome, closed along the midline."""
        wall, dome = self.wall(side), self.dome(side)
        outline = np.concatenate([wall[wall[:, 1] < dome[0, 1]], dome])
        return outline * (outward(side), 1)

    def mediastinum(self) -> Points:
        """Returns the mediastinum without the heart: great vessels, arch, pulmonary trunk."""
        a, h = self.anatomy, self.anatomy.lung_height
        m = a.mediastinum_half_width
        # An elongated aorta juts out on both sides: its arch on the left, its root on the right.
        bulge = 0.4 * a.aortic_knob / m
        right = [(1.3, -0.5), (0.95, 0.0), (0.92, 0.12), (1.04 + 0.2 * bulge, 0.26),
                 (0.98 + bulge, 0.37), (0.95, 0.6),
                 (0.9, 1.6)]  # fmt: skip
        left = [(m * 0.9, 1.6), (m, 0.6), (m + a.pulmonary_trunk, 0.43), (m + 0.35 * a.aortic_knob,
                0.345), (m + a.aortic_knob, 0.27), (m + 0.3 * a.aortic_knob, 0.20), (m * 0.95,
                0.12), (m * 0.95, 0.0), (m * 1.3, -0.5)]  # fmt: skip
        outline = [(-m * u, v) for u, v in right] + left
        return spline(np.array(outline) * (1, h), closed=True)

    def heart(self) -> Points:
        """Returns the heart's silhouette, whose lower border is hidden below the domes."""
        a = self.anatomy
        width = a.cardiothoracic_ratio * (self.half_width("left") + self.half_width("right"))
        r, left = width * a.heart_right_share, width * (1 - a.heart_right_share)
        top, bottom = a.heart_top * a.lung_height, self.height + a.dome_gap
        shape = [
            (0.12 * left, 0.0),
            (-0.62 * r, 0.22),
            (-0.95 * r, 0.50),
            (-r, 0.72),
            (-0.86 * r, 0.95),
            (-0.3 * r, 1.12),
            (0.5 * left, 1.14),
            (0.90 * left, 1.04),
            (left, 0.86),
            (0.90 * left, 0.66),
            (0.70 * left, 0.42),
            (0.48 * left, 0.18),
        ]
        return spline(np.array([(x, top + v * (bottom - top)) for x, v in shape]), closed=True)

    def hilum(self, side: Side) -> tuple[float, float]:
        """Returns the centre of the hilum; the left one lies about a centimetre higher."""
        h = self.anatomy.lung_height
        u = self.anatomy.mediastinum_half_width + 0.10 * self.half_width(side)
        return outward(side) * u, 0.46 * h - (10 if side == "left" else 0)

    def rib(self, side: Side, number: int) -> tuple[Points, Float[np.ndarray, " n"]]:
        """Returns the centre line of rib `number` (from 1) and its angles around the thorax.

        The rib is a tilted loop: angle 0 is the spine, 90 degrees the lateral wall and 180 degrees
        the sternum, so that its projection has a flat posterior arc and a steep anterior one.
        """
        a, i = self.anatomy, number - 1
        drop = a.rib_drop * (0.45, 0.62, 0.8, 0.92)[i] if i < 4 else a.rib_drop
        start = a.lung_height * (0.03 + 0.0985 * i)
        wall = self.wall_at(side, start + drop / 2 + a.rib_slope * self.half_width(side))
        reach = wall + 2.5
        first = np.arcsin(min(0.9, 16 * a.scale / reach))
        last = 160 - 3.2 * i if number < RIB_COUNT else 72
        theta = np.linspace(first, np.deg2rad(last), 40)
        x = reach * np.sin(theta) ** 0.92
        hump = 0.02 * a.lung_height * np.sin(np.minimum(2 * theta, np.pi))
        y = start + drop * (1 - np.cos(theta)) / 2 - hump + a.rib_slope * x
        return np.stack([outward(side) * x, y], axis=1), theta

    def clavicle(self, side: Side, lift: float) -> Points:
        """Returns the centre line of the clavicle; `lift` raises the shoulder end (mm)."""
        w, h = self.half_width(side), self.anatomy.lung_height
        line = [(17 * self.anatomy.scale, 0.165 * h), (0.33 * w, 0.135 * h - 0.2 * lift),
                (0.66 * w, 0.075 * h - 0.6 * lift), (0.95 * w, 0.03 * h - 0.9 * lift),
                (w * 1.28, 0.05 * h - lift)]  # fmt: skip
        return spline(np.array(line) * (outward(side), 1))

    def scapula(self, side: Side, offset: float) -> Points:
        """Returns the blade of the scapula; `offset` pushes it out of the lung field (mm)."""
        w, h = self.half_width(side), self.anatomy.lung_height
        blade = [(0.80 * w, 0.06 * h), (w * 1.05, 0.07 * h), (w * 1.24, 0.16 * h),
                 (w * 1.16, 0.27 * h), (w * 1.09, 0.45 * h), (w * 1.01, 0.63 * h),
                 (0.94 * w, 0.60 * h), (0.86 * w, 0.38 * h), (0.80 * w, 0.20 * h)]  # fmt: skip
        return spline(np.add(blade, (offset, 0)) * (outward(side), 1), closed=True)

    def trunk(self) -> Points:
        """Returns the skin outline of neck, shoulders and trunk."""
        a, h = self.anatomy, self.anatomy.lung_height
        fat, neck = (14 + 42 * a.habitus) * a.scale, (48 + 22 * a.habitus) * a.scale
        outline = []
        for side in SIDES:
            w = self.half_width(side)
            half = [(neck, -1.6 * h), (neck, -0.8 * h), (neck, -0.32 * h), (neck * 1.25, -0.17 * h),
                    (0.75 * w, -0.13 * h - 0.3 * fat), (w * 1.15, -0.09 * h - 0.3 * fat),
                    (w * 1.42, 0.0), (w * 1.46, 0.16 * h), (w * 1.36, 0.32 * h),
                    (w * 1.12 + 0.7 * fat, 0.47 * h), (w * 1.03 + 0.85 * fat, 0.72 * h),
                    (w * 1.02 + fat, 1.05 * h), (w + 1.15 * fat, 1.8 * h),
                    (w + 1.2 * fat, 3.6 * h)]  # fmt: skip
            half = spline(np.array(half)) * (outward(side), 1)
            outline.append(half[::-1] if side == "right" else half)
        return np.concatenate(outline)

    def head(self) -> Points:
        """Returns jaw and skull, of which some images show the chin."""
        s, h = self.anatomy.scale, self.anatomy.lung_height
        return ellipse((0.0, -0.95 * h), (72 * s, 95 * s))

    def arm(self, side: Side, abduction: float) -> Points:
        """Returns the upper arm from the shoulder down; `abduction` in degrees from the trunk."""
        a, w, h = self.anatomy, self.half_width(side), self.anatomy.lung_height
        turn = np.deg2rad(abduction)
        reach = np.linspace(0, 2.5 * h, 12)
        x = 1.34 * w + reach * np.sin(turn)
        y = 0.14 * h + reach * np.cos(turn)
        half_width = np.full(12, (34 + 24 * a.habitus) * a.scale)
        return band(np.stack([outward(side) * x, y], axis=1), half_width)
