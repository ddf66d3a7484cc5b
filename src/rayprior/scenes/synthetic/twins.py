"""Fork, whisk and strainer on a table, each of steel and as a matte twin, and a fork that bends.

The same geometry twice: what differs between a twin and the other is what it looks like. Lengths are in working units;
the table is `TABLE` below the origin, things lie on it along x.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import acos, cos, degrees, radians, sin

import torch
from torch import Tensor

from rayprior.maths.poses import vector_from_rotation
from rayprior.scenes.synthetic.shading import Lighting, Marble, Material, Plain, Sky, Sun, Window
from rayprior.scenes.synthetic.shapes import Disc, Shape
from rayprior.scenes.synthetic.tracer import Object, World
from rayprior.scenes.synthetic.wires import Bowl, Capsule, Torus

Point = tuple[float, float, float]
Parts = list[tuple[str, Shape, Point, Point]]  # name, shape, where, rotation vector in degrees

TABLE_REACH = 4.0  # every camera of the twins sees the table behind the thing, and nothing else
MOST_BEND_DEG = 40.0

STEEL = Material(Plain((0.16, 0.165, 0.175)), specular=0.9, shininess=120.0, mirror=0.72)
CHALK = Material(Marble((0.44, 0.50, 0.62), (0.86, 0.83, 0.74), 26.0, contrast=1.1))
WOOD = Material(Marble((0.34, 0.21, 0.14), (0.78, 0.60, 0.42), 17.0, contrast=1.2))

# A kitchen as steel shows it: bright windows, lamps, dark furniture.
KITCHEN = Sky(
    above=(0.66, 0.67, 0.70),
    below=(0.30, 0.28, 0.27),
    ambient=0.75,
    windows=(
        Window((20, 32), (44, 40), (1.0, 1.0, 0.98)),
        Window((74, 28), (26, 50), (0.98, 0.99, 1.0)),
        Window((150, 18), (50, 36), (0.10, 0.09, 0.10)),
        Window((-140, 44), (38, 24), (1.0, 0.93, 0.80)),
        Window((-80, 20), (42, 40), (0.16, 0.13, 0.12)),
        Window((-30, 52), (28, 18), (1.0, 0.96, 0.88)),
        Window((0, 78), (360, 8), (0.12, 0.12, 0.14)),
        Window((115, 62), (30, 14), (1.0, 0.95, 0.85)),
    ),
)
LIGHTS = (Sun((-0.5, -0.62, 1.3), (0.42, 0.40, 0.37)), Sun((0.8, 0.5, 1.1), (0.14, 0.15, 0.17)))


def fork(material: Material, bend: float = 0.0) -> World:
    """A fork of rods: an arched handle, a bridge, four curved tines. bend in [-1, 1]: how far, and to which side, it is
    bent about the upright axis, `MOST_BEND_DEG` at the tips."""
    table = -0.04

    def at(x: float, y: float, z: float) -> Point:
        x, y = _bent(x, y, radians(MOST_BEND_DEG) * bend)
        return x, y, z + table

    spine = [(-0.36, 0.0, 0.022), (-0.24, 0.0, 0.036), (-0.12, 0.0, 0.05), (-0.02, 0.0, 0.046), (0.09, 0.0, 0.03)]
    thick = [0.022, 0.019, 0.015, 0.014]
    parts = [
        _rod(f"handle {k}", at(*a), at(*b), r) for k, ((a, b), r) in enumerate(zip(pairwise(spine), thick, strict=True))
    ]
    parts += [_rod(f"bridge {k}", at(0.09, side * 0.06, 0.026), at(0.09, 0.0, 0.03), 0.014) for k, side in _SIDES]
    for k in range(4):
        y = 0.04 * (k - 1.5)
        curve = [(0.09, y, 0.026), (0.17, y, 0.014), (0.26, y, 0.02), (0.345, y, 0.046)]
        parts += [_rod(f"tine {k}{j}", at(*a), at(*b), 0.011) for j, (a, b) in enumerate(pairwise(curve))]
    return _on_table(parts, material, table)


def whisk(material: Material) -> World:
    """A whisk: a handle, and four loops of wire about its axis, each an arc and the two straight legs that touch it."""
    table = -0.11
    middle, ring, wire = torch.tensor([0.19, 0.0, table + 0.142], dtype=torch.float64), 0.13, 0.0085
    end, tip = (torch.tensor([x, 0.0, table + z], dtype=torch.float64) for x, z in ((-0.37, 0.027), (-0.12, 0.078)))
    reach = (tip - middle).norm()
    axis = (tip - middle) / reach
    touch = acos(ring / float(reach))  # from the axis to where a leg leaves the arc
    side = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    parts = [_rod("handle", _point(end), _point(tip), 0.027)]
    for k in range(4):
        turn = radians(45.0 * k + 22.5)
        out = cos(turn) * side + sin(turn) * torch.linalg.cross(axis, side)
        frame = torch.stack([-axis, out, torch.linalg.cross(-axis, out)], dim=1)
        arc = Torus(ring, wire, arc_deg=360 - 2 * degrees(touch))
        parts.append((f"loop {k}", arc, _point(middle), _turn_of(frame)))
        for j, way in _SIDES:
            leg = middle + ring * (cos(touch) * axis + way * sin(touch) * out)
            parts.append(_rod(f"leg {k}{j}", _point(leg), _point(tip), wire))
    return _on_table(parts, material, table)


def strainer(material: Material) -> World:
    """A strainer: half a sphere with holes and a rim, and a handle of two rods."""
    table, radius, wire = -0.12, 0.215, 0.0125
    centre, high = (-0.13, 0.0, table + radius + 0.002), table + radius + 0.002
    grip = (0.37, 0.0, high + 0.01)
    parts: Parts = [
        ("bowl", Bowl(radius, holes=64, hole=0.021), centre, (0.0, 0.0, 0.0)),
        ("rim", Torus(radius, wire), centre, (0.0, 0.0, 0.0)),
        _rod("grip", (0.22, 0.0, high + 0.004), grip, 0.021),
    ]
    for k, side in _SIDES:
        parts.append(_rod(f"stem {k}", (centre[0] + 0.21, side * 0.055, high), (0.22, side * 0.012, high), wire))
    parts.append(_rod("rest", (centre[0] - radius, 0.0, high), (centre[0] - radius - 0.045, 0.0, high), 0.014))
    return _on_table(parts, material, table)


TWINS: dict[str, Callable[[], World]] = {
    f"{shape.__name__}{ending}": (lambda shape=shape, material=material: shape(material))
    for shape in (fork, whisk, strainer)
    for ending, material in (("", STEEL), ("-matte", CHALK))
}

# -- parts -------------------------------------------------------------------------------------------------------------

_SIDES = ((0, -1), (1, 1))


def _on_table(parts: Parts, material: Material, table: float) -> World:
    """Of one material, on a wooden table that fills every picture."""
    things = [Object(name, shape, material, at, turn) for name, shape, at, turn in parts]
    top = Object("table", Disc(TABLE_REACH), WOOD, (0.0, 0.0, table), backdrop=True)
    return World((top, *things), Lighting(LIGHTS, KITCHEN), background=None)


def _rod(name: str, a: Point, b: Point, radius: float) -> tuple[str, Shape, Point, Point]:
    """A capsule whose ends are around a and b."""
    first, last = torch.tensor([a, b], dtype=torch.float64)
    along = (last - first) / (last - first).norm()
    beside = torch.eye(3, dtype=torch.float64)[along.abs().argmin()]
    x = torch.linalg.cross(beside, along)
    x = x / x.norm()
    frame = torch.stack([x, torch.linalg.cross(along, x), along], dim=1)
    return name, Capsule(radius, float((last - first).norm()) / 2), _point((first + last) / 2), _turn_of(frame)


def _bent(x: float, y: float, angle: float) -> tuple[float, float]:
    """The plane bent about z: what was the x axis from -0.2 to 0.35 is an arc of this angle, what comes before it
    stays, and what lies beside it moves along."""
    start, end = -0.2, 0.35
    if abs(angle) < 1e-9 or x <= start:
        return x, y
    radius = (end - start) / angle
    turn = (x - start) / radius
    return start + (radius - y) * sin(turn), radius - (radius - y) * cos(turn)


def _turn_of(frame: Tensor) -> Point:
    """The rotation vector, in degrees, of the rotation whose columns are the part's own axes."""
    return _point(torch.rad2deg(vector_from_rotation(frame[None])[0]))


def _point(vector: Tensor) -> Point:
    x, y, z = vector.tolist()
    return x, y, z
