"""Path lengths of tissue, air and bone along the beam through the chest-radiograph phantom.

Each structure is drawn from its projected outline as a field of path lengths in millimetres; the
beam's optical depth is their sum, weighted by the attenuation. Sharp silhouettes are drawn on the
image's own grid, diffuse fields on one four times coarser.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from tfds_builder.phantom_anatomy import (
    RIB_COUNT,
    SIDES,
    Anatomy,
    Points,
    Side,
    Thorax,
    band,
    ellipse,
    outward,
    spline,
)
from tfds_builder.phantom_film import Acquisition, Field, Projector, smooth

# Linear attenuation at an effective 70 keV (1/mm), from NIST XCOM: muscle, and bone of a rib's
# mixed cortex and marrow less the muscle that it replaces.
_MU_SOFT = 0.0195
_MU_BONE = 0.028
# Share of the soft tissue's attenuation that inflated lung lacks (density 0.26 g/cm3).
_LUNG_AIR = 0.74
COARSE = 4
# Depth of the heart in the thorax for `Projector.pixels`: towards the front.
HEART_FRONT = 0.35


@dataclasses.dataclass(frozen=True)
class Scene:
    """What every drawing function needs: the outlines, the view and the two pixel grids.

    Attributes:
        thorax: the patient at this inspiration.
        view: the exposure.
        fine: draws on the image's grid.
        coarse: draws on a grid `COARSE` times coarser.
    """

    thorax: Thorax
    view: Acquisition
    fine: Projector
    coarse: Projector

    @property
    def anatomy(self) -> Anatomy:
        """The patient."""
        return self.thorax.anatomy

    def upsample(self, field: Float[np.ndarray, "_ _"]) -> Field:
        """Returns a field of the coarse grid on the image's grid."""
        size = (field.shape[1] * COARSE, field.shape[0] * COARSE)
        fine = cv2.resize(field, size, interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(fine[: self.view.height, : self.view.width])


def heart_outline(scene: Scene) -> Points:
    """Returns the heart's silhouette, magnified in AP views (it is farther from the detector)."""
    heart = scene.thorax.heart()
    return heart * (1.1, 1.0) if scene.view.projection == "AP" else heart


def optical_depth(
    scene: Scene, fluid: tuple[Side, Points] | None, rng: np.random.Generator
) -> Field:
    """Returns the line integral of the attenuation through the patient and attached devices.

    Args:
        scene: what is shown.
        fluid: side and outline (mm) of a pleural effusion, if any.
        rng: places the findings and devices.

    Returns:
        The optical depth, 0 in air, on the image's grid.
    """
    air = _lung_air(scene, fluid)
    # The same patient shows the same details in every image, so what draws from `detail` must not
    # depend on the view.
    detail = np.random.default_rng(scene.anatomy.texture_seed)
    soft = _body(scene) - _LUNG_AIR * air * _texture(scene, rng)
    # Vessels and opacities take the place of air, so they cannot be thicker than it.
    filling = _vessels(scene, detail) + _opacities(scene, rng)
    soft += np.minimum(filling, 0.95 * _LUNG_AIR * air)
    soft -= _airways(scene) + _bowel_gas(scene, detail)
    bone = _ribs(scene) + _shoulder_girdle(scene) + _spine(scene, detail)
    depth = _MU_SOFT * np.maximum(soft, 0) + _MU_BONE * scene.anatomy.bone_density * bone
    return (depth + _devices(scene, rng)).astype(np.float32)


def _profile(scene: Scene, mask: UInt8[np.ndarray, "h w"], reach_mm: float) -> Field:
    """Returns the thickness of a rounded body, from 0 at its edge to 1 at `reach_mm` inside.

    It is on the fine grid. The beam grazes a rounded body at its edge: the thickness grows like a
    circle's chord, with infinite slope at the edge. A body that the image's edge cuts does not thin
    out there.
    """
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform((padded > 127).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    # Without this the staircase of the pixelated edge would show along nearly straight skin.
    distance = smooth(distance, 2.0)
    inside = np.minimum(distance * (scene.fine.pixel_mm / reach_mm), 1)
    return np.sqrt(1 - (1 - inside) ** 2)


def _body(scene: Scene) -> Field:
    """Returns the soft tissue of trunk, arms and breasts as if the lungs were solid (mm)."""
    a, thorax, draw = scene.anatomy, scene.thorax, scene.fine
    rows = np.linspace(0, 1, draw.shape[0], dtype=np.float32)[:, None]
    # Neck and shoulders are thinner than the chest.
    top = draw.pixels(np.array([(0.0, -0.05 * a.lung_height)]))[0, 1] / draw.shape[0]
    slim = 0.72 + 0.28 / (1 + np.exp(-(rows - top) * 14))
    trunk = draw.fill(thorax.head(), out=draw.fill(thorax.trunk()))
    soft = a.depth * slim * _profile(scene, trunk, 0.32 * a.half_width)
    for side, abduction in zip(SIDES, scene.view.arm_abduction, strict=True):
        if abduction is not None:
            arm = draw.fill(thorax.arm(side, abduction))
            limb = 1.7 * (34 + 24 * a.habitus) * a.scale * _profile(scene, arm, 40.0)
            soft = np.maximum(soft, limb)
    if a.breast_radius:
        soft += _breasts(scene)
    return soft


def _breasts(scene: Scene) -> Field:
    """Returns the breast tissue: full towards its lower border, fading upwards (mm)."""
    a, draw = scene.anatomy, scene.fine
    tissue = np.zeros(draw.shape, np.float32)
    for side in SIDES:
        x = outward(side) * (0.60 * scene.thorax.half_width(side) + 0.1 * a.breast_radius)
        y = a.lung_height * (0.72 + 0.22 * a.breast_ptosis)
        outline = ellipse((x, y), (a.breast_radius * 1.05, a.breast_radius), 12.0 * outward(side))
        disc = _profile(scene, draw.fill(outline, front=0.7), a.breast_radius)
        top, bottom = draw.pixels(np.array([(x, y - a.breast_radius), (x, y)]), front=0.7)[:, 1]
        rows = np.arange(draw.shape[0], dtype=np.float32)[:, None]
        tissue += disc * np.clip((rows - top) / (bottom - top), 0, 1) ** 0.9
    return 0.36 * a.breast_radius * tissue


def _lung_air(scene: Scene, fluid: tuple[Side, Points] | None) -> Field:
    """Returns the path length in inflated lung (mm), also behind the heart and below the domes."""
    a, thorax, draw = scene.anatomy, scene.thorax, scene.fine
    cavity = draw.canvas()
    for side in SIDES:
        draw.fill(thorax.cavity(side), out=cavity)
    depth = 0.70 * min(a.depth, 250)
    chest = _profile(scene, cavity, 0.5 * a.half_width)
    mediastinum = _profile(scene, draw.fill(thorax.mediastinum()), 16.0)
    heart = _profile(scene, draw.fill(heart_outline(scene), front=HEART_FRONT), 48.0)
    air = depth * chest * (1 - 0.95 * mediastinum) * (1 - 0.72 * heart)
    air += _posterior_recess(scene, cavity)
    if fluid is not None:
        air *= 1 - 0.93 * _profile(scene, draw.fill(fluid[1]), 30.0)
    return air


def _posterior_recess(scene: Scene, cavity: UInt8[np.ndarray, "h w"]) -> Field:
    """Returns the lung that hangs down behind the domes and shows faintly below them (mm)."""
    draw, thorax = scene.coarse, scene.thorax
    recess = draw.canvas()
    for side in SIDES:
        dome = thorax.dome(side)
        lower = np.add(dome[::-1], (0, 0.16 * scene.anatomy.lung_height))
        outline = np.concatenate([dome - (0, 12), lower]) * (0.97 * outward(side), 1)
        draw.fill(outline, level=200, out=recess)
    soft = smooth(recess.astype(np.float32) / 255, 12 / draw.pixel_mm)
    return scene.anatomy.recess_depth * scene.upsample(soft) * (1 - cavity.astype(np.float32) / 255)


def _texture(scene: Scene, rng: np.random.Generator) -> Field:
    """Returns the uneven aeration of the lungs, a factor around 1."""
    noise = rng.standard_normal(scene.coarse.shape, dtype=np.float32)
    coarse = smooth(noise, 22 / scene.coarse.pixel_mm) * (22 / scene.coarse.pixel_mm)
    fine_grain = smooth(noise, 1.2)
    return scene.upsample(1 + 0.06 * coarse + 0.05 * rng.uniform(0.2, 1) * fine_grain)


def _branches(scene: Scene, side: Side, detail: np.random.Generator) -> list[tuple[Points, float]]:
    """Returns the vessel tree of one lung: polylines with calibres (mm), thinnest first."""
    a, sign = scene.anatomy, outward(side)
    reach = scene.thorax.half_width(side)
    root = np.array(scene.thorax.hilum(side))
    # Angles from the outward horizontal, downwards positive; gravity makes the lower ones thicker.
    stems = [
        (-78, 3.4),
        (-52, 3.6),
        (-25, 3.2),
        (5, 3.8),
        (30, 5.0),
        (50, 6.0),
        (68, 6.4),
        (82, 5.0),
    ]
    queue = [
        (root + np.array((0, angle * 0.18)), np.deg2rad(angle + detail.normal(0, 10)),
         calibre * a.vascularity, reach * detail.uniform(0.20, 0.34), 0)
        for angle, calibre in stems
    ]  # fmt: skip
    branches: list[tuple[Points, float]] = []
    while queue:
        start, angle, calibre, length, generation = queue.pop()
        bend = detail.normal(0, 0.36)
        headings = angle + bend * np.linspace(0, 1, 5)
        steps = np.stack([sign * np.cos(headings), np.sin(headings)], axis=1) * (length / 5)
        line = np.concatenate([[start], start + np.cumsum(steps, axis=0)])
        branches.append((line, calibre))
        if generation < 4 and calibre > 0.7:
            spread = detail.uniform(0.18, 0.5)
            for turn, shrink in ((spread, 0.68), (-0.7 * spread, 0.78)):
                queue.append((line[-1], headings[-1] + turn, calibre * shrink,
                              length * detail.uniform(0.62, 0.95), generation + 1))  # fmt: skip
            queue.append((line[3], headings[2] + detail.choice((-1, 1)) * 0.8, calibre * 0.5,
                          length * 0.6, generation + 2))  # fmt: skip
    return sorted(branches, key=lambda branch: branch[1])


def _vessels(scene: Scene, detail: np.random.Generator) -> Field:
    """Returns the pulmonary vessels and the hilar shadows (mm of blood)."""
    draw, full = scene.fine, 8.0
    tree = draw.canvas()
    for side in SIDES:
        for line, calibre in _branches(scene, side, detail):
            level = min(255, round(255 * calibre / full))
            draw.stroke(line, calibre, level=level, out=tree)
    vessels = full * smooth(tree.astype(np.float32) / 255, 0.7)
    hila = scene.coarse.canvas()
    for side in SIDES:
        x, y = scene.thorax.hilum(side)
        s = scene.anatomy.scale * scene.anatomy.vascularity
        scene.coarse.fill(ellipse((x, y), (13 * s, 24 * s), -14.0 * outward(side)), out=hila)
    soft = smooth(hila.astype(np.float32) / 255, 8 / scene.coarse.pixel_mm)
    return 2.1 * vessels + 16 * scene.upsample(soft) + _paramediastinal_veil(scene)


def _paramediastinal_veil(scene: Scene) -> Field:
    """Returns the great vessels beside the mediastinum (mm of blood).

    They have no visible border: annotators draw the lung's edge at the mediastinum behind them.
    """
    draw = scene.coarse
    veil = draw.fill(scene.thorax.mediastinum() * (1.3, 1.0))
    soft = smooth(veil.astype(np.float32) / 255, 6 / draw.pixel_mm)
    return scene.anatomy.great_vessels * scene.upsample(soft)


def _airways(scene: Scene) -> Field:
    """Returns the trachea and main bronchi (mm of air)."""
    a, draw = scene.anatomy, scene.fine
    h, s = a.lung_height, a.scale
    carina = (2.0, 0.345 * h)
    tube = draw.canvas()
    trachea = np.array([(0, -0.7 * h), (0, 0.05 * h), (3 * s, 0.24 * h), carina])
    draw.stroke(spline(trachea), 16 * s, out=tube, level=190)
    for side, drop in zip(SIDES, (0.075, 0.065), strict=True):
        end = (outward(side) * 40 * s, carina[1] + drop * h)
        draw.stroke(np.array([carina, end]), 10 * s, level=120, out=tube)
    return 17 * s * smooth(tube.astype(np.float32) / 255, 2.5 * s / draw.pixel_mm)


def _bowel_gas(scene: Scene, detail: np.random.Generator) -> Field:
    """Returns the stomach bubble, with a fluid level, and loops of bowel (mm of air)."""
    a, draw, thorax = scene.anatomy, scene.fine, scene.thorax
    top = thorax.height + a.dome_gap
    gas = draw.canvas()
    if detail.random() < 0.75:
        radius = detail.uniform(9, 30) * a.scale
        x = detail.uniform(0.35, 0.62) * thorax.half_width("left")
        y = top + radius * 0.75 + detail.uniform(4, 14)
        bubble = ellipse((x, y), (radius * detail.uniform(1.1, 1.5), radius * 0.8))
        if detail.random() < 0.6:
            bubble[:, 1] = np.minimum(bubble[:, 1], y + radius * detail.uniform(0.1, 0.5))
        draw.fill(bubble, level=int(detail.integers(90, 230)), out=gas)
    for _ in range(int(detail.integers(0, 9)) if detail.random() < 0.5 else 0):
        x, y = detail.uniform(-0.3, 0.95) * a.half_width, top + detail.uniform(35, 130)
        if x < 0:
            y += 60
        loop = ellipse((x, y), tuple(detail.uniform(7, 20, 2)), detail.uniform(0, 180))
        draw.fill(loop, level=int(detail.integers(60, 180)), out=gas)
    return 42 * a.scale * smooth(gas.astype(np.float32) / 255, 1.6 / draw.pixel_mm)


def _ribs(scene: Scene) -> Field:
    """Returns the ribs (mm of bone); posterior and anterior arcs add up where they cross."""
    a, draw, thorax = scene.anatomy, scene.fine, scene.thorax
    posterior, anterior, edge = draw.canvas(), draw.canvas(), scene.coarse.canvas()
    for side in SIDES:
        for number in range(RIB_COUNT, 0, -1):
            line, theta = thorax.rib(side, number)
            line = line - np.stack([0.6 * scene.view.yaw_mm * np.cos(theta), 0 * theta], axis=1)
            front = theta > np.pi / 2
            _draw_rib(scene, line[~front], theta[~front], posterior)
            _draw_rib(scene, line[front], theta[front], anterior)
        wall = thorax.wall(side) * (outward(side), 1)
        scene.coarse.stroke(wall[len(wall) // 3 :], 9.0, out=edge)
    # Cortical bone is seen along its length where the ribs turn around the lateral wall.
    along = scene.upsample(smooth(edge.astype(np.float32) / 255, 5 / scene.coarse.pixel_mm))
    # Towards the sternum bone gives way to cartilage.
    total = posterior.astype(np.float32) + 0.8 * anterior.astype(np.float32)
    return 7.5 * a.scale / 255 * smooth(total, 0.6) * (1 + 0.35 * along)


def _draw_rib(
    scene: Scene, line: Points, theta: Float[np.ndarray, " n"], out: UInt8[np.ndarray, "h w"]
) -> None:
    """Draws one arc: a ribbon of marrow between two bright cortical edges."""
    if len(line) < 3:
        return
    # The band narrows where the flat rib is seen edge-on, and towards the cartilage.
    half = 0.5 * scene.anatomy.rib_height * (1 - 0.3 * np.sin(theta) ** 6)
    ribbon = band(line, half)
    scene.fine.fill(ribbon, level=135, out=out)
    count = len(line)
    cortex = 1.5 * scene.anatomy.scale
    scene.fine.stroke(ribbon[:count], cortex, level=190, out=out)
    scene.fine.stroke(ribbon[count:], cortex, level=215, out=out)


def _shoulder_girdle(scene: Scene) -> Field:
    """Returns the clavicles, scapulae and humeri (mm of bone)."""
    a, view, draw, thorax = scene.anatomy, scene.view, scene.fine, scene.thorax
    blades, shafts = draw.canvas(), draw.canvas()
    s, h = a.scale, a.lung_height
    for index, side in enumerate(SIDES):
        blade = thorax.scapula(side, view.scapula_offset)
        draw.fill(blade, front=-0.8, level=55, out=blades)
        draw.stroke(blade, 1.8 * s, front=-0.8, level=105, closed=True, out=blades)
        w, sign = thorax.half_width(side), outward(side)
        spine = np.array([(0.86 * w, 0.19 * h), (1.05 * w, 0.09 * h), (1.26 * w, 0.03 * h)])
        spine = spline(spine * (sign, 1) + (sign * view.scapula_offset, 0))
        draw.stroke(spine, 6 * s, front=-0.8, level=85, out=blades)
        collar = thorax.clavicle(side, view.clavicle_lift[index])
        ribbon = band(collar, 6.0 * s * (1 + 0.35 * np.linspace(1, -1, len(collar)) ** 2))
        draw.fill(ribbon, front=0.6, level=120, out=shafts)
        draw.stroke(ribbon, 2 * s, front=0.6, level=190, closed=True, out=shafts)
        head = (sign * (1.33 * w + 0.4 * view.scapula_offset), 0.14 * h)
        abduction = view.arm_abduction[index]
        if abduction is not None:
            turn = np.deg2rad(abduction)
            elbow = (head[0] + sign * 2.5 * h * np.sin(turn), head[1] + 2.5 * h * np.cos(turn))
            draw.stroke(np.array([head, elbow]), 22 * s, level=170, out=shafts)
            draw.stroke(np.array([head, elbow]), 12 * s, level=110, out=shafts)
        draw.fill(ellipse(head, (24 * s, 24 * s)), level=190, out=shafts)
    return 16 * s / 255 * smooth(blades.astype(np.float32) + shafts, 0.8)


def _spine(scene: Scene, detail: np.random.Generator) -> Field:
    """Returns the vertebrae from neck to loin, and the manubrium (mm of bone)."""
    a, draw = scene.anatomy, scene.fine
    h, s = a.lung_height, a.scale
    column, sternum = draw.canvas(), draw.canvas()
    level = -0.75 * h
    while level < 2.8 * h:
        cervical = level < -0.05 * h
        size = 0.098 * h * (0.78 if cervical else 1.0)
        half = (13 if cervical else 15 + 5 * min(level / h, 1.5)) * s + detail.normal(0, 0.5)
        _draw_vertebra(scene, level, size, half, detail.normal(0, 1), column)
        level += size
    top, half = 0.17 * h, 17 * s
    manubrium = [(-half, 0), (half, 0), (0.7 * half, 0.2 * h), (-0.7 * half, 0.2 * h)]
    draw.fill(np.add(manubrium, (0, top)), front=0.9, level=40, out=sternum)
    return 14 * s / 255 * smooth(column.astype(np.float32) + sternum, 0.8)


def _draw_vertebra(
    scene: Scene, top: float, size: float, half: float, lean: float, out: UInt8[np.ndarray, "h w"]
) -> None:
    """Draws the vertebra below `top`: a waisted body with end plates, pedicles and processes.

    Args:
        scene: what is shown.
        top: level of the disc above.
        size: height with the disc.
        half: half width of the body.
        lean: how far the spinous process lies off the midline.
        out: the image to draw on.
    """
    draw, s = scene.fine, scene.anatomy.scale
    body = [(-half, 0.06), (0, 0.1), (half, 0.06), (0.88 * half, 0.5), (half, 0.94), (0, 0.9),
            (-half, 0.94), (-0.88 * half, 0.5)]  # fmt: skip
    outline = spline(np.array([(x, top + size * v) for x, v in body]), closed=True, steps=4)
    draw.fill(outline, front=-0.7, level=135, out=out)
    draw.stroke(outline, 2.0 * s, front=-0.7, level=190, closed=True, out=out)
    for sign in (-1, 1):
        pedicle = ellipse((sign * 0.62 * half, top + 0.35 * size), (3.2 * s, 5 * s))
        draw.stroke(pedicle, 1.6 * s, front=-0.8, level=200, closed=True, out=out)
        root, tip = sign * half, sign * 1.75 * half
        process = np.array([(root, top + 0.3 * size), (tip, top + 0.2 * size)])
        draw.stroke(process, 7 * s, front=-0.9, level=55, out=out)
    spinous = ellipse((lean, top + 0.8 * size), (2.4 * s, 7 * s))
    draw.fill(spinous, front=-1.0, level=185, out=out)


def _opacities(scene: Scene, rng: np.random.Generator) -> Field:
    """Returns nodules and consolidations inside the lungs (mm of soft tissue)."""
    findings, a = scene.view.findings, scene.anatomy
    out = np.zeros(scene.fine.shape, np.float32)

    def place() -> tuple[float, float]:
        side = SIDES[int(rng.integers(2))]
        y = float(rng.uniform(0.1, 0.95) * scene.thorax.height)
        width = scene.thorax.wall_at(side, y)
        return outward(side) * rng.uniform(0.4, 0.92) * width, y

    nodules = scene.fine.canvas()
    for _ in range(findings.nodules):
        radius = rng.uniform(2.5, 12) * a.scale
        scene.fine.fill(ellipse(place(), (radius, radius * rng.uniform(0.8, 1.2))), out=nodules)
    if findings.nodules:
        out += 22 * smooth(nodules.astype(np.float32) / 255, 1.8 / scene.fine.pixel_mm)
    patches = scene.coarse.canvas()
    for _ in range(findings.consolidations):
        radii = tuple(rng.uniform(12, 48, 2) * a.scale)
        scene.coarse.fill(ellipse(place(), radii, rng.uniform(0, 180)), out=patches)
    if findings.consolidations:
        cloud = smooth(patches.astype(np.float32) / 255, 9 / scene.coarse.pixel_mm)
        mottle = smooth(rng.standard_normal(patches.shape, dtype=np.float32), 3.0) * 8
        cloud = cloud * np.clip(0.8 + 0.25 * mottle, 0.1, 1.5)
        out += 0.6 * a.depth * findings.opacity * scene.upsample(cloud)
    return out


def _devices(scene: Scene, rng: np.random.Generator) -> Field:
    """Returns electrodes with wires, and a pacemaker with its lead (optical depth)."""
    findings, a, draw = scene.view.findings, scene.anatomy, scene.fine
    metal = draw.canvas()
    for _ in range(findings.electrodes):
        x, y = rng.uniform(-0.9, 0.9) * a.half_width, rng.uniform(0.1, 1.1) * a.lung_height
        draw.fill(ellipse((x, y), (5.0, 5.0)), level=150, out=metal)
        draw.stroke(ellipse((x, y), (9.0, 9.0)), 1.0, level=60, closed=True, out=metal)
        way = np.array([(x, y), (x + rng.normal(0, 25), y + 40), (x + rng.normal(0, 50), y + 110),
                        (rng.normal(0, 140), 1.6 * a.lung_height)])  # fmt: skip
        draw.stroke(spline(way), 1.2, level=70, out=metal)
    if findings.pacemaker:
        w, h = a.half_width, a.lung_height
        draw.fill(ellipse((0.72 * w, 0.24 * h), (24.0, 20.0)), level=235, out=metal)
        lead = np.array([(0.6 * w, 0.2 * h), (0.3 * w, 0.1 * h), (-0.1 * w, 0.25 * h),
                         (-0.18 * w, 0.7 * h), (0.35 * w, 0.98 * h)])  # fmt: skip
        draw.stroke(spline(lead), 2.2, level=150, out=metal)
    return metal.astype(np.float32) * (2.5 / 255)
