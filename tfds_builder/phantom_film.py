"""Exposure of the chest-radiograph phantom: geometry of the view and response of the detector.

The response follows digital radiography: primary beam plus scatter, quantum noise, blur by focal
spot and detector, logarithm, automatic exposure, tone curve, edge enhancement and collimator.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from tfds_builder.phantom_anatomy import Points, Side

Field = Float[np.ndarray, "h w"]
_SHIFT = 4


@dataclasses.dataclass(frozen=True)
class Findings:
    """Pathology and foreign bodies of one radiograph; all but the effusion stay in the masks.

    Attributes:
        effusion_side: where fluid blunts the costophrenic angle, or None.
        effusion_height: height of the meniscus at the wall, as a share of the lung's height.
        nodules: number of round opacities.
        consolidations: number of ill-defined opacities.
        opacity: density of the consolidations, 0 to 1.
        electrodes: number of ECG electrodes with their wires.
        pacemaker: whether a pacemaker lies on the patient's left chest wall.
    """

    effusion_side: Side | None
    effusion_height: float
    nodules: int
    consolidations: int
    opacity: float
    electrodes: int
    pacemaker: bool


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """One exposure of a patient.

    Attributes:
        projection: ``"PA"`` (standing) or ``"AP"`` (bedside).
        height: rows of the image.
        width: columns of the image.
        spacing_mm: spacing of the square pixels.
        rotation_deg: rotation of the patient in the image's plane, clockwise positive.
        centre: where the thorax's centre lies, as shares of (width, height).
        yaw_mm: shift between front and back structures of a patient turned about the long axis.
        warp_mm: amplitude of a smooth deformation that stands for posture and scoliosis.
        warp_phase: phases of that deformation.
        inspiration: see `Thorax`.
        clavicle_lift: elevation of the lateral ends of the clavicles (right, left), mm.
        scapula_offset: how far the scapulae are turned out of the lungs, mm.
        arm_abduction: degrees from the trunk (right, left); None for an arm out of the image.
        scatter: ratio of scattered to primary radiation behind the thorax.
        photons: photons per pixel in the unattenuated beam; sets the quantum noise.
        blur_px: standard deviation of the unsharpness.
        heel_gradient: change of the optical depth across the image (across, down).
        lung_grey: grey level that the automatic exposure gives to the lungs' median.
        white_grey: grey level of the dense parts; above 1 they saturate.
        curve: exponent of the tone curve; above 1 it darkens the midtones.
        enhancement: strength of the edge enhancement.
        compression: strength of the dynamic-range compression, 0 to 1.
        inset: share cut off by the collimator at (top, bottom, left, right).
        inset_skew_deg: rotation of the collimator.
        border_grey: grey level outside the collimator's window.
        marker: side letter, or "" for none.
        marker_plate: whether a text plate is exposed with the patient.
        findings: what is wrong with the patient.
        noise_seed: seed of the noise and of the findings' positions.
    """

    projection: Literal["PA", "AP"]
    height: int
    width: int
    spacing_mm: float
    rotation_deg: float
    centre: tuple[float, float]
    yaw_mm: float
    warp_mm: float
    warp_phase: tuple[float, float, float, float]
    inspiration: float
    clavicle_lift: tuple[float, float]
    scapula_offset: float
    arm_abduction: tuple[float | None, float | None]
    scatter: float
    photons: float
    blur_px: float
    heel_gradient: tuple[float, float]
    lung_grey: float
    white_grey: float
    curve: float
    enhancement: float
    compression: float
    inset: tuple[float, float, float, float]
    inset_skew_deg: float
    border_grey: float
    marker: Literal["", "L", "R"]
    marker_plate: bool
    findings: Findings
    noise_seed: int


def sample_findings(rng: np.random.Generator) -> Findings:
    """Draws the findings: about half of the radiographs have none."""
    ill = rng.random() < 0.45
    return Findings(
        effusion_side=("left", "right")[int(rng.integers(2))] if rng.random() < 0.10 else None,
        effusion_height=rng.uniform(0.06, 0.35),
        nodules=int(rng.integers(1, 5)) if ill and rng.random() < 0.5 else 0,
        consolidations=int(rng.integers(1, 5)) if ill and rng.random() < 0.6 else 0,
        opacity=rng.uniform(0.15, 0.6),
        electrodes=int(rng.integers(2, 5)) if rng.random() < 0.07 else 0,
        pacemaker=bool(rng.random() < 0.04),
    )


def _sample_frame(rng: np.random.Generator) -> tuple[int, int, float]:
    """Draws (height, width, spacing) of an image 300 to 430 mm wide."""
    long_side, aspect = int(rng.integers(512, 769)), rng.uniform(0.8, 1.25)
    height = long_side if aspect < 1 else round(long_side / aspect)
    width = round(long_side * aspect) if aspect < 1 else long_side
    if height == width:
        width -= 1
    spacing = rng.uniform(max(300, 0.5 * width), min(430, 0.85 * width)) / width
    return height, width, round(spacing, 4)


def _four(values: Float[np.ndarray, " 4"]) -> tuple[float, float, float, float]:
    """Returns the four numbers of an array as Python numbers."""
    a, b, c, d = (float(value) for value in values)
    return a, b, c, d


def _sample_inset(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Draws the collimated margins: mostly none or hairlines, sometimes one wide bar."""
    inset = rng.uniform(0.0, 0.025, 4) * (rng.random(4) < 0.4)
    if rng.random() < 0.2:
        # A wide bar anywhere but at the bottom would cut off lung, which radiographers avoid.
        bar = int(rng.choice(4, p=(0.15, 0.55, 0.15, 0.15)))
        inset[bar] = rng.uniform(0.03, 0.2 if bar == 1 else 0.07)
    return _four(inset)


def sample_acquisition(rng: np.random.Generator) -> Acquisition:
    """Draws one exposure."""
    height, width, spacing = _sample_frame(rng)
    bedside = rng.random() < 0.22
    arms = tuple(rng.uniform(4, 48) if rng.random() < 0.8 else None for _ in range(2))
    border = 0.0 if rng.random() < 0.75 else rng.uniform(0.0, 1.0)
    soft = rng.random() < 0.5
    return Acquisition(
        projection="AP" if bedside else "PA",
        height=height,
        width=width,
        spacing_mm=spacing,
        rotation_deg=rng.normal(0, 2.5 if bedside else 1.6),
        centre=(float(rng.normal(0.5, 0.025)), float(rng.normal(0.45, 0.035))),
        yaw_mm=rng.normal(0, 7 if bedside else 4),
        warp_mm=rng.uniform(0, 7),
        warp_phase=_four(rng.uniform(0, 2 * np.pi, 4)),
        inspiration=rng.uniform(0.74, 0.95) if bedside else rng.uniform(0.86, 1.06),
        clavicle_lift=(rng.normal(8 if bedside else 0, 9), rng.normal(8 if bedside else 0, 9)),
        scapula_offset=rng.normal(-6 if bedside else 12, 9),
        arm_abduction=(arms[0], arms[1]),
        scatter=rng.uniform(0.3, 3.0) * (1.3 if bedside else 1.0),
        photons=float(10 ** rng.uniform(4.7, 6.2)),
        blur_px=rng.uniform(0.3, 1.1),
        heel_gradient=(rng.normal(0, 0.08), rng.normal(0, 0.12)),
        lung_grey=rng.uniform(0.38, 0.62) if soft else rng.uniform(0.2, 0.44),
        white_grey=rng.uniform(0.80, 0.95) if soft else rng.uniform(0.85, 1.08),
        curve=float(np.exp(rng.normal(0, 0.2))),
        enhancement=rng.uniform(0, 1.4) if soft else rng.uniform(0, 0.6),
        compression=rng.uniform(0.0, 0.5) if soft else rng.uniform(0, 0.2),
        inset=_sample_inset(rng),
        inset_skew_deg=rng.normal(0, 0.8),
        border_grey=border,
        marker=("", "L", "R")[int(rng.choice(3, p=(0.3, 0.35, 0.35)))],
        marker_plate=bool(rng.random() < 0.15),
        findings=sample_findings(rng),
        noise_seed=int(rng.integers(2**31)),
    )


class Projector:
    """Maps outlines of the patient to pixels and rasterises them.

    Attributes:
        shape: rows and columns of what it draws.
        pixel_mm: side of a pixel in millimetres.
    """

    def __init__(self, view: Acquisition, centre_y_mm: float, reduction: int = 1) -> None:
        """Sets up the view.

        Args:
            view: the exposure.
            centre_y_mm: level of the patient that lies at `Acquisition.centre`.
            reduction: draws on a grid this many times coarser, for smooth fields.
        """
        self._view, self._centre_y = view, centre_y_mm
        self.shape = (-(-view.height // reduction), -(-view.width // reduction))
        self.pixel_mm = view.spacing_mm * reduction

    def pixels(self, points: Points, front: float = 0.0) -> Points:
        """Returns the pixel coordinates (column, row) of `points`.

        Args:
            points: points in millimetres in the patient.
            front: -1 at the patient's back, +1 at the front; scales the shift by the patient's yaw.
        """
        v, phase = self._view, self._view.warp_phase
        x, y = points[:, 0] + v.yaw_mm * front, points[:, 1] - self._centre_y
        bend = v.warp_mm * np.sin(y / 140 + phase[0]) + 0.5 * v.warp_mm * np.sin(y / 60 + phase[1])
        sag = v.warp_mm * np.sin(x / 110 + phase[2]) + 0.4 * v.warp_mm * np.sin(x / 45 + phase[3])
        x, y = x + bend, y + sag
        turn = np.deg2rad(v.rotation_deg)
        column = np.cos(turn) * x - np.sin(turn) * y
        row = np.sin(turn) * x + np.cos(turn) * y
        scale = 1 / self.pixel_mm
        origin = np.array(
            [v.centre[0] * v.width * v.spacing_mm, v.centre[1] * v.height * v.spacing_mm]
        )
        return (np.stack([column, row], axis=1) + origin) * scale - 0.5

    def canvas(self) -> UInt8[np.ndarray, "h w"]:
        """Returns an empty image to draw on."""
        return np.zeros(self.shape, np.uint8)

    def fill(
        self,
        points: Points,
        *,
        front: float = 0.0,
        level: int = 255,
        out: UInt8[np.ndarray, "h w"] | None = None,
    ) -> UInt8[np.ndarray, "h w"]:
        """Paints the polygon `points` with `level` onto `out` (or a new image)."""
        out = self.canvas() if out is None else out
        cv2.fillPoly(out, [self._fixed(self.pixels(points, front))], level, cv2.LINE_AA, _SHIFT)
        return out

    def stroke(
        self,
        points: Points,
        width_mm: float,
        *,
        front: float = 0.0,
        level: int = 255,
        closed: bool = False,
        out: UInt8[np.ndarray, "h w"],
    ) -> UInt8[np.ndarray, "h w"]:
        """Paints the polyline `points`, `width_mm` wide but at least one pixel, onto `out`."""
        pixels = self._fixed(self.pixels(points, front))
        thickness = max(1, round(width_mm / self.pixel_mm))
        cv2.polylines(out, [pixels], closed, level, thickness, cv2.LINE_AA, _SHIFT)
        return out

    @staticmethod
    def _fixed(pixels: Points) -> np.ndarray:
        """Returns fixed-point pixel coordinates as OpenCV's drawing functions take them."""
        return np.round(pixels * (1 << _SHIFT)).astype(np.int32)


def smooth(field: Field, sigma: float) -> Field:
    """Applies a Gaussian blur, on a coarser grid if wide, which costs less and looks the same."""
    reduction = max(1, int(sigma // 3))
    if reduction == 1:
        return cv2.GaussianBlur(field, (0, 0), sigma)
    height, width = field.shape
    size = (max(1, width // reduction), max(1, height // reduction))
    small = cv2.resize(field, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / reduction)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def expose(view: Acquisition, optical_depth: Field, rng: np.random.Generator) -> Field:
    """Returns the detector signal as apparent optical depth, with scatter, noise and blur.

    Args:
        view: the exposure.
        optical_depth: line integral of the attenuation, 0 in air.
        rng: source of the quantum noise.

    Returns:
        ``-log`` of the relative signal; 0 in the unattenuated beam.
    """
    rows = np.linspace(-1, 1, view.height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, view.width, dtype=np.float32)[None, :]
    across, down = view.heel_gradient
    primary = cv2.exp(-optical_depth - np.float32(across) * columns - np.float32(down) * rows)
    # Scatter also comes from the dense body, where the primary beam is nearly gone: a wide blur of
    # the primary beam's square root spreads it there without letting bright air dominate.
    scattered = smooth(np.minimum(np.sqrt(primary), 0.35), 35 / view.spacing_mm) ** 2
    signal = primary + np.float32(view.scatter) * scattered
    signal = smooth(signal, view.blur_px)
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    noise = smooth(noise, 0.6) * 1.6
    signal += noise * np.sqrt(signal / np.float32(view.photons))
    return -np.log(np.maximum(signal, 1e-4))


def develop(view: Acquisition, apparent: Field, lungs: Bool[np.ndarray, "h w"]) -> Field:
    """Returns grey levels in [0, 1] by automatic exposure, tone curve and edge enhancement.

    Args:
        view: the exposure.
        apparent: apparent optical depth, see `expose`.
        lungs: where the automatic exposure measures the lungs.
    """
    apparent = apparent - view.compression * smooth(apparent, 40 / view.spacing_mm)
    apparent = apparent + view.enhancement * (apparent - smooth(apparent, 5 / view.spacing_mm))
    dark = float(np.median(apparent[::2, ::2][lungs[::2, ::2]]))
    dense = float(np.percentile(apparent[::4, ::4][~lungs[::4, ::4]], 88))
    slope = (view.white_grey - view.lung_grey) / max(dense - dark, 0.3)
    grey = view.lung_grey + slope * (apparent - dark)
    # A soft toe and shoulder like a film's, so that air and bone fade out instead of clipping.
    grey = np.where(grey < 0.1, 0.1 * np.exp(np.minimum(grey - 0.1, 0) / 0.1), grey)
    grey = np.where(grey > 0.9, 1 - 0.1 * np.exp(-(np.maximum(grey, 0.9) - 0.9) / 0.1), grey)
    return np.clip(grey, 0, 1) ** np.float32(view.curve)


def collimator_window(view: Acquisition) -> UInt8[np.ndarray, "h w"]:
    """Returns the collimator's (slightly turned) rectangle: 255 inside, 0 outside."""
    window = np.full((view.height, view.width), 255, np.uint8)
    if not any(view.inset):
        return window
    top, bottom, left, right = view.inset
    height, width = window.shape
    low, high = 1 - bottom, 1 - right
    corners = np.array([(left, top), (high, top), (high, low), (left, low)])
    margin = np.array([(-(left == 0), -(top == 0)), (right == 0, -(top == 0)),
                       (right == 0, bottom == 0), (-(left == 0), bottom == 0)])  # fmt: skip
    # Sides without a margin move outwards, so that the turn does not cut into them.
    corners = (corners + 0.05 * margin - 0.5) * (width, height)
    turn = np.deg2rad(view.inset_skew_deg)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    pixels = corners @ rotation + (width / 2, height / 2)
    window[:] = 0
    cv2.fillPoly(window, [np.round(pixels * 16).astype(np.int32)], 255, cv2.LINE_AA, _SHIFT)
    return window


def collimate(view: Acquisition, grey: Field, window: UInt8[np.ndarray, "h w"]) -> Field:
    """Blanks `grey` outside the collimator's `window`."""
    share = window.astype(np.float32) / 255
    return grey * share + np.float32(view.border_grey) * (1 - share)


def letter(view: Acquisition, grey: Field, rng: np.random.Generator) -> Field:
    """Writes the side marker and the text plate into the upper corners.

    Lead letters are opaque to X-rays, so they are white; they say which side of the PATIENT they
    lie on: "L" on the right side of the image.
    """
    height, width = grey.shape
    ink = np.zeros(grey.shape, np.uint8)
    scale = rng.uniform(0.6, 1.6) * width / 600
    if view.marker:
        column = rng.uniform(0.86, 0.93) if view.marker == "L" else rng.uniform(0.03, 0.10)
        origin = (int(column * width), int(rng.uniform(0.06, 0.16) * height))
        cv2.putText(ink, view.marker, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, 255,
                    max(1, round(2 * scale)), cv2.LINE_AA)  # fmt: skip
    if view.marker_plate:
        ink = np.maximum(ink, _plate(view, rng))
    return np.maximum(grey, ink.astype(np.float32) / 255)


def _plate(view: Acquisition, rng: np.random.Generator) -> UInt8[np.ndarray, "h w"]:
    """Draws two white labels, projection and patient's position, in the upper right corner."""
    ink = np.zeros((view.height, view.width), np.uint8)
    x, y = int(rng.uniform(0.74, 0.84) * view.width), int(rng.uniform(0.02, 0.05) * view.height)
    high, wide = int(0.035 * view.height), int(0.07 * view.width)
    position = "ERECT" if view.projection == "PA" else "BED"
    for line, text in enumerate((view.projection, position)):
        top = y + line * high
        ink[top : top + high, x : x + wide * (1 + line)] = 255
        cv2.putText(ink, text, (x + 3, top + high - 4), cv2.FONT_HERSHEY_DUPLEX, high / 36, 0, 1,
                    cv2.LINE_AA)  # fmt: skip
    return ink
