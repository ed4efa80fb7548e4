"""A patient's chest as maps of how much of each tissue lies along each ray, in centimetres.

Coordinates: x from -1 (image left, the patient's right) to 1, y from -1 (top) to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.phantom.texture import blur, noise, scatter_points

Map = npt.NDArray[np.float64]
"""``float64[S, S]``: one value a ray."""


@dataclass(frozen=True, slots=True)
class Pose:
    """How this image's patient stood and breathed."""

    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    tilt: float = 0.0
    """Radians."""
    breath: float = 0.0
    """How far the diaphragm is below its usual place, in units of y."""


@dataclass(frozen=True, slots=True)
class Chest:
    """Lengths along the ray, in centimetres, ``float64[S, S]``."""

    soft: Map
    """Soft tissue, without the lungs' own."""
    lung: Map
    """Aerated lung."""
    bone: Map
    vessels: Map
    """Blood vessels in the lungs."""
    bronchi: Map
    """Larger airways in the lungs, 0 to 1: what stays dark inside a consolidation."""


def chest(patient: int, pose: Pose, size: int) -> Chest:
    """The chest of one patient in one pose. The same patient always has the same anatomy."""
    rng = np.random.default_rng((1, patient))
    x, y = _grid(pose, size)
    side = np.abs(x)
    left = x > 0

    width = rng.uniform(0.74, 0.84)  # of the rib cage
    apex = rng.uniform(-0.80, -0.72)
    cage = width * _arch(y, apex, rng.uniform(2.3, 2.9))

    depth = rng.uniform(19, 24)  # front to back
    body = _body(x, y, width, rng)
    # A chest is an ellipse from above: the ray is longest at the spine and shorter at the flanks.
    soft = depth * np.sqrt(np.clip(1 - (x / (width + 0.28)) ** 2, 0.02, 1)) * body

    heart, vessel_root = _heart(x, y, rng)
    lung_shape = _lungs(side, left, y, cage, pose.breath, rng)
    lung = 0.72 * depth * lung_shape * (1 - heart)
    airway = _trachea(x, y, rng)

    bone = _ribs(side, left, y, cage, width, rng) * body
    bone += _clavicles(side, left, y, rng) + _spine(x, y, rng)
    arms = _step(side - (width + 0.02), 0.03) * _step(-0.35 - y, 0.1) * body
    bone += 0.5 * arms  # scapulae, out of focus

    vessels, bronchi = _trees(vessel_root, pose, size, rng)
    lung *= 1 + 0.04 * noise(rng, size, coarse=0.012) + 0.03 * noise(rng, size, coarse=0.05)
    return Chest(
        soft=np.maximum(soft - lung - 3.2 * airway, 0),
        lung=lung,
        bone=bone,
        vessels=vessels * _unit(lung / 6),
        bronchi=bronchi,
    )


def _grid(pose: Pose, size: int) -> tuple[Map, Map]:
    axis = (np.arange(size) + 0.5) * (2 / size) - 1
    x, y = axis[np.newaxis, :] - pose.shift[0], axis[:, np.newaxis] - pose.shift[1]
    cos, sin = np.cos(pose.tilt) / pose.scale, np.sin(pose.tilt) / pose.scale
    return cos * x + sin * y, cos * y - sin * x


def _step(distance: Map, softness: float) -> Map:
    """0 to 1 over about ``softness`` each side of 0."""
    return 0.5 + 0.5 * np.tanh(distance / softness)


def _unit(value: Map) -> Map:
    """Clipped to [0, 1]."""
    clipped: Map = np.clip(value, 0, 1)
    return clipped


def _dome(
    x: Map, y: Map, centre: tuple[float, float], axes: tuple[float, float], tilt: float
) -> Map:
    """The ray's path through an ellipsoid, 1 at its middle and 0 outside."""
    u, v = x - centre[0], y - centre[1]
    cos, sin = np.cos(tilt), np.sin(tilt)
    along, across = (cos * u + sin * v) / axes[0], (cos * v - sin * u) / axes[1]
    return np.sqrt(_unit(1 - along**2 - across**2))


def _arch(y: Map, apex: float, power: float) -> Map:
    """Half-width of the rib cage by height, 0 at the apex and 1 at its widest."""
    return np.sqrt(_unit(1 - np.abs((np.minimum(y, 0.3) - 0.3) / (0.3 - apex)) ** power))


def _body(x: Map, y: Map, width: float, rng: np.random.Generator) -> Map:
    neck = rng.uniform(0.26, 0.33)
    slope = rng.uniform(0.2, 0.32)
    shoulder = -1.02 + slope * np.sqrt(_unit((np.abs(x) - neck) / (1 - neck)))
    inside = _step(y - shoulder, 0.015)
    flank = width + rng.uniform(0.10, 0.17) + 0.9 * _unit(-0.2 - y)
    return inside * _step(flank - np.abs(x), 0.012)


def _heart(x: Map, y: Map, rng: np.random.Generator) -> tuple[Map, tuple[float, float]]:
    """How much of the lung's depth the mediastinum takes, 0 to 1, and where the hila are."""
    size = rng.uniform(0.88, 1.1)
    low = rng.uniform(0.26, 0.33)
    resting = low + 0.4 * _unit(y - low)  # it lies on the diaphragm
    lying = y - resting + low
    ventricles = _dome(x, lying, (0.14, low), (0.40 * size, 0.22 * size), 0.75)
    atrium = _dome(x, lying, (-0.09, low - 0.04), (0.13 * size, 0.24), 0.0)
    knob = _dome(x, y, (0.08, -0.30), (rng.uniform(0.07, 0.10), 0.09), 0.0)
    trunk = _dome(x, y, (0.10, -0.08), (0.09, 0.17), 0.2)
    central = np.exp(-np.square(np.square(x / rng.uniform(0.10, 0.13))))
    upper = np.exp(-np.square(np.square(x / 0.14))) * _step(-0.25 - y, 0.1)
    parts = (ventricles, atrium, 0.8 * knob, 0.7 * trunk, central, 0.9 * upper)
    free = np.ones_like(ventricles)
    for part in parts:
        free *= 1 - _unit(1.3 * part)
    return 1 - free, (rng.uniform(0.17, 0.20), rng.uniform(-0.04, 0.04))


def _lungs(
    side: Map,
    left: npt.NDArray[np.bool_],
    y: Map,
    cage: Map,
    breath: float,
    rng: np.random.Generator,
) -> Map:
    """Share of the chest's depth that is lung, 0 to 1."""
    right_dome = rng.uniform(0.40, 0.52)
    dome = np.where(left, right_dome + rng.uniform(0.02, 0.09), right_dome) + breath
    peak = np.where(left, 0.36, 0.33)
    curve = rng.uniform(1.0, 1.5)
    diaphragm = dome + curve * _unit(side - peak) ** 2 + 0.35 * _unit(peak - side) ** 2
    across = _unit(1 - np.square(np.square((side - 0.48 * cage) / (0.62 * cage + 1e-6))))
    inside = _step(cage - side, 0.018) * _step(side - 0.06, 0.02)
    full = inside * (0.45 + 0.55 * across) * _step(diaphragm - y, 0.016)
    # behind the domes the lungs reach further down than in front
    recess = 0.10 * inside * _step(diaphragm + 0.22 - y, 0.05)
    top = np.clip(0.45 + (y + 0.75) * 1.3, 0.35, 1)
    share: Map = np.maximum(full, recess) * top
    return share


def _trachea(x: Map, y: Map, rng: np.random.Generator) -> Map:
    bend = rng.uniform(-0.03, 0.01)
    axis = bend * _unit(y + 1)
    tube = np.sqrt(_unit(1 - ((x - axis) / 0.045) ** 2)) * _step(-0.22 - y, 0.02)
    for side, slope in ((-1.0, 0.8), (1.0, 1.15)):
        branch = axis + side * slope * (y + 0.24)
        inside = _step(y + 0.25, 0.02) * _step(-0.06 - y, 0.03)
        tube = np.maximum(tube, 0.7 * inside * np.sqrt(_unit(1 - ((x - branch) / 0.04) ** 2)))
    return tube


def _bar(offset: Map, half: float) -> Map:
    """A hollow tube seen from the side: dense rims, a fainter marrow, 0 outside."""
    r2 = (offset / half) ** 2
    return np.sqrt(_unit(1 - r2)) - 0.62 * np.sqrt(_unit(0.55 - r2))


def _ribs(
    side: Map,
    left: npt.NDArray[np.bool_],
    y: Map,
    cage: Map,
    width: float,
    rng: np.random.Generator,
) -> Map:
    """Posterior ribs run out and down from the spine, anterior ones in and down from the side."""
    spacing = rng.uniform(0.150, 0.172)
    offset = np.where(left, rng.uniform(-0.015, 0.015), 0.0) + rng.uniform(0, spacing)
    u = np.clip(side / width, 0, 1.2)
    stretch = 1 + 0.10 * y
    drop = rng.uniform(0.24, 0.34)
    back = -0.05 * np.sin(np.pi * _unit(u * 1.3)) + drop * u**2.4
    front = drop + rng.uniform(0.10, 0.20) + rng.uniform(0.42, 0.52) * np.sqrt(_unit(1.03 - u))
    inside = _step(cage + 0.03 - side, 0.012) * _step(0.70 - y, 0.2)
    thin = rng.uniform(0.24, 0.29)
    total = np.zeros_like(inside)
    for curve, strength, start in ((back, 1.0, 0.08), (front, 0.35, 0.45)):
        phase = ((y - curve - offset) * stretch / spacing + 0.5) % 1 - 0.5
        total += strength * _bar(phase, thin) * inside * _step(u - start, 0.04)
    rim = np.exp(-(((side - cage - 0.012) / 0.022) ** 2)) * _step(0.75 - y, 0.1)
    return 1.35 * total + 0.5 * rim


def _clavicles(side: Map, left: npt.NDArray[np.bool_], y: Map, rng: np.random.Generator) -> Map:
    height = np.where(left, rng.uniform(-0.68, -0.62), rng.uniform(-0.68, -0.62))
    lift = rng.uniform(0.12, 0.22)
    line = height - lift * _unit(side - 0.08) + 0.035 * np.sin(side * 8)
    half = 0.036 + 0.014 * np.exp(-(((side - 0.1) / 0.08) ** 2))
    return (
        2.0 * _bar((y - line) / half, 1.0) * _step(side - 0.075, 0.012) * _step(0.80 - side, 0.05)
    )


def _spine(x: Map, y: Map, rng: np.random.Generator) -> Map:
    bend = rng.uniform(-0.02, 0.02)
    axis = bend * np.sin(2 * y)
    half = 0.072 + 0.012 * y
    count = rng.uniform(5.2, 6.2)
    discs = 0.82 + 0.18 * np.tanh(3 * np.cos(np.pi * count * (y + 0.1 * y * np.abs(y))) + 1.5)
    return 1.25 * _unit(1 - np.square(np.square((x - axis) / half))) * discs


def _trees(
    root: tuple[float, float], pose: Pose, size: int, rng: np.random.Generator
) -> tuple[Map, Map]:
    """Vessels (cm) and airways (0 to 1) branching from both hila."""
    points: list[npt.NDArray[np.float64]] = []
    starts = np.array(
        [[s * root[0], root[1], a] for s in (-1, 1) for a in np.linspace(-1.9, 1.5, 9)]
    )
    starts[:9, 2] = np.pi - starts[:9, 2]
    position, angle = starts[:, :2], starts[:, 2]
    calibre = rng.uniform(0.7, 1.0, len(starts))
    for generation in range(5):
        bend = rng.normal(0, 0.35, len(angle))
        length = rng.uniform(0.7, 1.2, len(angle)) * 0.17 * 0.82**generation
        along = np.linspace(0, 1, 14)[:, np.newaxis]
        heading = angle + bend * along
        step = (length / 13) * np.stack((np.cos(heading), np.sin(heading)))
        path = position.T[:, np.newaxis, :] + np.cumsum(step, axis=1)
        weight = np.broadcast_to(calibre * (1 - 0.25 * along), path.shape[1:])
        points.append(np.stack((*path.reshape(2, -1), weight.ravel())))
        position = np.repeat(path[:, -1].T, 2, axis=0)
        spread = rng.uniform(0.25, 0.6, len(angle))
        angle = np.stack((angle + bend + spread, angle + bend - spread), axis=1).ravel()
        calibre = np.repeat(calibre, 2) * 0.66
    cloud = np.concatenate(points, axis=1)
    cos, sin = np.cos(pose.tilt) * pose.scale, np.sin(pose.tilt) * pose.scale
    x = cos * cloud[0] - sin * cloud[1] + pose.shift[0]
    y = sin * cloud[0] + cos * cloud[1] + pose.shift[1]
    vessels = scatter_points(x, y, cloud[2], size) * (5.0 * size / 128)
    airways = np.clip(blur(vessels, 0.012), 0, None)
    return blur(vessels, 0.006), _unit(airways / (np.quantile(airways, 0.97) + 1e-9))
