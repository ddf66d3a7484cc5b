"""Families of embedded scenes: worlds drawn at random, cameras on a ring, and their photographs.

World n depends on (seed, n) alone, camera v of it on (seed, n, v) alone: the same worlds are made again with more
views, or seen from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import cos, hypot, inf, isfinite, nan, pi, radians, sin

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor

from rayprior.errors import UserError, did_you_mean
from rayprior.kernels.trace import BALL, CHECKER, CUBOID, CYLINDER, HALL, NOTHING, PLAIN, STRIPES, Worlds, trace
from rayprior.maths.poses import look_at
from rayprior.maths.space import Box
from rayprior.scenes.scene import Background

OBJECTS = 3
DRAWS = 160  # uniform numbers for a world
REACH, TALLEST = 0.72, 0.56  # all objects stand within this distance of the middle, and are no taller
NEAREST = 0.02  # of a camera that stands beside an object
DISC = 0.45  # where their middles are
GAP = 0.03  # between any two
LAYOUTS = 12  # drawn for each scene; the first without overlap is taken
ASIDE = 0.3  # of a pixel: where rays beside the middle one go
ROOM = (1.0, 1.0, 0.5)  # half sides
TABLE = (0.75, 0.75, 0.04)
LAMP_FAR = 3.0  # from a table's middle
BEHIND = (0.87, 0.91, 0.95)  # a table
CHUNK_RAYS = 1 << 17  # traced at once: what they carry stays in the cache
SHIFTS = {"height": ("a share of the ring's", 0.3), "radius": ("a share of the ring's", 0.3)}
SHIFTS |= {"yaw": ("degrees", 20), "roll": ("degrees", 20)}  # unit, and an example


@dataclass(frozen=True)
class Kind:
    """A kind of scenes. Cameras of training stand on a ring of this radius and height and look at (0, 0, `target`).

    focal is in picture widths; far and box are working units, and those of shifted cameras too
    """

    worlds: Callable[[Float[Tensor, "n d"]], Worlds]
    radius: float
    height: float
    target: float
    focal: float
    far: float
    box: Box
    background: Background


# -- what is drawn -----------------------------------------------------------------------------------------------------


def worlds_of(kind: str, seed: int, scenes: Sequence[int]) -> Worlds:
    """The worlds of these scenes."""
    return KINDS[kind].worlds(_uniforms([f"{seed}/{scene}" for scene in scenes], DRAWS))


def cameras_of_ring(
    kind: str, seed: int, scenes: Sequence[int], views: int, shift: Mapping[str, float]
) -> Float[Tensor, "n v 3 4"]:
    """Camera-to-world poses on the ring, each at an angle of its own, moved and turned by `shift`, float32.

    height, radius  grow by this share;  yaw  looks away from the middle, to the left, by this angle;  roll  turns the
    picture about its middle
    """
    ring = KINDS[kind]
    angle = 2 * pi * _view_uniforms(seed, scenes, views)[:, 0]
    radius, height = ring.radius * (1 + shift.get("radius", 0.0)), ring.height * (1 + shift.get("height", 0.0))
    origins = torch.stack([radius * angle.cos(), radius * angle.sin(), torch.full_like(angle, height)], dim=1)
    target, up = (torch.tensor([0.0, 0.0, z], dtype=torch.float64) for z in (ring.target, 1.0))
    c2w = look_at(origins, target, up)
    rotation = _about_z(shift.get("yaw", 0.0)) @ c2w[:, :, :3] @ _about_z(shift.get("roll", 0.0))
    return torch.cat([rotation, c2w[:, :, 3:]], dim=2).float().view(len(scenes), views, 3, 4)


def gains_of(seed: int, scenes: Sequence[int], views: int, exposure: float) -> Float[Tensor, "n v"]:
    """What each photograph's colours are multiplied by: exp of a number within +-exposure."""
    return torch.exp(exposure * (2 * _view_uniforms(seed, scenes, views)[:, 1] - 1)).view(len(scenes), views)


def checked_kind(kind: str) -> str:
    """UserError for a kind that there is not."""
    if kind not in KINDS:
        raise UserError(f"no family named {kind!r}{did_you_mean(kind, KINDS)}")
    return kind


def checked_shift(kind: str, words: Sequence[str]) -> dict[str, float]:
    """NAME=NUMBER of `--shift` -> numbers by name. UserError for what is no number, for a name given twice, and for
    what `check_shift` refuses."""
    shift: dict[str, float] = {}
    for word in (part for given in words for part in given.split(",")):
        name, _, text = word.partition("=")
        if name in shift:
            raise UserError(f"--shift {word}: {name} is given twice; once is enough")
        try:
            shift[name] = float(text)
        except ValueError:
            shift[name] = nan
    check_shift(kind, shift)
    return shift


def check_shift(kind: str, shift: Mapping[str, float]) -> None:
    """UserError for shifts that there are not, that are no numbers, and where cameras would stand below the ground,
    among the objects, or too far away."""
    for name, value in shift.items():
        if name not in SHIFTS:
            raise UserError(f"--shift {name}: no shift named {name!r}{did_you_mean(name, SHIFTS)}")
        if not isfinite(value):
            unit, example = SHIFTS[name]
            raise UserError(f"--shift {name}: expected {name}=NUMBER, {unit}, as in {name}={example}")
    ring = KINDS[kind]
    radius, height = ring.radius * (1 + shift.get("radius", 0.0)), ring.height * (1 + shift.get("height", 0.0))
    wrong = (
        "below the ground"
        if height <= 0
        else "among the objects"
        if radius < REACH and height < TALLEST
        else "beyond what is rendered"
        if hypot(radius + hypot(*ring.box.high[:2]), height) > ring.far
        else ""
    )
    if wrong:
        raise UserError(
            f"--shift {','.join(f'{name}={value:g}' for name, value in shift.items())}: cameras would stand {wrong}"
            f" (radius {radius:.3g}, height {height:.3g}); of training they have radius {ring.radius:g}, height"
            f" {ring.height:g}: choose a smaller shift"
        )


def near_of(kind: str, shift: Mapping[str, float]) -> float:
    """No object is nearer to a camera than this, on the ring or where `shift` brings it; outward shifts change nothing,
    so that they ask a model nothing new. Rays that began at the camera would pass places that no other camera sees, and
    a model hangs pictures there."""
    ring, inward = KINDS[kind], {name: min(share, 0.0) for name, share in shift.items()}
    radius, height = ring.radius * (1 + inward.get("radius", 0.0)), ring.height * (1 + inward.get("height", 0.0))
    return max(NEAREST, hypot(max(radius - REACH, 0.0), max(height - TALLEST, 0.0)))


def _uniforms(keys: Sequence[str], count: int) -> Float[Tensor, "n count"]:
    """Numbers in [0, 1) that depend on each key alone."""
    rows = []
    for key in keys:
        digest = blake2b(key.encode(), digest_size=8).digest()
        generator = Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def _view_uniforms(seed: int, scenes: Sequence[int], views: int) -> Float[Tensor, "nv 2"]:
    return _uniforms([f"{seed}/{scene}/{view}" for scene in scenes for view in range(views)], 2)


def _about_z(angle_deg: float) -> Float[Tensor, "3 3"]:
    c, s = cos(radians(angle_deg)), sin(radians(angle_deg))
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


# -- photographs -------------------------------------------------------------------------------------------------------


def photograph(
    worlds: Worlds, c2w: Float[Tensor, "n v 3 4"], width: int, height: int, focal_px: float, gains: Float[Tensor, "n v"]
) -> tuple[UInt8[Tensor, "n v h w 3"], Float[Tensor, "n v h w"]]:
    """Pictures, and distances along the rays through the pixels' centres, nan where they meet nothing.

    A pixel whose neighbours show something else is the mean of five rays, any other one ray: edges are smooth, and
    nothing is spent where there are none.
    """
    count, views = c2w.shape[:2]
    pixels = height * width
    pictures, distances = [], []
    step = max(1, CHUNK_RAYS // (views * pixels))
    for first in range(0, count, step):
        part, poses = Worlds(*(a[first : first + step] for a in worlds)), c2w[first : first + step].double()
        gain = gains[first : first + step].reshape(-1, 1, 1)
        rgb, distance = _exposed(part, poses.view(-1, 3, 4), views, width, height, focal_px)
        pictures.append((rgb * gain * 255).round_().clamp_(0, 255).to(torch.uint8).view(-1, views, height, width, 3))
        distances.append(torch.where(distance < inf, distance, nan).float().view(-1, views, height, width))
    return torch.cat(pictures), torch.cat(distances)


def _exposed(
    worlds: Worlds, poses: Float[Tensor, "m 3 4"], views: int, width: int, height: int, focal_px: float
) -> tuple[Float[Tensor, "m hw 3"], Float[Tensor, "m hw"]]:
    """Colours and distances of some cameras, `views` in each world."""
    cameras, pixels = len(poses), height * width
    v, u = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) + 0.5 for n in (height, width)), indexing="ij")
    at = torch.stack([u - width / 2, v - height / 2], dim=2).view(-1, 2)  # from the middle of the picture
    local = F.normalize(torch.cat([at / focal_px, torch.ones_like(at[:, :1])], dim=1), dim=1)
    directions = (local @ poses[:, :, :3].transpose(1, 2)).view(-1, 3)
    camera = torch.arange(cameras).repeat_interleave(pixels)
    middle = trace(worlds, camera // views, poses[:, :, 3].index_select(0, camera), directions)

    edge = _edges(middle.patch.view(cameras, height, width)).view(-1).nonzero()[:, 0]
    camera = camera.index_select(0, edge)
    rgb = middle.rgb
    mean = rgb.index_select(0, edge)
    turned, origins = poses[:, :, :3].index_select(0, camera), poses[:, :, 3].index_select(0, camera)
    for aside in ((-ASIDE, -ASIDE), (ASIDE, -ASIDE), (-ASIDE, ASIDE), (ASIDE, ASIDE)):
        moved = at.index_select(0, edge % pixels) + torch.tensor(aside)
        local = F.normalize(torch.cat([moved / focal_px, torch.ones_like(moved[:, :1])], dim=1), dim=1)
        mean += trace(worlds, camera // views, origins, torch.bmm(turned, local[:, :, None])[:, :, 0]).rgb
    rgb.index_copy_(0, edge, mean / 5)
    return rgb.view(cameras, pixels, 3), middle.distance.view(cameras, pixels)


def _edges(patch: Int[Tensor, "m h w"]) -> Tensor:
    """Pixels beside, above or below which another patch is seen."""
    edge = torch.zeros_like(patch, dtype=torch.bool)
    across, down = patch[:, :, 1:] != patch[:, :, :-1], patch[:, 1:] != patch[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    return edge


# -- worlds ------------------------------------------------------------------------------------------------------------


class _Draws:
    """Uniform numbers, n worlds at a time, taken one after another."""

    def __init__(self, uniforms: Float[Tensor, "n d"]) -> None:
        self.uniforms, self.taken = uniforms, 0

    def __call__(self, *shape: int) -> Tensor:
        """(n, *shape), in [0, 1)."""
        count = int(torch.tensor(shape).prod()) if shape else 1
        self.taken += count
        return self.uniforms[:, self.taken - count : self.taken].reshape(-1, *shape)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * self(*shape)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers, `high` among them."""
        return low + (self(*shape) * (high - low + 1)).long()


def _objects(draw: _Draws, solid: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1 to 3 balls, cuboids and cylinders that stand apart on the ground: kind, shape, texture and look.

    solid: the share of them that are of one colour
    """
    count, kind = draw.whole(1, OBJECTS), draw.whole(BALL, CYLINDER, OBJECTS)
    radius, wide, deep, tall = (
        draw.between(*ends, OBJECTS) for ends in ((0.13, 0.22), (0.10, 0.18), (0.10, 0.18), (0.12, 0.28))
    )
    ball, cuboid = kind == BALL, kind == CUBOID
    side = torch.where(ball, radius, wide)
    half = torch.stack([side, torch.where(cuboid, deep, side), torch.where(ball, radius, tall)], dim=2)
    footprint = torch.where(cuboid, half[..., :2].norm(dim=2), side)
    turn = draw.between(0, 2 * pi, OBJECTS)
    at = _standing(draw, footprint, count)
    middle = torch.cat([at, half[..., 2:]], dim=2)
    around = torch.where(ball, radius, torch.where(cuboid, half.norm(dim=2), torch.hypot(side, tall))).square()
    shape = torch.cat([half, middle, turn.cos()[..., None], turn.sin()[..., None], around[..., None]], dim=2)
    texture = torch.where(draw(OBJECTS) < solid, PLAIN, draw.whole(CHECKER, STRIPES, OBJECTS))
    colours = _colours(draw, (0.45, 0.95), (0.5, 0.95), OBJECTS, 2)
    across, up = draw.whole(2, 4, OBJECTS), draw.whole(1, 3, OBJECTS)
    round_ = torch.stack([2 * across, 2 * up], dim=2).double()  # on a ball and a cylinder: whole cells around
    flat = torch.stack([across, up], dim=2) / (2 * half[..., ::2])
    cells = torch.where(cuboid[..., None], flat, round_)
    cells[..., 0] *= texture == CHECKER  # stripes lie level
    present = torch.arange(OBJECTS) < count[:, None]
    look = torch.cat([colours.flatten(2), cells, torch.zeros_like(half)], dim=2)
    return torch.where(present, kind, NOTHING), shape, texture, look


def _standing(draw: _Draws, footprint: Float[Tensor, "n o"], count: Int[Tensor, "n"]) -> Float[Tensor, "n o 2"]:
    """Places in the disc where none of the `count` objects touch: the first such of some that are drawn at random, and
    where there is none, a third of a turn from each other."""
    distance, angle = DISC * draw(LAYOUTS, OBJECTS).sqrt(), draw.between(0, 2 * pi, LAYOUTS, OBJECTS)
    distance[:, -1] = 0.85 * DISC
    angle[:, -1] = angle[:, -1, :1] + 2 * pi / 3 * torch.arange(OBJECTS)
    at = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=3)  # (n, layouts, objects, 2)
    apart = (at[:, :, :, None] - at[:, :, None]).norm(dim=4)
    free = apart > (footprint[:, :, None] + footprint[:, None] + GAP)[:, None]
    there = torch.arange(OBJECTS) < count[:, None]
    matters = (there[:, :, None] & there[:, None]).triu(1)[:, None]
    good = (free | ~matters).flatten(2).all(dim=2)
    good[:, -1] = True
    return at[torch.arange(len(at)), good.int().argmax(dim=1)]


def _colours(draw: _Draws, saturation: tuple[float, float], value: tuple[float, float], *shape: int) -> Tensor:
    """(n, *shape, 3): any hue, between these saturations and values (Smith 1978)."""
    hue, s, v = draw(*shape), draw.between(*saturation, *shape), draw.between(*value, *shape)
    k = (hue[..., None] * 6 + torch.tensor([5.0, 3.0, 1.0])) % 6
    return v[..., None] * (1 - s[..., None] * torch.minimum(k, 4 - k).clamp(0, 1))


def _rooms(uniforms: Float[Tensor, "n d"]) -> Worlds:
    """A square room with walls and a floor of its own, matt objects, and a lamp below the ceiling."""
    draw = _Draws(uniforms)
    kind, shape, texture, look = _objects(draw, solid=0.5)
    walls = _covered(draw, draw() < 0.6, STRIPES)
    floor = _covered(draw, draw() < 0.34, draw.whole(CHECKER, STRIPES))
    ceiling = torch.tensor([0.92] * 6 + [0.0] * 5).expand(len(kind), 11)
    lamp = torch.cat([draw.between(-0.35, 0.35, 2), draw.between(0.85, 0.85, 1)], dim=1)
    warm = draw.between(0.38, 0.5, 1) * torch.tensor([1.0, 0.97, 0.9])
    around = _row([1, 1, 1, 0.8, 0.78, 0.75, 0.5, 0, 0, 0], kind)
    return Worlds(
        kind=torch.cat([kind, torch.full((len(kind), 1), HALL)], dim=1),
        shape=torch.cat([shape, _row([*ROOM, 0, 0, ROOM[2], 1, 0, sum(x * x for x in ROOM)], kind)[:, None]], dim=1),
        texture=torch.cat([texture, walls[0], floor[0], torch.zeros_like(walls[0])], dim=1),
        look=torch.cat([look, torch.stack([walls[1], floor[1], ceiling], dim=1)], dim=1),
        light=torch.cat([lamp, warm, around], dim=1),
    )


def _table_top(uniforms: Float[Tensor, "n d"]) -> Worlds:
    """A square table before a plain background; objects shine, and mirror a simple sky and one another."""
    draw = _Draws(uniforms)
    kind, shape, texture, look = _objects(draw, solid=0.75)
    gloss = draw.between(0.3, 0.9, OBJECTS), 10 ** draw.between(1.2, 2.1, OBJECTS), draw.between(0.04, 0.3, OBJECTS)
    look[..., 8:] = torch.stack(gloss, dim=2)
    turn = draw.between(0, pi / 2, 1)
    size, ball = _row([*TABLE, 0, 0, -TABLE[2]], kind), _row([sum(x * x for x in TABLE)], kind)
    wood = _covered(draw, draw() < 0.34, draw.whole(CHECKER, STRIPES))
    azimuth, elevation = draw.between(0, 2 * pi, 1), draw.between(0.7, 1.2, 1)
    aside = elevation.cos()
    lamp = LAMP_FAR * torch.cat([aside * azimuth.cos(), aside * azimuth.sin(), elevation.sin()], dim=1)
    around = _row([*(0.55 * LAMP_FAR**2,) * 3, 0.72, 0.85, 1, 0.6, 0.56, 0.5, 0.5, *BEHIND], kind)
    unused = torch.zeros(len(kind), 2)
    return Worlds(
        kind=torch.cat([kind, torch.full((len(kind), 1), CUBOID)], dim=1),
        shape=torch.cat([shape, torch.cat([size, turn.cos(), turn.sin(), ball], dim=1)[:, None]], dim=1),
        texture=torch.cat([texture, wood[0], unused.long()], dim=1),
        look=torch.cat([look, wood[1][:, None], unused[..., None].expand(-1, -1, 11)], dim=1),
        light=torch.cat([lamp, around], dim=1),
    )


def _covered(draw: _Draws, plain: Tensor, pattern: Tensor | int) -> tuple[Int[Tensor, "n 1"], Float[Tensor, "n 11"]]:
    """(texture, look) of a large flat surface: `plain`, or with this pattern of its colour and a darker one."""
    texture = torch.where(plain, PLAIN, pattern)[:, None]
    colour, darker = _colours(draw, (0.1, 0.5), (0.6, 0.95)), draw.between(0.55, 0.8, 1)
    count, checks = draw.whole(1, 2, 1).double(), texture == CHECKER  # a cell is half as wide as a pair of stripes
    cells = torch.cat([torch.where(checks, count + 1, count), torch.where(checks, count + 1, 0.0)], dim=1)
    return texture, torch.cat([colour, colour * darker, cells, torch.zeros_like(colour)], dim=1)


def _row(values: Sequence[float], like: Tensor) -> Float[Tensor, "n k"]:
    """The same numbers for every world."""
    return torch.tensor(values, dtype=torch.float64).expand(len(like), len(values))


KINDS: dict[str, Kind] = {
    "rooms": Kind(
        worlds=_rooms,
        radius=0.95,
        height=0.5,
        target=0.2,
        focal=0.75,
        far=6.0,
        box=Box((-1.02, -1.02, -0.02), (1.02, 1.02, 1.02)),
        background=Background("colour", (0.0, 0.0, 0.0)),
    ),
    "table-top": Kind(
        worlds=_table_top,
        radius=1.35,
        height=1.0,
        target=0.08,
        focal=0.85,
        far=6.0,
        box=Box((-1.1, -1.1, -0.1), (1.1, 1.1, 0.6)),
        background=Background("colour", BEHIND),
    ),
}
