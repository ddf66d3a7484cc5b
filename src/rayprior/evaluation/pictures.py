"""Pictures: a whole view as a model sees it, and how distance and error become colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import cos, pi, sin
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rayprior.evaluation.metrics import weight_in_front
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.rays import Rays
from rayprior.scenes.scene import Scene

ERROR_SCALE = 0.25  # the mean absolute error that error maps show as their brightest colour
SURFACE = 0.5  # a ray of less opacity than this met no surface
PROBE_RAYS = 4096  # rays of a path from which the range of shown distances is taken

Ramp = Literal["distance", "error"]


class Renders(Protocol):
    """All that evaluation asks of a model."""

    def render_in_chunks(self, rays: Rays, chunk: int = 8192) -> Iterator[Rendering]: ...


@dataclass(frozen=True, eq=False)
class Picture:
    """A view. distance is the median along the ray, working units; in_front: weight in front of .9 of a known surface,
    nan where none is known."""

    rgb: Float[Tensor, "h w 3"]
    distance: Float[Tensor, "h w"]
    opacity: Float[Tensor, "h w"]
    in_front: Float[Tensor, "h w"] | None = None


def render_picture(
    model: Renders, rays: Rays, size: tuple[int, int], surface: Float[Tensor, "hw"] | None = None
) -> Picture:
    """Render all rays of one view of (width, height), row by row. `surface`: its true distances, where known."""
    rgb, distance, opacity, in_front = [], [], [], []
    start = 0
    with torch.no_grad():
        for part in model.render_in_chunks(rays):
            rgb.append(part.rgb.cpu())
            distance.append(part.distance.cpu())
            opacity.append(part.opacity.cpu())
            if surface is not None:
                known = surface[start : start + len(part)].to(part.rgb.device)
                in_front.append(weight_in_front(part.distribution, known).cpu())
            start += len(part)
    width, height = size
    return Picture(
        torch.cat(rgb).clamp(0, 1).view(height, width, 3),
        torch.cat(distance).view(height, width),
        torch.cat(opacity).view(height, width),
        torch.cat(in_front).view(height, width) if in_front else None,
    )


def render_camera(
    model: Renders, scene: Scene, cameras: Cameras, index: int, background: Sequence[float] | None = None
) -> Picture:
    """The picture of one of `cameras` (working units), which need not be the scene's."""
    pixel = cameras.pixel_grid(index)
    camera = torch.full((len(pixel),), index)
    rays = on_background(scene, background).rays(camera, pixel, cameras=cameras)
    width, height = cameras.size[index].tolist()
    return render_picture(model, rays, (width, height))


def on_background(scene: Scene, colour: Sequence[float] | None) -> Scene:
    """The scene with a known background shown as `colour`; by default its own colour, white where it is random.

    A scene of unknown background stays one: there the colour only fills what the model leaves empty.
    """
    kind = scene.background.kind
    if colour is None:
        colour = (1.0, 1.0, 1.0) if kind == "random" else scene.background.colour
    red, green, blue = colour
    return scene.with_background(type(scene.background)("none" if kind == "none" else "colour", (red, green, blue)))


# -- numbers to colours ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """The distances, working units, that a picture of distance shows: near is bright, far is dark."""

    near: float
    far: float

    def brightness(self, distance: Float[Tensor, "*p"]) -> Float[Tensor, "*p"]:
        """1 at near, 0 at far, even in inverse distance, so that near things have most of the shades."""
        near, far = 1 / self.near, 1 / self.far
        return ((1 / distance.clamp_min(1e-9) - far) / max(near - far, 1e-12)).clamp(0, 1)

    @staticmethod
    def of(distance: Float[Tensor, "*p"], opacity: Float[Tensor, "*p"]) -> Span:
        """From the 1st to the 99th percentile of the surfaces, a little widened; of everything where there is none."""
        solid = distance[opacity > SURFACE] if (opacity > SURFACE).any() else distance.flatten()
        low, high = np.quantile(solid.double().numpy(), (0.01, 0.99)).tolist()
        low = max(low, 1e-6)
        return Span(low * 0.97, max(high, low) * 1.03)


def span_of_path(model: Renders, scene: Scene, cameras: Cameras) -> Span:
    """One span for all frames of a path, from a few thousand rays spread over it."""
    camera = torch.arange(PROBE_RAYS) * len(cameras) // PROBE_RAYS
    share = torch.rand(PROBE_RAYS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rays = scene.rays(camera, share * cameras.size[camera], cameras=cameras)
    picture = render_picture(model, rays, (PROBE_RAYS, 1))
    return Span.of(picture.distance, picture.opacity)


def distance_colours(picture: Picture, span: Span) -> UInt8[np.ndarray, "h w 3"]:
    """Distance in colour; what is see-through fades to black."""
    shade = span.brightness(picture.distance)
    colour = ramp("distance")[(shade * 255).round().long().numpy()] * picture.opacity.clamp(0, 1)[:, :, None].numpy()
    return np.rint(colour).astype(np.uint8)


def error_colours(rendering: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Mean absolute difference of the channels: 0 is dark, `ERROR_SCALE` and more is brightest."""
    error = (rendering - truth).abs().mean(dim=2)
    return ramp("error")[((error / ERROR_SCALE).clamp(0, 1) * 255).round().long().numpy()]


def grey(share: Float[Tensor, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """A share from 0 (black) to 1 (white)."""
    return to_bytes(share[:, :, None].expand(-1, -1, 3))


def to_bytes(picture: Float[Tensor, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """[0, 1] -> 0..255, rounded; nan is black."""
    return (picture.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()


@cache
def ramp(kind: Ramp) -> UInt8[np.ndarray, "256 3"]:
    """Colours of evenly rising lightness, so that equal steps look equal; also to who cannot tell hues apart.

    A curve in Oklch (Ottosson 2020): lightness straight up, hue from indigo by teal to straw for distance, from plum by
    red to cream for error.
    """
    hues, chroma = {"distance": ((285.0, 95.0), 0.13), "error": ((330.0, 95.0), 0.15)}[kind]
    turn = hues[1] - hues[0] if kind == "distance" else hues[1] + 360 - hues[0]
    low, high = (0.16, 0.96) if kind == "distance" else (0.10, 0.97)
    rows = []
    for step in range(256):
        s = step / 255
        c = chroma * sin(pi * min(max(s, 0.08), 0.90)) ** 0.6
        rows.append(_srgb_from_oklch(low + (high - low) * s, c, hues[0] + turn * s))
    table = (np.array(rows) * 255).round().astype(np.uint8)
    table.flags.writeable = False  # it is shared
    return table


def _srgb_from_oklch(lightness: float, chroma: float, hue_deg: float) -> tuple[float, ...]:
    """Oklch -> sRGB; colours outside sRGB lose chroma until they fit, so that their lightness stays."""
    while True:
        a, b = chroma * cos(hue_deg * pi / 180), chroma * sin(hue_deg * pi / 180)
        long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
        medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
        short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
        linear = (
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        )
        if chroma < 1e-3 or all(-1e-4 <= x <= 1 + 1e-4 for x in linear):
            return tuple(_gamma(min(max(x, 0.0), 1.0)) for x in linear)
        chroma *= 0.95


def _gamma(x: float) -> float:
    return 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055
