"""The analytic scenes by name, and how each is photographed: `synthetic_scene('still-life')` is ready to train on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import cos, pi, radians, sin, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.errors import UserError, did_you_mean
from rayprior.maths.poses import look_at
from rayprior.maths.space import Box
from rayprior.scenes.cameras import Cameras, cat_cameras
from rayprior.scenes.description import Points
from rayprior.scenes.scene import Background, Bounds, Pictures, Scene, Split
from rayprior.scenes.synthetic.shading import (
    RGB,
    Checker,
    Lamp,
    Lighting,
    Marble,
    Material,
    Plain,
    Sky,
    Stripes,
    Sun,
    Texture,
    matte,
)
from rayprior.scenes.synthetic.shapes import Cuboid, Cylinder, Sphere
from rayprior.scenes.synthetic.tiled_rooms import ROOMS
from rayprior.scenes.synthetic.tracer import Object, View, World, photograph, visible
from rayprior.scenes.synthetic.twins import STEEL, TWINS, fork

GOLDEN_TURN = (3 - sqrt(5)) / 2  # neighbours of a Fibonacci lattice differ by this share of a turn
VAL_VIEWS = 4
POINTS = 2000
MASKED = "exact masks of the thing on the table: --masks score trains on whole pictures, --masks background on it alone"
ERROR_PX = (0.25, 2.0)  # what sparse points state as their reprojection error, even in its logarithm

CREAM: RGB = (0.96, 0.92, 0.84)
CORAL: RGB = (0.92, 0.40, 0.34)
TEAL: RGB = (0.10, 0.46, 0.50)
NAVY: RGB = (0.17, 0.25, 0.45)
MUSTARD: RGB = (0.95, 0.70, 0.24)
SAGE: RGB = (0.66, 0.75, 0.67)
MOSS: RGB = (0.56, 0.67, 0.58)
PLUM: RGB = (0.52, 0.30, 0.46)
MIST: RGB = (0.62, 0.72, 0.82)
CLAY: RGB = (0.80, 0.62, 0.50)
SAND: RGB = (0.90, 0.80, 0.66)

KEY = Sun((-0.55, -0.75, 1.25), (0.46, 0.44, 0.40))
FILL = Sun((0.9, 0.35, 0.8), (0.12, 0.13, 0.16))
DAYLIGHT = Lighting((KEY, FILL), Sky((1.0, 1.0, 1.0), (0.72, 0.71, 0.70), ambient=0.56))


@dataclass(frozen=True)
class Stage:
    """A world and where its photographers stand: `distance` from the origin, looking at it, between two elevations.

    focal   in picture widths
    size    of pictures, and number of training `views`, where nobody asks for others
    moved   the world of a training photograph, where it changes from one to the next: told a number in [-1, 1]
    masked  there are masks, of all that is no backdrop; they decide what is scored
    apart   distance and elevations from which held-out views are taken; None: from among the training cameras
    """

    world: World
    distance: float = 4.0
    elevation_deg: tuple[float, float] = (12.0, 65.0)
    focal: float = 1.7
    size: int = 100
    views: int = 40
    moved: Callable[[float], World] | None = None
    masked: bool = False
    apart: tuple[float, tuple[float, float]] | None = None
    val_views: int = VAL_VIEWS
    test_views: int = 8


def _glossy(texture: Texture, mirror: float = 0.1) -> Material:
    return Material(texture, specular=0.7, shininess=80.0, mirror=mirror)


def _turned(shape: Cylinder, first: RGB, second: RGB, rings: int) -> Material:
    """Rings on the caps, as on turned wood."""
    return Material(Stripes(first, second, rings * 2 * shape.half_height / shape.radius))


def _still_life() -> Stage:
    """Two balls, a box and a cylinder on a round plinth: marble, gloss, checker and stripes, before white."""
    top = -0.24
    plinth = Cylinder(0.98, 0.06)
    objects = (
        Object("plinth", plinth, _turned(plinth, SAGE, MOSS, 4), (0, 0, top - 0.06)),
        Object("marble ball", Sphere(0.32), Material(Marble(TEAL, CREAM, 11.0)), (-0.44, -0.30, top + 0.32)),
        Object("glossy ball", Sphere(0.28), _glossy(Plain(CORAL)), (0.30, -0.46, top + 0.28)),
        Object(
            name="checker box",
            shape=Cuboid((0.24, 0.24, 0.24)),
            material=Material(Checker(NAVY, CREAM, (6.25, 6.25), shift=0.5)),
            at=(0.46, 0.28, top + 0.24),
            turn_deg=(0, 0, 28),
        ),
        Object(
            "striped cylinder", Cylinder(0.19, 0.44), Material(Stripes(MUSTARD, CREAM, 5)), (-0.22, 0.44, top + 0.44)
        ),
    )
    return Stage(World(objects, DAYLIGHT))


def _checker() -> Stage:
    """Fine checks everywhere: what a field can't learn without positional encoding."""
    top = -0.22
    objects = (
        Object(
            "board",
            Cuboid((0.70, 0.70, 0.05)),
            Material(Checker(NAVY, CREAM, (4.5 / 0.70, 4.5 / 0.70), shift=0.5)),
            (0, 0, top - 0.05),
        ),
        Object("ball", Sphere(0.36), Material(Checker(CORAL, CREAM, (16, 8))), (-0.28, -0.24, top + 0.36)),
        Object(
            name="box",
            shape=Cuboid((0.20, 0.20, 0.30)),
            material=Material(Checker(TEAL, CREAM, (10, 10))),
            at=(0.36, 0.32, top + 0.30),
            turn_deg=(0, 0, -24),
        ),
        Object("drum", Cylinder(0.20, 0.16), Material(Checker(MUSTARD, PLUM, (12, 3))), (0.42, -0.38, top + 0.16)),
    )
    return Stage(World(objects, DAYLIGHT))


def _glossy_ball() -> Stage:
    """A mirroring ball among matte ones: colours that change with the direction of view."""
    top = -0.22
    plinth = Cylinder(0.95, 0.05)
    objects = (
        Object("plinth", plinth, _turned(plinth, SAND, CLAY, 5), (0, 0, top - 0.05)),
        Object("glossy ball", Sphere(0.46), _glossy(Plain((0.06, 0.16, 0.24)), 0.35), (0, 0, top + 0.46)),
        Object("coral ball", Sphere(0.15), matte(CORAL), (0.66, -0.18, top + 0.15)),
        Object("mustard ball", Sphere(0.15), matte(MUSTARD), (-0.46, -0.52, top + 0.15)),
        Object("sage ball", Sphere(0.15), matte(MOSS), (-0.20, 0.66, top + 0.15)),
    )
    dusk = Sky((0.98, 0.99, 1.0), (0.30, 0.38, 0.50), ambient=0.66)  # a horizon for the mirror to show
    return Stage(World(objects, Lighting((KEY, FILL), dusk)))


def _shapes() -> Stage:
    """Matte, plain colours, few edges: quick to learn, the target of the training tests."""
    top = -0.22
    objects = (
        Object("plinth", Cylinder(0.85, 0.06), matte(SAND), (0, 0, top - 0.06)),
        Object("ball", Sphere(0.34), matte(CORAL), (-0.30, -0.28, top + 0.34)),
        Object("box", Cuboid((0.25, 0.25, 0.25)), matte(TEAL), (0.40, -0.08, top + 0.25), (0, 0, 24)),
        Object("cylinder", Cylinder(0.20, 0.38), matte(MUSTARD), (-0.14, 0.44, top + 0.38)),
    )
    return Stage(World(objects, DAYLIGHT))


def _room() -> Stage:
    """The same kind of still life inside a room: no known background, far walls, space to be contracted."""
    floor, ceiling = -0.30, 2.2
    middle, half = (ceiling + floor) / 2, (ceiling - floor) / 2
    lighting = Lighting(
        (Lamp((-0.9, -1.1, 1.7), (0.62, 0.58, 0.50), reach=2.4), Lamp((1.8, 1.4, 1.5), (0.20, 0.22, 0.26), reach=2.6)),
        Sky((0.95, 0.97, 1.0), (0.80, 0.76, 0.70), ambient=0.42),
    )
    table = Cylinder(0.46, 0.06)
    objects = (
        Object("walls", Cuboid((3.0, 3.0, half)), Material(Marble(MIST, CREAM, 1.3)), (0, 0, middle), backdrop=True),
        Object(
            name="floor",
            shape=Cuboid((3.0, 3.0, 0.01)),
            material=Material(Checker(CLAY, SAND, (2.5, 2.5))),
            at=(0, 0, floor + 0.01),
            backdrop=True,
        ),
        Object("table", table, _turned(table, SAGE, MOSS, 4), (0, 0, floor + 0.08)),
        Object("marble ball", Sphere(0.16), Material(Marble(TEAL, CREAM, 22.0)), (-0.18, -0.14, floor + 0.30)),
        Object("glossy ball", Sphere(0.13), _glossy(Plain(CORAL)), (0.18, -0.20, floor + 0.27)),
        Object("box", Cuboid((0.11, 0.11, 0.11)), matte(NAVY), (0.20, 0.16, floor + 0.25), (0, 0, 28)),
        Object("cylinder", Cylinder(0.09, 0.21), Material(Stripes(MUSTARD, CREAM, 5)), (-0.12, 0.21, floor + 0.35)),
    )
    return Stage(World(objects, lighting, background=None), distance=1.0, elevation_deg=(6.0, 45.0), focal=0.85)


def _twin(world: World, moved: Callable[[float], World] | None = None) -> Stage:
    """A thing on a table, photographed from near."""
    return Stage(
        world, distance=1.0, elevation_deg=(34.0, 74.0), focal=1.2, size=96, views=52, moved=moved, masked=True
    )


def _repeated(world: World) -> Stage:
    """A room seen from within; held-out views from farther off, lower and higher: outside the hull of the cameras."""
    return Stage(
        world, distance=1.0, elevation_deg=(12.0, 38.0), focal=0.85, size=64, apart=(1.3, (0.0, 56.0)), val_views=6,
        test_views=10,
    )  # fmt: skip


STAGES: dict[str, Callable[[], Stage]] = {
    "still-life": _still_life,
    "shapes": _shapes,
    "checker": _checker,
    "glossy": _glossy_ball,
    "room": _room,
    **{name: (lambda world=world: _twin(world())) for name, world in TWINS.items()},
    **{name: (lambda world=world: _repeated(world())) for name, world in ROOMS.items()},
    "fork-bent": lambda: _twin(fork(STEEL), moved=lambda bend: fork(STEEL, bend)),
}


def synthetic_names() -> tuple[str, ...]:
    """The names that `synthetic_scene` knows."""
    return tuple(STAGES)


def synthetic_world(name: str) -> World:
    """The world of a synthetic scene, for its exact hits, masks and correspondences; of one that changes between
    photographs, as test views see it."""
    return _stage(name).world


def synthetic_scene(
    name: str = "still-life",
    *,
    size: int | None = None,
    views: int | None = None,
    test_views: int | None = None,
    seed: int = 0,
    depth: bool = True,
    supersample: int = 3,
) -> Scene:
    """An analytic world photographed from a hemisphere: size x size pictures, cameras spread evenly, exact depth, and
    exact sparse points on the surfaces with the views that see each.

    size and views of None are 100 and 40, of the twins (fork, whisk, strainer) 96 and 52. The twins have exact masks of
    the thing on the table, which decide what is scored. In `fork-bent` each training photograph has a world of its own,
    and points are those of what stays.

    test_views of None are 8. The rooms of repeated texture (tiled-room, brick-room, plank-room) have 10, and 6
    validation views, all from outside the hull of the training cameras, and pictures of 64.

    Working units are the world's own. Order of the frames: training, validation, test. The seed turns the ring of
    training cameras; equal arguments give equal scenes, bit for bit. UserError for an unknown name.
    """
    stage = _stage(name)
    size, views = stage.size if size is None else size, stage.views if views is None else views
    test_views = stage.test_views if test_views is None else test_views
    if min(size, supersample) < 1 or views < 2 or test_views < 1:
        raise UserError(
            f"synthetic scene '{name}': size {size}, views {views}, test_views {test_views}, "
            f"supersample {supersample}; expected at least 1, 2, 1 and 1"
        )
    counts = {"train": views, "val": stage.val_views, "test": test_views}
    turns = {"train": 0.0, "val": 0.62, "test": 0.31}  # the lattices share no camera
    start = (seed * 0.7548776662) % 1  # successive seeds are far apart on the circle
    apart = stage if stage.apart is None else replace(stage, distance=stage.apart[0], elevation_deg=stage.apart[1])
    places = {"train": stage, "val": apart, "test": apart}
    cameras = cat_cameras([hemisphere(places[part], counts[part], start + turns[part], size) for part in counts])
    worlds = _worlds(stage, views, len(cameras), seed)
    shown = _photographs(worlds, cameras, supersample)
    names = tuple(f"{part}-{i:03d}" for part, count in counts.items() for i in range(count))
    train, val, test = (tuple(i for i, n in enumerate(names) if n.startswith(part)) for part in counts)
    return Scene(
        name=name,
        path=None,
        format="synthetic",
        names=names,
        cameras=cameras,
        pictures=Pictures.of([_bytes(stage.world, view) for view in shown]),
        split=Split(f"synthetic/{name}-{views}", train, test, val),
        bounds=_bounds(stage.world, cameras),
        background=Background("none") if stage.world.background is None else Background("random"),
        masks=Pictures.of([_things(stage.world, view)[..., None] for view in shown]) if stage.masked else None,
        mask_rule="score" if stage.masked else "ignore",
        depth=Pictures.of([view.distance[..., None].float() for view in shown]) if depth else None,
        points=_points(worlds, cameras, shown, train, seed),
        notes=(
            f"analytic scene '{name}', seed {seed}, {supersample}x{supersample} rays a pixel",
            *((MASKED,) if stage.masked else ()),
        ),
    )


def hemisphere(stage: Stage, count: int, turn: float, size: int) -> Cameras:
    """Cameras on a Fibonacci lattice between the stage's elevations, even in area, begun at `turn` (of a circle)."""
    low, high = (sin(radians(angle)) for angle in stage.elevation_deg)
    heights = [low + (high - low) * (k + 0.5) / count for k in range(count)]
    angles = [2 * pi * (turn + k * GOLDEN_TURN) for k in range(count)]
    origins = [(sqrt(1 - z * z) * cos(a), sqrt(1 - z * z) * sin(a), z) for z, a in zip(heights, angles, strict=True)]
    origins = stage.distance * torch.tensor(origins, dtype=torch.float64)
    return Cameras(
        c2w=look_at(origins, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)),
        focal_px=torch.full((count, 2), stage.focal * size, dtype=torch.float64),
        centre_px=torch.full((count, 2), size / 2, dtype=torch.float64),
        size=torch.full((count, 2), size),
    )


def _worlds(stage: Stage, train: int, views: int, seed: int) -> list[World]:
    """The world of each view: training ones change, where the stage's do."""
    moved = stage.moved
    if moved is None:
        return [stage.world] * views
    bends = 2 * torch.rand(train, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    return [*(moved(bend) for bend in bends.tolist()), *[stage.world] * (views - train)]


def _photographs(worlds: list[World], cameras: Cameras, supersample: int) -> list[View]:
    """All views; a thread takes a view at a time. Threads within an operation cost more than they bring here: the
    operations are short, and on a busy machine waiting for each other made them 30 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(
                pool.map(lambda i: photograph(worlds[i], cameras, i, supersample=supersample), range(len(cameras)))
            )
    finally:
        torch.set_num_threads(threads)


def _points(worlds: list[World], cameras: Cameras, shown: list[View], train: tuple[int, ...], seed: int) -> Points:
    """Points where pixels of training views meet a surface, as structure from motion would leave them, but exact; their
    stated reprojection errors are drawn. Where worlds differ, of what stays."""
    g = torch.Generator().manual_seed(seed)
    distance = torch.stack([shown[i].distance.reshape(-1) for i in train])  # (views, pixels)
    if len(set(map(id, worlds))) > 1:
        moving = torch.stack([_things(worlds[i], shown[i]).reshape(-1) for i in train])
        distance = distance.where(~moving, torch.nan)
    found = distance.isfinite().nonzero()
    view, at = found[torch.randint(len(found), (POINTS,), generator=g)].unbind(dim=1)
    camera = torch.tensor(train)[view]
    directions = cameras.directions(camera, cameras.pixel_grid(0)[at])
    position = cameras.origins[camera] + directions * distance[view, at][:, None]
    rgb = torch.stack([shown[i].rgba[..., :3].reshape(-1, 3) for i in train])[view, at]
    low, high = ERROR_PX
    seen = [visible(worlds[i], position, cameras, i) for i in range(len(cameras))]
    tracks = torch.stack([sees for _, sees in seen]).nonzero()
    return Points(
        position=position.float(),
        rgb=(rgb * 255).round().to(torch.uint8),
        error_px=low * (high / low) ** torch.rand(POINTS, generator=g),
        track_point=tracks[:, 1],
        track_camera=tracks[:, 0],
        track_pixel=torch.stack([pixel for pixel, _ in seen])[tracks[:, 0], tracks[:, 1]].float(),
    )


def _stage(name: str) -> Stage:
    if name not in STAGES:
        raise UserError(f"no synthetic scene named '{name}'{did_you_mean(name, STAGES)}")
    return STAGES[name]()


def _things(world: World, view: View) -> Tensor:
    """(h, w) bool: the pixels whose centre shows what is no backdrop."""
    things = torch.tensor([not thing.backdrop for thing in world.objects])
    return things[view.object.clamp_min(0)] & (view.object >= 0)


def _bytes(world: World, view: View) -> Tensor:
    """uint8 (h, w, 4), or three channels where nothing is transparent by construction."""
    picture = view.rgba if world.background is not None else view.rgba[..., :3]
    return (picture * 255).round().clamp(0, 255).to(torch.uint8)


def _bounds(world: World, cameras: Cameras) -> Bounds:
    """The box with a margin of 2 %; near and far from the cameras' distances to the world's boxes."""
    box, whole = world.box(), world.box(backdrop=True)
    low, high = _corners(box)
    margin = 0.02 * (high - low)
    outside = (cameras.origins - cameras.origins.clamp(low, high)).norm(dim=1).min()
    corners = torch.cartesian_prod(*torch.stack(_corners(whole), dim=1))
    farthest = (cameras.origins[:, None] - corners).norm(dim=2).max()
    low, high = (low - margin).tolist(), (high + margin).tolist()
    return Bounds(
        near=max(0.05, 0.5 * float(outside)),  # cameras drawn between the photographers stand nearer
        far=1.02 * float(farthest),
        box=Box((low[0], low[1], low[2]), (high[0], high[1], high[2])),
    )


def _corners(box: Box) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    return torch.tensor(box.low, dtype=torch.float64), torch.tensor(box.high, dtype=torch.float64)
