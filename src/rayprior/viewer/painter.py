"""Painter: a view of a model -> a picture, at a size that fits a given time. Knows no page and no browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log2
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from rayprior.descriptors.matching import HEAT_WIDTH, at, heat_map
from rayprior.evaluation.match_pictures import heat_frame
from rayprior.evaluation.pictures import Renders, Span, on_background, ramp, to_bytes
from rayprior.maths.space import Box, Similarity
from rayprior.rendering.refined import Refined
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.rays import Rays
from rayprior.scenes.scene import Scene

Layer = Literal["colour", "depth", "opacity", "entropy", "uncertainty", "match"]
Describe = Callable[[Float[Tensor, "h w 3"]], Float[Tensor, "h w d"]]  # a picture in [0, 1] -> its descriptors
CHUNK = 4096  # rays between two questions whether the picture is still wanted
SMALLEST = 16 * 12  # pixels of the coarsest picture
UNCERTAIN = 0.2  # the deviation, as a share of the distance, that uncertainty shows as its brightest colour
SURFACE = 0.5  # a ray of less opacity than this hides nothing
NOTHING = 2e-3  # an interval as short as this meets nothing: rays past the scene's box are given one of 1e-3
NEAREST = 0.05  # of `near`, where a view comes closer than any photograph
RECENT = 0.3  # weight of the last picture in the measured speed
PIXELS_A_RAY = 3  # for each ray rendered so many pixels count as painted, or a crop would make the next one too large
FIRST_RATE = 5000.0  # pixels a second, until one picture was timed
MOST_DESCRIBED = 512  # pixels a side of a picture that is described
WARM_UP = ((8, 6), (64, 48))  # pictures: the first loads the kernels, the second is timed


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole view in working units: pose (camera-to-world, OpenCV axes), vertical field of view, width / height."""

    c2w: Float[Tensor, "3 4"]
    fov_deg: float
    aspect: float

    def camera(self, size: tuple[int, int]) -> Cameras:
        """This view in a picture of (width, height)."""
        width, height = size
        focal = height / 2 / float(np.tan(np.deg2rad(self.fov_deg) / 2))
        return Cameras(
            c2w=self.c2w.double()[None],
            focal_px=torch.tensor([[focal, focal]], dtype=torch.float64),
            centre_px=torch.tensor([[width / 2, height / 2]], dtype=torch.float64),
            size=torch.tensor([[width, height]]),
        )


@dataclass(frozen=True, eq=False)
class Picked:
    """A point of a view that somebody pointed at: (u, v) as shares of its width and height."""

    view: View
    u: float
    v: float


@dataclass(frozen=True)
class Look:
    """What of the field is shown: a layer, what is cut away (a box in shown coordinates), the photo (position in the
    scene) whose appearance it takes, -1 for none, and the point that layer 'match' compares with."""

    layer: Layer = "colour"
    crop: Box | None = None
    photo: int = -1
    picked: Picked | None = None


@dataclass(frozen=True, eq=False)
class Painted:
    """A picture: colours, what they mean in words, and depth (z, working units; infinite where nothing is hidden)."""

    rgb: UInt8[np.ndarray, "h w 3"]
    legend: str
    depth: Float[np.ndarray, "h w"]
    seconds: float

    @property
    def size(self) -> tuple[int, int]:
        return self.rgb.shape[1], self.rgb.shape[0]


def shown_axes(scene: Scene) -> Similarity:
    """Working units -> what is shown: the capture's own axes, the focus as origin, lengths in working units.

    The capture's own lengths may be millimetres or kilometres, which a browser's float32 and depth buffer can't hold.
    """
    turn = torch.tensor(scene.similarity.inverse().rotation, dtype=torch.float64)
    return Similarity.of(1.0, turn, -turn @ scene.focus.double())


class Painter:
    """Paints views of one model. `rate` is its measured speed, pixels a second, from which sizes follow."""

    def __init__(
        self,
        model: Renders,
        scene: Scene,
        clock: Callable[[], float] = time.perf_counter,
        describe: Describe | None = None,
    ) -> None:
        """describe: what layer 'match' knows pixels by."""
        self.refined = model if isinstance(model, Refined) else None
        self.model = model.model if isinstance(model, Refined) else model
        self.scene = on_background(scene, None)
        self.to_shown = shown_axes(scene)
        self.rate = FIRST_RATE
        self._clock = clock
        self._describe = describe
        self._query: tuple[Look, Tensor] | None = None  # the last point that was asked for, and its descriptor

    def size(self, view: View, seconds: float, most: int) -> tuple[int, int]:
        """(width, height) of a picture that takes about `seconds`, of at most `most` pixels and the view's aspect."""
        pixels = min(max(self.rate * seconds, SMALLEST), most)
        height = max(round((pixels / view.aspect) ** 0.5), 1)
        return max(round(height * view.aspect), 1), height

    def paint(
        self, view: View, size: tuple[int, int], look: Look, going: Callable[[], bool] = lambda: True
    ) -> Painted | None:
        """The picture of (width, height), or None once `going()` says that it is wanted no more."""
        begun = self._clock()
        cameras = view.camera(size)
        pixel = cameras.pixel_grid(0)
        rays = self._scene_for(view).rays(torch.zeros(len(pixel), dtype=torch.long), pixel, cameras=cameras)
        if look.photo >= 0:
            rays = replace(rays, camera=torch.full_like(rays.camera, look.photo))
        if look.crop is not None:
            rays = self._cut(rays, look.crop)
        meets = (rays.far - rays.near > NOTHING).nonzero()[:, 0]  # the others see the background
        coloured = look.layer in ("colour", "match")
        value = rays.background.clone() if coloured else torch.zeros(len(rays))
        opacity, distance = torch.zeros(len(rays)), torch.full((len(rays),), torch.inf)
        parts = []
        for part in self.model.render_in_chunks(rays[meets], CHUNK):
            if not going():
                return None
            parts.append([x.float().cpu() for x in (_value(part, look.layer), part.opacity, part.distance)])
        if parts:
            value[meets], opacity[meets], distance[meets] = (torch.cat(column) for column in zip(*parts))
        hidden = torch.where(opacity > SURFACE, distance, torch.inf)
        depth = hidden * cameras.axis_cosine(torch.zeros(len(pixel), dtype=torch.long), pixel).float()
        width, height = size
        if coloured and self.refined is not None:
            picture = value.view(1, height, width, 3).movedim(3, 1).to(self.refined.device).clamp(0, 1)
            value = self.refined.refined(picture).cpu().movedim(1, 3).reshape(-1, 3)
        span = Span.of(distance[meets], opacity[meets]) if look.layer == "depth" and len(meets) else Span(1.0, 2.0)
        seconds = self._clock() - begun
        if look.layer == "match":
            rgb = self._matched(value.view(height, width, 3).clamp(0, 1), view, look)
        else:
            rgb = _colours(value, opacity, look.layer, span).reshape(height, width, 3)
        if len(meets) >= SMALLEST:
            pixels = min(len(rays), PIXELS_A_RAY * len(meets))
            self.rate = (1 - RECENT) * self.rate + RECENT * pixels / max(seconds, 1e-6)
        return Painted(rgb, self._legend(look.layer, span), depth.view(height, width).numpy(), seconds)

    def _matched(self, picture: Float[Tensor, "h w 3"], view: View, look: Look) -> UInt8[np.ndarray, "h w 3"]:
        """The heat map of the picked point over a picture; a dim picture where none is picked."""
        query = self._picked_descriptor(look)
        if query is None:
            return heat_frame(picture, torch.zeros(picture.shape[:2]))
        assert self._describe is not None
        width, height = self._described_size(view)
        seen = _resized(picture, (height, width))
        heat = heat_map(self._describe(seen).cpu(), query)[:, :, None]
        return heat_frame(picture, _resized(heat, (picture.shape[0], picture.shape[1]))[:, :, 0])

    def _picked_descriptor(self, look: Look) -> Float[Tensor, "d"] | None:
        """Of the point that was picked, in the view that it was picked in; kept until another is picked."""
        picked = look.picked
        if picked is None or self._describe is None:
            return None
        if self._query is None or self._query[0] != look:
            size = self._described_size(picked.view)
            painted = self.paint(picked.view, size, replace(look, layer="colour", picked=None))
            assert painted is not None
            pixel = torch.tensor([[picked.u, picked.v]]) * torch.tensor(size)
            descriptors = self._describe(torch.from_numpy(painted.rgb.copy()).float() / 255)
            self._query = look, at(descriptors.cpu(), pixel)[0]
        return self._query[1]

    def _described_size(self, view: View) -> tuple[int, int]:
        """(width, height) at which things are as large as in the photographs, which is how a network knows them."""
        height = 2 * float(np.tan(np.deg2rad(view.fov_deg) / 2)) * float(self.scene.cameras.focal_px.median())
        height *= min(1.0, MOST_DESCRIBED / (height * max(1.0, view.aspect)))
        return max(round(height * view.aspect), 1), max(round(height), 1)

    def warm_up(self, view: View) -> None:
        """Load what the first picture needs, and measure the speed: 3,072 rays."""
        for size in WARM_UP:
            picture = self.paint(view, size, Look())
            assert picture is not None
            self.rate = size[0] * size[1] / max(picture.seconds, 1e-6)

    def _scene_for(self, view: View) -> Scene:
        """Near and far are the photographs'; a view that is nearer to the focus, or farther, than all of them has
        its own."""
        if not self.scene.inward:
            return self.scene
        away = (self.scene.cameras.origins - self.scene.focus).norm(dim=1)
        here = float((view.c2w[:, 3].double() - self.scene.focus).norm())
        approach, retreat = max(float(away.min()) - here, 0.0), max(here - float(away.max()), 0.0)
        bounds = self.scene.bounds
        near = max(bounds.near - approach, NEAREST * bounds.near)
        return replace(self.scene, bounds=replace(bounds, near=near, far=bounds.far + retreat))

    def _cut(self, rays: Rays, crop: Box) -> Rays:
        """Near and far where rays enter and leave the box."""
        turn = torch.tensor(self.to_shown.rotation, dtype=torch.float64)
        enter, leave = crop.hit(self.to_shown.points(rays.origins.double()), rays.directions.double() @ turn.T)
        near, far = torch.maximum(rays.near, enter.to(rays.near)), torch.minimum(rays.far, leave.to(rays.far))
        return replace(rays, near=near, far=far)

    def _legend(self, layer: Layer, span: Span) -> str:
        unit = self.scene.similarity.scale
        return {
            "colour": "colour",
            "depth": f"distance: bright {span.near / unit:.3g}, dark {span.far / unit:.3g} (the capture's unit)",
            "opacity": "share of the ray that is stopped: black 0, white 1",
            "entropy": "spread of where the ray ends: dark one bin, bright all bins alike",
            "match": f"exp(-distance / {HEAT_WIDTH:g}) to the picked point's descriptor: bright is the same",
            "uncertainty": f"deviation of where the ray ends: dark 0, bright {UNCERTAIN:.0%} of its distance and more",
        }[layer]


def _colours(value: Tensor, opacity: Tensor, layer: Layer, span: Span) -> UInt8[np.ndarray, "r 3"]:
    """A layer's values in colour; what is see-through fades to black."""
    if layer == "colour":
        return to_bytes(value[None])[0]
    if layer == "opacity":
        return to_bytes(value[None, :, None].expand(-1, -1, 3))[0]
    shade = span.brightness(value) if layer == "depth" else value
    shades = ramp("distance" if layer == "depth" else "error")
    colour = shades[(shade.nan_to_num(0).clamp(0, 1) * 255).round().long().numpy()]
    return np.rint(colour * opacity.clamp(0, 1)[:, None].numpy()).astype(np.uint8)


def _value(part: Rendering, layer: Layer) -> Tensor:
    """What a layer shows of each ray; entropy as a share of its largest, log2 of the bins."""
    ends = part.distribution
    if layer in ("colour", "match"):
        return part.rgb
    if layer == "depth":
        return part.distance
    if layer == "opacity":
        return part.opacity
    if layer == "entropy":
        return ends.entropy / log2(max(ends.w.shape[-1], 2))
    return ends.variance.clamp_min(0).sqrt() / ends.mean.clamp_min(1e-9) / UNCERTAIN


def _resized(picture: Float[Tensor, "h w c"], size: tuple[int, int]) -> Float[Tensor, "i j c"]:
    """At another (height, width), bilinear; averaged where it becomes smaller."""
    batch = picture.movedim(2, 0)[None]
    return F.interpolate(batch, size=size, mode="bilinear", antialias=True)[0].movedim(0, 2)
