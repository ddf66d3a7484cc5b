"""The tracer of the analytic scenes: exact hits, colours, visibility and correspondences, vectorised over rays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import hypot, inf, nan

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rayprior.maths.poses import rotation_from_vector
from rayprior.maths.space import Box
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.synthetic.shading import RGB, Lighting, Material, fresnel, highlight, reflected
from rayprior.scenes.synthetic.shapes import Shape, dot

OFFSET = 1e-4  # secondary rays start this far above the surface: above float32's error, below a pixel
MANY = 6  # objects that rays are first asked about all at once
ROUNDING = 1e-5  # of squared lengths of a few units in float32
SAME_POINT = 1e-5  # a camera sees a point when its first hit is no nearer than this


@dataclass(frozen=True)
class Object:
    """A shape of some material somewhere. turn_deg: rotation vector (axis times angle). backdrop: walls and ground,
    which enclose the scene and are no part of its box."""

    name: str
    shape: Shape
    material: Material
    at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    backdrop: bool = False

    def rotation(self) -> Float[Tensor, "3 3"]:
        """The object's own axes -> world, float64."""
        return _rotation(self.turn_deg)

    def to_own(self, points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        return self.turn_to_own(points - points.new_tensor(self.at))

    def turn_to_own(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        return directions @ self.rotation().to(directions) if any(self.turn_deg) else directions

    def turn_to_world(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        return directions @ self.rotation().to(directions).T if any(self.turn_deg) else directions

    def hit(self, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r"]:
        """Distance to the surface, from outside or inside; inf where missed."""
        enter, leave = self.shape.interval(self.to_own(origins), self.turn_to_own(directions))
        first = torch.where(enter > 0, enter, leave)
        return torch.where((enter <= leave) & (first > 0), first, inf)

    def box(self) -> Box:
        """Axis-aligned box in world axes; exact for cuboids, holds the shape otherwise."""
        half = torch.tensor(self.shape.half, dtype=torch.float64)
        turned = self.rotation().abs()
        reach = torch.where(turned > 1e-12, turned * half, 0.0).sum(dim=1).tolist()
        x, y, z = ((c - r, c + r) for c, r in zip(self.at, reach, strict=True))
        return Box((x[0], y[0], z[0]), (x[1], y[1], z[1]))


@lru_cache
def _rotation(turn_deg: tuple[float, float, float]) -> Float[Tensor, "3 3"]:
    return rotation_from_vector(torch.deg2rad(torch.tensor([turn_deg], dtype=torch.float64)))[0]


@dataclass(frozen=True)
class World:
    """Objects, light, and what is behind: a known colour, or None where the objects enclose everything."""

    objects: tuple[Object, ...]
    lighting: Lighting = field(default_factory=Lighting)
    background: RGB | None = (1.0, 1.0, 1.0)

    def box(self, *, backdrop: bool = False) -> Box:
        """The tight box around the objects; with or without what encloses them."""
        boxes = [o.box() for o in self.objects if backdrop or not o.backdrop]
        low = torch.tensor([b.low for b in boxes]).amin(dim=0).tolist()
        high = torch.tensor([b.high for b in boxes]).amax(dim=0).tolist()
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    @cached_property
    def _reach(self) -> Box:
        """A little more than all objects: rays that miss it miss everything."""
        return _grown(self.box(backdrop=True))

    @cached_property
    def _groups(self) -> tuple[tuple[Box, tuple[int, ...]], ...]:
        """Objects by the box that holds them: those that are no backdrop apart, where there are both."""
        within = tuple(i for i, o in enumerate(self.objects) if not o.backdrop)
        if len(within) in (0, len(self.objects)):
            return ((self._reach, tuple(range(len(self.objects)))),)
        around = tuple(i for i, o in enumerate(self.objects) if o.backdrop)
        return ((self._reach, around), (_grown(self.box()), within))


def _grown(box: Box) -> Box:
    low, high = [x - OFFSET for x in box.low], [x + OFFSET for x in box.high]
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


@dataclass(frozen=True, eq=False)
class Hit:
    """What rays meet first. Where they miss: distance inf, normal nan, object -1, albedo nan, lit False.

    distance  along the unit direction
    normal    unit, facing the ray's origin
    object    position in `world.objects`
    albedo    the texture's colour
    lit       which lights reach the point: it faces them and nothing stands between
    rgb       in [0, 1]; the background where missed (the sky in that direction where the background is None)
    """

    distance: Float[Tensor, "r"]
    normal: Float[Tensor, "r 3"]
    object: Int[Tensor, "r"]
    albedo: Float[Tensor, "r 3"]
    lit: Bool[Tensor, "r lights"]
    rgb: Float[Tensor, "r 3"]

    @property
    def found(self) -> Bool[Tensor, "r"]:
        return self.object >= 0


def nearest(
    world: World, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]
) -> tuple[Float[Tensor, "r"], Int[Tensor, "r"]]:
    """(distance to the first surface, inf where none; index of its object, -1 where none)."""
    distance = torch.full_like(origins[:, 0], inf)
    which = torch.full(distance.shape, -1)
    for box, objects in world._groups:
        enter, leave = box.hit(origins, directions)
        near = ((enter <= leave) & (leave > 0)).nonzero()[:, 0]  # of a picture before white, about half
        from_near, towards = origins.index_select(0, near), directions.index_select(0, near)
        first, thing = distance.index_select(0, near), which.index_select(0, near)
        for index, at in _passing(world, objects, from_near, towards):
            reached = world.objects[index].hit(from_near.index_select(0, at), towards.index_select(0, at))
            before = first.index_select(0, at)
            closer = reached < before
            first.index_copy_(0, at, torch.where(closer, reached, before))
            thing.index_copy_(0, at, torch.where(closer, index, thing.index_select(0, at)))
        distance, which = distance.index_copy(0, near, first), which.index_copy(0, near, thing)
    return distance, which


def _passing(
    world: World, objects: tuple[int, ...], origins: Tensor, directions: Tensor
) -> Iterator[tuple[int, Int[Tensor, "n"]]]:
    """Each object, and which rays may meet it: those that pass through the ball around it. A few objects are not worth
    the asking."""
    if len(objects) < MANY:
        everything = torch.arange(len(origins))
        yield from ((index, everything) for index in objects)
        return
    centre = origins.new_tensor([world.objects[i].at for i in objects])
    reach = origins.new_tensor([hypot(*world.objects[i].shape.half) for i in objects])
    ahead = centre @ directions.T - dot(origins, directions)  # (objects, rays)
    apart = dot(centre, centre)[:, None] - 2 * centre @ origins.T + dot(origins, origins)
    passes = apart - ahead.square() <= (reach.square() + ROUNDING)[:, None]
    yield from ((index, rays.nonzero()[:, 0]) for index, rays in zip(objects, passes, strict=True))


def trace(world: World, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]) -> Hit:
    """What unit rays meet first, and its colour; in the precision of the rays."""
    sky = world.lighting.sky.towards(directions)
    behind = sky if world.background is None else origins.new_tensor(world.background).expand_as(origins)
    return _trace(world, origins, directions, behind, bounces=1)


def _trace(world: World, origins: Tensor, directions: Tensor, behind: Tensor, bounces: int) -> Hit:
    """`behind`: the colour of rays that miss."""
    distance, which = nearest(world, origins, directions)
    met = (which >= 0).nonzero()[:, 0]
    towards = directions.index_select(0, met)
    points = torch.addcmul(origins.index_select(0, met), towards, distance.index_select(0, met)[:, None])
    surface = _surface(world, which.index_select(0, met), points, towards)
    rgb, lit = _shade(world, points, towards, surface, bounces)
    nowhere = torch.full_like(origins, nan)
    no_light = torch.zeros(len(origins), lit.shape[1], dtype=torch.bool)
    return Hit(
        distance=distance,
        normal=nowhere.index_copy(0, met, surface.normal),
        object=which,
        albedo=nowhere.index_copy(0, met, surface.albedo),
        lit=no_light.index_copy(0, met, lit),
        rgb=behind.index_copy(0, met, rgb.clamp(0, 1)),
    )


@dataclass(frozen=True, eq=False)
class _Surface:
    normal: Float[Tensor, "r 3"]
    albedo: Float[Tensor, "r 3"]
    gloss: Float[Tensor, "r 3"]  # specular, shininess, mirror


def _surface(world: World, which: Tensor, points: Tensor, directions: Tensor) -> _Surface:
    """Normal, albedo and gloss of points on known objects."""
    normal, albedo, gloss = torch.empty_like(points), torch.empty_like(points), torch.empty_like(points)
    for index, thing in enumerate(world.objects):
        mine = (which == index).nonzero()[:, 0]
        if len(mine) == 0:
            continue
        own = thing.to_own(points.index_select(0, mine))
        normal[mine] = thing.turn_to_world(thing.shape.normal(own))
        material = thing.material
        albedo[mine] = material.texture.colour(thing.shape.chart(own), own)
        gloss[mine] = points.new_tensor([material.specular, material.shininess, material.mirror])
    away = dot(normal, directions)[:, None] > 0
    return _Surface(torch.where(away, -normal, normal), albedo, gloss)


def _shade(
    world: World, points: Tensor, directions: Tensor, surface: _Surface, bounces: int
) -> tuple[Float[Tensor, "r 3"], Bool[Tensor, "r lights"]]:
    """Ambient + Lambert + Blinn-Phong from every light that reaches the point, and one mirror bounce."""
    normal, specular, shininess, mirror = surface.normal, *surface.gloss.unbind(dim=1)
    above = points + OFFSET * normal
    sky = world.lighting.sky
    rgb = surface.albedo * sky.ambient * sky.towards(normal)
    lit = []
    for light in world.lighting.lights:
        towards, reach, arriving = light.at(points)
        cosine = dot(normal, towards)
        reached = (cosine > 0) & ~_blocked(world, above, towards, reach)
        shine = specular * highlight(directions, normal, towards, shininess)
        scattered = surface.albedo * cosine[:, None] + shine[:, None]
        rgb = torch.where(reached[:, None], rgb + arriving * scattered, rgb)
        lit.append(reached)
    lit = torch.stack(lit, dim=1) if lit else torch.zeros(len(points), 0, dtype=torch.bool)
    shiny = (mirror > 0).nonzero()[:, 0]
    if bounces and len(shiny):
        bounced = reflected(directions[shiny], normal[shiny])
        seen = _trace(world, above[shiny], bounced, sky.mirrored(bounced), bounces - 1).rgb
        share = fresnel(directions[shiny], normal[shiny], mirror[shiny])[:, None]
        rgb = rgb.index_copy(0, shiny, torch.lerp(rgb[shiny], seen, share))
    return rgb, lit


def _blocked(world: World, origins: Tensor, towards: Tensor, reach: Tensor) -> Bool[Tensor, "r"]:
    """Whether anything stands between points and a light at distance `reach`."""
    blocked = torch.zeros(len(origins), dtype=torch.bool)
    for box, objects in world._groups:
        enter, leave = box.hit(origins, towards)
        near = ((enter <= leave) & (leave > 0) & ~blocked).nonzero()[:, 0]
        from_near, way, until = (x.index_select(0, near) for x in (origins, towards, reach))
        hidden = torch.zeros(len(near), dtype=torch.bool)
        for index, at in _passing(world, objects, from_near, way):
            reached = world.objects[index].hit(from_near.index_select(0, at), way.index_select(0, at))
            hidden.index_copy_(0, at, hidden.index_select(0, at) | (reached < until.index_select(0, at)))
        blocked = blocked.index_copy(0, near, hidden)
    return blocked


# -- pictures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class View:
    """A picture and all that is true of it. rgba: means over the pixel's area, straight alpha; the rest: pixel centres.

    distance is nan where missed, normal nan, object -1.
    """

    rgba: Float[Tensor, "h w 4"]
    distance: Float[Tensor, "h w"]
    normal: Float[Tensor, "h w 3"]
    object: Int[Tensor, "h w"]

    def mask(self, index: int) -> Bool[Tensor, "h w"]:
        """Pixels whose centre shows the object of this index."""
        return self.object == index


def view_hit(world: World, cameras: Cameras, index: int) -> Hit:
    """The hit of every pixel centre of one camera, row by row, float64."""
    return _through(world, cameras, index, cameras.pixel_grid(index), torch.float64)


def photograph(world: World, cameras: Cameras, index: int, *, supersample: int = 3) -> View:
    """What one camera sees. Colour and coverage average supersample x supersample rays a pixel."""
    width, height = cameras.size[index].tolist()
    grid = cameras.pixel_grid(index)
    origins, directions = _rays(cameras, index, grid, torch.float64)
    distance, which = nearest(world, origins, directions)
    met = (which >= 0).nonzero()[:, 0]
    points = origins[met] + directions[met] * distance[met, None]
    surface = _surface(world, which[met], points, directions[met])  # no light: centres give no colour
    steps = (torch.arange(supersample) + 0.5) / supersample - 0.5
    shift = torch.cartesian_prod(steps, steps).view(-1, 2)
    pixel = (grid[:, None] + shift).view(-1, 2)
    fine = _through(world, cameras, index, pixel, torch.float32)
    cover = torch.ones_like(fine.found) if world.background is None else fine.found
    cover = cover.float().view(-1, supersample**2, 1)
    alpha = cover.mean(dim=1)
    rgb = (fine.rgb.view(-1, supersample**2, 3) * cover).mean(dim=1) / alpha.clamp_min(1e-9)
    return View(
        rgba=torch.cat([rgb, alpha], dim=1).view(height, width, 4),
        distance=torch.where(which >= 0, distance, nan).view(height, width),
        normal=torch.full_like(origins, nan).index_copy(0, met, surface.normal).view(height, width, 3),
        object=which.view(height, width),
    )


def _through(world: World, cameras: Cameras, index: int, pixel: Tensor, dtype: torch.dtype) -> Hit:
    return trace(world, *_rays(cameras, index, pixel, dtype))


def _rays(cameras: Cameras, index: int, pixel: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    camera = torch.full((len(pixel),), index)
    origins = cameras.origins[index].to(dtype).expand(len(pixel), 3)
    return origins, cameras.directions(camera, pixel).to(dtype)


# -- what cameras share ------------------------------------------------------------------------------------------------


def visible(
    world: World, points: Float[Tensor, "r 3"], cameras: Cameras, index: int
) -> tuple[Float[Tensor, "r 2"], Bool[Tensor, "r"]]:
    """Pixels of points in one camera, and whether it sees them: in front, inside the picture, nothing before them."""
    camera = torch.full((len(points),), index)
    pixel, distance, inside = cameras.project(points, camera)
    directions = (points.double() - cameras.origins[camera]) / distance[:, None]
    first, _ = nearest(world, cameras.origins[camera], directions)
    return pixel, inside & (first >= distance - SAME_POINT)


def correspondences(
    world: World, cameras: Cameras, i: int, j: int, pixels: Float[Tensor, "r 2"]
) -> tuple[Float[Tensor, "r 2"], Bool[Tensor, "r"]]:
    """Where camera j sees what camera i sees at `pixels`; visible is False (and the pixel nan) where nothing is there,
    and False where the point is behind camera j, outside its picture, or hidden."""
    camera = torch.full((len(pixels),), i)
    origins, directions = cameras.origins[camera], cameras.directions(camera, pixels)
    distance, which = nearest(world, origins, directions)
    points = origins + directions * torch.where(which >= 0, distance, nan)[:, None]
    return visible(world, points, cameras, j)
