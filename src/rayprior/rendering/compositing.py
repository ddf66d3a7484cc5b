"""Compositing: density and colour along a ray -> what the ray saw. One level of one field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Generator, Tensor

from rayprior.fields.field import Field
from rayprior.fields.space import Space
from rayprior.kernels.composite import composite
from rayprior.maths import stepfun
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Rays

FAINT = 1e-3  # opacity below which a ray's mean feature fades to zero, rather than being a quotient of nothings


@dataclass(frozen=True)
class Compositing:
    """Options by which faithful recipes leave the house's conventions.

    at           where in its bin a sample is evaluated
    opaque_tail  the last bin's alpha is 1 wherever its density is positive (the original's interval of 1e10);
                 wants a ReLU density, with softplus every ray would be opaque
    """

    at: Literal["middle", "left"] = "middle"
    opaque_tail: bool = False


def render_level(
    field: Field,
    rays: Rays,
    t: Float[Tensor, "r S+1"],
    space: Space,
    how: Compositing,
    generator: Generator | None = None,
    coarse: Rendering | None = None,
) -> Rendering:
    """Render a field on given bin edges; `coarse` is the level that proposed them."""
    if how.at == "left":
        points = t[:, :-1]
    else:  # the middle in the coordinate that lengths are measured in
        middles = stepfun.midpoints(space.along(t, rays.origins, rays.directions))
        points = space.distances(middles, rays.origins, rays.directions)
    density, feature = field.density(rays.at(points), generator)
    lengths = space.lengths(t, rays.origins, rays.directions)
    if field.deferred:
        weights, opacity, seen = composite(density, lengths, feature, how.opaque_tail)
        mean = seen / (opacity[:, None] + FAINT)  # the colour of what was seen must not depend on how much of it was
        front = field.colour(mean, rays.directions) * opacity[:, None]
    else:
        directions = rays.directions[:, None].expand(-1, points.shape[1], -1)
        weights, opacity, front = composite(density, lengths, field.colour(feature, directions), how.opaque_tail)
    rgb = front + (1 - opacity)[:, None] * rays.background
    if space.kind == "ndc":  # density per working unit, so that optical depth = density x width holds in t
        density = density * lengths / (t[:, 1:] - t[:, :-1]).clamp_min(1e-9)
    return Rendering(rgb, RayDistribution(t, weights), density, coarse)
