"""Mesh: the surface of a density, coloured, cleaned, in the capture's own units and axes, with its quality in a line.

Marching cubes (Lorensen and Cline 1987, in Lewiner's form of 2003) on opacity over a short length, 1 - exp(-density x
length). The length is a share of the box, not a cell: a finer mesh then shows more of the same surface, not another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from rayprior.errors import UserError
from rayprior.evaluation.pictures import SURFACE
from rayprior.maths.space import Box
from rayprior.rendering.compositing import render_level
from rayprior.rendering.model import Model
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.rays import Rays
from rayprior.scenes.scene import Scene
from rayprior.training.bill import available_memory

RESOLUTION = 256
LEVEL = 0.5
LENGTHS = 128  # along the box's longest side, over each of which opacity is measured
KEEP = 0.02  # a component with fewer faces than this share of the largest one's is dropped
HALVINGS = 8  # of a cell's edge, until the surface is known to 1/256 of it
CHUNK = 1 << 17  # points whose density is asked for at once
BYTES_A_SAMPLE = 24  # opacity, and what marching cubes takes beside it (16 were measured)
CLOSE = 0.01  # of the box's diagonal: what counts as on the surface
PROBES = 4096  # pixels, and sparse points, by which a mesh is judged
LOOKED_FROM = 24  # training cameras at most, evenly chosen, that colour is seen from
COLOUR_BINS, BEFORE, BEHIND = 6, 0.5, 1.5  # of the short ray that a vertex takes its colour from, in lengths of opacity

Density = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles that turn anticlockwise seen from outside; the capture's units and axes.

    rgb  uint8, as colours of the photographs are (sRGB)
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    rgb: UInt8[np.ndarray, "v 3"] | None = None

    @property
    def normals(self) -> Float[np.ndarray, "v 3"]:
        """Of each vertex, outward: the mean of its faces' normals, by their areas."""
        across = np.cross(*self._edges())
        total = np.stack(
            [
                np.bincount(self.faces.reshape(-1), np.repeat(across[:, axis], 3), minlength=len(self.vertices))
                for axis in range(3)
            ],
            axis=1,
        )
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-300)

    @property
    def watertight(self) -> bool:
        """Every edge belongs to two faces, which walk along it in opposite directions."""
        start, end = self.faces.reshape(-1).astype(np.int64), np.roll(self.faces, -1, axis=1).reshape(-1)
        count = len(self.vertices)
        there, back = np.sort(start * count + end), np.sort(end * count + start)
        return len(there) > 0 and bool((there[1:] != there[:-1]).all() and (there == back).all())

    @property
    def volume(self) -> float:
        """What a closed mesh encloses, in the capture's unit to the third; below 0 if it is inside out."""
        a, b, c = (self.vertices[self.faces] - self.vertices.mean(axis=0)).transpose(1, 0, 2)
        return float((a * np.cross(b, c)).sum() / 6)

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        a, b, c = self.vertices[self.faces].transpose(1, 0, 2)
        return b - a, c - a

    def only(self, face: Bool[np.ndarray, "f"]) -> Mesh:
        """The chosen faces, and the vertices that they have."""
        used = np.unique(self.faces[face])
        place = np.zeros(len(self.vertices), self.faces.dtype)
        place[used] = np.arange(len(used))
        return Mesh(self.vertices[used], place[self.faces[face]], None if self.rgb is None else self.rgb[used])


@dataclass(frozen=True)
class MeshQuality:
    """What a mesh is worth. Volume only of a closed mesh; shares are of what lies in the box.

    dropped_components  small ones, cavities, and what no training camera has in its picture
    pixels_close        of training pixels that meet a surface, the share whose surface lies on the mesh
    points_close        of the capture's sparse points, the share that does; None where there are none
    """

    vertices: int
    faces: int
    watertight: bool
    components: int
    dropped_components: int
    volume: float | None
    pixels_close: float | None
    points_close: float | None

    def __str__(self) -> str:
        closed = "watertight" if self.watertight else "open"
        parts = f"{self.components} part{'s' if self.components > 1 else ''}, {self.dropped_components} dropped"
        said = [f"{self.vertices:,} vertices, {self.faces:,} faces, {closed}, {parts}"]
        if self.volume is not None:
            said.append(f"volume {self.volume:.4g}")
        for share, what in ((self.pixels_close, "training pixels"), (self.points_close, "sparse points")):
            if share is not None:
                said.append(f"{share:.1%} of the {what} within {CLOSE:.0%}")
        return "; ".join(said)


@dataclass(frozen=True)
class Lattice:
    """Sample points with one spacing along all axes: cell (length), low corner, and how many along x, y, z."""

    low: tuple[float, float, float]
    cell: float
    count: tuple[int, int, int]

    @staticmethod
    def of(box: Box, resolution: int) -> Lattice:
        """`resolution` cells along the longest side; the others are filled up to whole cells, evenly at both ends."""
        sides = [b - a for a, b in zip(box.low, box.high, strict=True)]
        cell = max(sides) / resolution
        cells = [max(ceil(side / cell - 1e-9), 1) for side in sides]
        low = [a - (n * cell - side) / 2 for a, n, side in zip(box.low, cells, sides, strict=True)]
        return Lattice((low[0], low[1], low[2]), cell, (cells[0] + 1, cells[1] + 1, cells[2] + 1))

    def plane(self, x: int) -> Float[Tensor, "n 3"]:
        """The points with this first index; z runs fastest."""
        y, z = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in self.count[1:]), indexing="ij")
        index = torch.stack([torch.full_like(y, x), y, z], dim=-1).reshape(-1, 3)
        return self.at(index)

    def at(self, index: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Positions of possibly fractional indices."""
        return torch.tensor(self.low, dtype=torch.float64) + self.cell * index


# -- a model's mesh ----------------------------------------------------------------------------------------------------


def mesh_of(
    model: Model,
    scene: Scene,
    *,
    box: Box | None = None,
    resolution: int = RESOLUTION,
    level: float = LEVEL,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Mesh, MeshQuality]:
    """The surface of a trained field within a box, coloured, in the capture's units and axes, and what it is worth.

    box          in the capture's units and axes; default the scene's own, from its points or else its cameras
    resolution   cells along the box's longest side; memory goes with its third power
    level        the opacity over 1/128 of the box's longest side at which the surface is
    on_progress  called with (planes of samples done, in all)

    Dropped are components with fewer than 2 % of the largest one's faces, cavities in the inside (the walls of what
    no photograph can know), and faces that no training camera has in its picture.

    Raises UserError for an empty field, a box without volume, values out of range, too large a resolution, and where
    scikit-image is missing.
    """
    box = box_in_capture_units(scene) if box is None else box
    unit = scene.similarity.scale
    raw = surface(
        lambda x: density_at(model, scene, x) * unit, box, resolution=resolution, level=level, on_progress=on_progress
    )
    cameras = scene.cameras[list(scene.split.train)]
    in_view = seen_by(cameras, scene.similarity.points(torch.from_numpy(raw.vertices)))
    if not in_view.any():
        raise UserError(
            "no surface: no training camera has any of it in its picture; choose a --box that the photographs show"
        )
    before = len(np.unique(components(raw)))
    mesh = cleaned(raw.only(np.any(in_view[raw.faces], axis=1)))
    mesh = Mesh(mesh.vertices, mesh.faces, colours(model, scene, mesh, opacity_length(box) * unit))
    return mesh, judged(mesh, before, model, scene, box)


def box_in_capture_units(scene: Scene) -> Box:
    """The scene's box, which lies along working axes, in one along the capture's."""
    low, high = scene.bounds.box.low, scene.bounds.box.high
    corner = [[(low, high)[i >> axis & 1][axis] for axis in range(3)] for i in range(8)]
    corners = scene.similarity.inverse().points(torch.tensor(corner, dtype=torch.float64))
    (a, b, c), (d, e, f) = corners.amin(dim=0).tolist(), corners.amax(dim=0).tolist()
    return Box((a, b, c), (d, e, f))


def opacity_length(box: Box) -> float:
    """The length over which opacity is measured, in the box's unit."""
    return max(high - low for low, high in zip(box.low, box.high, strict=True)) / LENGTHS


@torch.no_grad()
def density_at(model: Model, scene: Scene, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Density per working unit at points in the capture's units.

    Of a field in NDC, whose density is per NDC unit, along the optical axis: ds/dz = n / z^2.
    """
    working = scene.similarity.points(x).float().to(model.device)
    density, _ = model.density(working)
    space = model.space
    if space.kind == "box":  # beyond its box such a field says nothing
        assert space.box is not None
        unit = space.box.unit(working)
        density = torch.where(((unit >= 0) & (unit <= 1)).all(dim=1), density, torch.zeros_like(density))
    if space.kind == "ndc":
        assert space.ndc is not None
        z = working[:, 2]
        density = torch.where(z > space.ndc[2], density * space.ndc[2] / z.clamp_min(1e-6).square(), 0.0)
    return density.cpu().double()


def seen_by(cameras: Cameras, points: Float[Tensor, "v 3"]) -> Bool[np.ndarray, "v"]:
    """Which points lie in some camera's picture, be they hidden there or not."""
    seen = torch.zeros(len(points), dtype=torch.bool)
    for i in range(len(cameras)):
        left = (~seen).nonzero()[:, 0]
        if len(left) == 0:
            break
        _, _, inside = cameras.project(points[left], torch.full((len(left),), i))
        seen[left[inside]] = True
    return seen.numpy()


# -- the surface of a density ------------------------------------------------------------------------------------------


def surface(
    density: Density,
    box: Box,
    *,
    resolution: int = RESOLUTION,
    level: float = LEVEL,
    on_progress: Callable[[int, int], None] | None = None,
) -> Mesh:
    """Where opacity (over 1/128 of the box's longest side) crosses `level`, without colour; the units are the box's.

    density  float64 positions -> density per unit of length, >= 0
    Open where the inside leaves the box. Each vertex is moved along its cell's edge to where the crossing really is.

    Raises UserError as `mesh_of` does.
    """
    measure = _marching_cubes()
    _check(box, resolution, level)
    lattice = Lattice.of(box, resolution)
    _refuse_if_too_large(lattice, resolution)

    length = opacity_length(box)

    def opacity(x: Tensor) -> Tensor:
        parts = [-torch.expm1(-density(part) * length) for part in x.split(CHUNK)]
        return torch.cat(parts)

    samples = np.empty(lattice.count, np.float32)
    for x in range(lattice.count[0]):
        samples[x] = opacity(lattice.plane(x)).view(lattice.count[1:]).numpy()
        if on_progress is not None:
            on_progress(x + 1, lattice.count[0])
    lowest, highest = float(samples.min()), float(samples.max())
    if not lowest < level < highest:
        raise UserError(_empty(lowest, highest, level))
    index, faces, _, _ = measure(samples, level, gradient_direction="ascent")  # faces turn anticlockwise from outside
    moved = _refined(index, lambda at: opacity(lattice.at(at)) > level)
    return Mesh(lattice.at(torch.from_numpy(moved)).numpy(), faces.astype(np.int64))


def _marching_cubes() -> Any:
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise UserError(
            "a mesh needs scikit-image, which is not installed: pip install 'rayprior[mesh]'; export points do without"
        ) from error
    return marching_cubes


def _check(box: Box, resolution: int, level: float) -> None:
    if resolution < 2:
        raise UserError(f"--resolution {resolution}: expected at least 2 cells along the box, for example {RESOLUTION}")
    if not 0 < level < 1:
        raise UserError(f"--level {level:g}: expected an opacity above 0 and below 1, for example {LEVEL}")
    if not all(a < b for a, b in zip(box.low, box.high, strict=True)):
        raise UserError(f"--box from {box.low} to {box.high} has no volume; expected each low below its high")


def _refuse_if_too_large(lattice: Lattice, resolution: int) -> None:
    need, free = BYTES_A_SAMPLE * int(np.prod(lattice.count, dtype=np.int64)), available_memory()
    if free is not None and need > free:
        fits = int(resolution * (free / need) ** (1 / 3) * 0.9)
        raise UserError(
            f"--resolution {resolution}: takes about {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free;"
            f" at most {max(fits, 2)} fit, or choose a smaller --box"
        )


def _empty(lowest: float, highest: float, level: float) -> str:
    if highest <= level:
        return (
            f"no surface: the field is empty here: its opacity is at most {highest:.3g}, and a surface is where it is"
            f" {level:g}; train it for longer, choose another --box, or a lower --level"
        )
    return (
        f"no surface: the field is opaque everywhere here: its opacity is at least {lowest:.3g}, and a surface is where"
        f" it is {level:g}; choose a larger --box, or a higher --level"
    )


def _refined(index: np.ndarray, inside: Callable[[Tensor], Tensor]) -> Float[np.ndarray, "v 3"]:
    """Each vertex that lies on an edge of the lattice, moved along it to the crossing by halving."""
    at = torch.from_numpy(index.astype(np.float64))
    fraction = at - at.floor()
    between = (fraction > 0) & (fraction < 1)
    on_edge = (between.sum(dim=1) == 1).nonzero()[:, 0]
    low, high = at[on_edge].floor(), at[on_edge].ceil()
    filled = inside(low)
    a, b = torch.where(filled[:, None], low, high), torch.where(filled[:, None], high, low)  # from inside to outside
    for _ in range(HALVINGS):
        middle = (a + b) / 2
        within = inside(middle)[:, None]
        a, b = torch.where(within, middle, a), torch.where(within, b, middle)
    at[on_edge] = (a + b) / 2
    return at.numpy()


# -- cleaning ----------------------------------------------------------------------------------------------------------


def components(mesh: Mesh) -> Int[np.ndarray, "f"]:
    """The number of the connected component that each face belongs to."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b = mesh.faces[:, [0, 1]].reshape(-1), mesh.faces[:, [1, 2]].reshape(-1)
    graph = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(len(mesh.vertices),) * 2)
    _, label = connected_components(graph, directed=False)
    return label[mesh.faces[:, 0]]


def cleaned(mesh: Mesh, keep: float = KEEP) -> Mesh:
    """Without components that have fewer faces than `keep` of the largest one's, and without cavities: closed
    components that are inside out."""
    label = components(mesh)
    sizes = np.bincount(label)
    chosen = sizes >= keep * sizes.max(initial=0)
    for number in np.flatnonzero(chosen):
        part = mesh.only(label == number)
        chosen[number] = not (part.watertight and part.volume < 0)
    if not chosen.any():
        raise UserError(
            "no surface: all there is are the walls of cavities, since the box lies within what is opaque;"
            " choose a larger --box, or a higher --level"
        )
    return mesh.only(chosen[label])


# -- colour ------------------------------------------------------------------------------------------------------------


def looked_from(cameras: Cameras, points: Float[Tensor, "v 3"], normals: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
    """Unit directions in which the cameras see the points on average: those in front of the surface that have them in
    their picture, by the cosine to the normal. What none sees is looked at straight on."""
    total = torch.zeros_like(points)
    step = max(ceil(len(cameras) / LOOKED_FROM), 1)
    for i in range(0, len(cameras), step):
        _, _, inside = cameras.project(points, torch.full((len(points),), i))
        direction = F.normalize(points - cameras.origins[i], dim=1)
        total += ((-(direction * normals).sum(dim=1)).clamp_min(0) * inside)[:, None] * direction
    return F.normalize(torch.where(total.norm(dim=1, keepdim=True) > 1e-6, total, -normals), dim=1)


@torch.no_grad()
def colours(model: Model, scene: Scene, mesh: Mesh, length: float) -> UInt8[np.ndarray, "v 3"]:
    """What cameras see of each vertex: the colour of a short ray through it, from before the surface to behind it.

    length  over which opacity is measured, working units. A deferred field has colour of composited features alone.
    """
    points = scene.similarity.points(torch.from_numpy(mesh.vertices))
    rotation = torch.tensor(scene.similarity.rotation, dtype=torch.float64)
    normals = torch.from_numpy(mesh.normals) @ rotation.T
    directions = looked_from(scene.cameras[list(scene.split.train)], points, normals)
    found = []
    for part in torch.arange(len(points)).split(CHUNK // COLOUR_BINS):
        origins = (points[part] - BEFORE * length * directions[part]).float()
        rays = Rays.through(origins, directions[part].float(), 0.0, (BEFORE + BEHIND) * length).to(model.device)
        share = torch.linspace(0, 1, COLOUR_BINS + 1, device=model.device)
        edges = rays.far[:, None] * share
        light = None if model.codes is None else model.codes(rays.camera)
        seen = render_level(model.field, rays, edges, model.space, model.compositing, code=light)
        found.append((seen.rgb / seen.opacity[:, None].clamp_min(1e-3)).clamp(0, 1).cpu())
    rgb = torch.cat(found) if found else torch.zeros(0, 3)
    return (rgb * 255).round().to(torch.uint8).numpy()


# -- quality -----------------------------------------------------------------------------------------------------------


def judged(mesh: Mesh, components_before: int, model: Model, scene: Scene, box: Box) -> MeshQuality:
    """How closed a mesh is, and how well it agrees with what training pixels and sparse points say."""
    count = len(np.unique(components(mesh)))
    diagonal = float(np.linalg.norm(np.subtract(box.high, box.low)))
    given = None if scene.points is None else scene.points.position.double()
    if given is not None:
        given = scene.similarity.inverse().points(given[:: max(len(given) // PROBES, 1)])
    return MeshQuality(
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        watertight=mesh.watertight,
        components=count,
        dropped_components=max(components_before - count, 0),
        volume=mesh.volume if mesh.watertight else None,
        pixels_close=_close(mesh, surface_of_pixels(model, scene), box, diagonal),
        points_close=None if given is None else _close(mesh, given, box, diagonal),
    )


@torch.no_grad()
def surface_of_pixels(model: Model, scene: Scene) -> Float[Tensor, "n 3"]:
    """Where rays of random training pixels end, in the capture's units; of those that meet a surface."""
    rays = scene.photo_rays(PROBES, torch.Generator().manual_seed(0)).rays
    parts = [(part.distance.cpu(), part.opacity.cpu()) for part in model.render_in_chunks(rays)]
    distance, opacity = (torch.cat(column) for column in zip(*parts, strict=True))
    ends = (rays.origins.double() + distance[:, None].double() * rays.directions.double())[opacity >= SURFACE]
    return scene.similarity.inverse().points(ends)


def _close(mesh: Mesh, points: Tensor, box: Box, diagonal: float) -> float | None:
    """The share of the points in the box that have a vertex within 1 % of its diagonal; None where none is in it."""
    from scipy.spatial import KDTree

    unit = box.unit(points)
    within = points[((unit >= 0) & (unit <= 1)).all(dim=1)]
    if len(within) == 0:
        return None
    distance, _ = KDTree(mesh.vertices).query(within.numpy(), distance_upper_bound=CLOSE * diagonal)
    return float(np.isfinite(distance).mean())
