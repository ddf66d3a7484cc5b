"""Compositing: density and colour along a ray -> what the ray saw. One level of one field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from rayprior.fields.codes import Code, TransientMedium
from rayprior.fields.field import Field
from rayprior.fields.space import Space
from rayprior.kernels.composite import composite
from rayprior.maths import stepfun
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Rays

FAINT = 1e-3  # opacity below which a ray's mean feature fades to zero, rather than being a quotient of nothings
UNSEEN = 1e-4


@dataclass(frozen=True)
class Compositing:
    """Options by which faithful recipes leave the house's conventions.

    at           where in its bin a sample is evaluated
    opaque_tail  the last bin's alpha is 1 wherever its density is positive (the original's interval of 1e10);
                 wants a ReLU density, or a closed space: with softplus every ray ends opaque
    media        how two media share a bin. split: its weight by their densities; alphas: each by its own alpha under
                 the light that reaches the bin (NeRF-W, eq. 5), which together may be more than the bin's weight
    """

    at: Literal["middle", "left"] = "middle"
    opaque_tail: bool = False
    media: Literal["split", "alphas"] = "split"


def render_level(
    field: Field,
    rays: Rays,
    t: Float[Tensor, "r S+1"],
    space: Space,
    how: Compositing,
    generator: Generator | None = None,
    coarse: Rendering | None = None,
    code: Code | None = None,
    medium: TransientMedium | None = None,
) -> Rendering:
    """Render a field on given bin edges; `coarse` is the level that proposed them.

    code    of the rays' photographs, which colour depends on
    medium  what stands in these photographs alone, rendered together with the field
    """
    density, feature, lengths = _met(field, rays, t, space, how, generator, code)
    light = code.appearance if code is not None and code.appearance.shape[1] else None
    if field.deferred:
        values = feature
    else:
        directions = rays.directions[:, None].expand(-1, density.shape[1], -1)
        spread = None if light is None else light[:, None].expand(-1, density.shape[1], -1)
        values = field.colour(feature, directions, spread)
    transient = std = None
    if medium is None or code is None:
        weights, opacity, seen = composite(density, lengths, values, how.opaque_tail)
        solid, other = opacity, 0.0
    else:
        second, colour, claimed = medium(feature, code)
        share, other_share = (x[..., None] for x in shares(density, second, lengths, how.media))
        density = density + second
        parts = [share * values, share, other_share * colour, other_share * claimed[..., None]]
        weights, opacity, sums = composite(density, lengths, torch.cat(parts, dim=-1), how.opaque_tail)
        seen, solid, other, claimed = sums.split([values.shape[-1], 1, 3, 1], dim=1)
        solid, transient, std = solid[:, 0], second, claimed[:, 0] + medium.least_std
    if field.deferred:
        mean = seen / (solid[:, None] + FAINT)  # the colour of what was seen must not depend on how much of it was
        seen = field.colour(mean, rays.directions, light) * solid[:, None]
    front = seen if code is None else code.light(seen, solid)
    rgb = front + other + (1 - opacity)[:, None] * rays.background
    if space.kind == "ndc":  # density per working unit, so that optical depth = density x width holds in t
        scale = lengths / (t[:, 1:] - t[:, :-1]).clamp_min(1e-9)
        density, transient = density * scale, None if transient is None else transient * scale
    return Rendering(rgb, RayDistribution(t, weights), density, coarse, code, transient, std)


def _met(
    field: Field,
    rays: Rays,
    t: Tensor,
    space: Space,
    how: Compositing,
    generator: Generator | None,
    code: Code | None,
) -> tuple[Float[Tensor, "r S"], Float[Tensor, "r S f"], Float[Tensor, "r S"]]:
    """Density, feature and length of each bin."""
    if how.at == "left":
        points = t[:, :-1]
    else:  # the middle in the coordinate that lengths are measured in
        middles = stepfun.midpoints(space.along(t, rays.origins, rays.directions))
        points = space.distances(middles, rays.origins, rays.directions)
    which = () if code is None or code.latent is None else (code.latent,)
    density, feature = field.density(rays.at(points), generator, *which)
    return density, feature, space.lengths(t, rays.origins, rays.directions)


@dataclass(frozen=True, eq=False)
class Unlit:
    """What rays saw, but for the light: density sees no code, so this is the same in every photograph's light.

    ray      of each sample that counts; one a ray where the field is deferred
    feature, weight  of these samples
    opacity  of each ray
    """

    rays: Rays
    ray: Int[Tensor, "n"]
    feature: Float[Tensor, "n f"]
    weight: Float[Tensor, "n"]
    opacity: Float[Tensor, "r"]

    def lit(self, field: Field, code: Code) -> Float[Tensor, "r 3"]:
        """The rays' colours in the light of their codes, on their background."""
        light = code.appearance[self.ray] if code.appearance.shape[1] else None
        colour = field.colour(self.feature, self.rays.directions[self.ray], light)
        seen = torch.zeros_like(self.rays.background).index_add(0, self.ray, self.weight[:, None] * colour)
        return code.light(seen, self.opacity) + (1 - self.opacity)[:, None] * self.rays.background


def unlit(
    field: Field, rays: Rays, t: Float[Tensor, "r S+1"], space: Space, how: Compositing, code: Code | None
) -> Unlit:
    """What is left of `render_level` for every light. Samples of less than `UNSEEN` of their ray's weight are left
    out: one changes no colour by more than a fortieth of a grey level."""
    density, feature, lengths = _met(field, rays, t, space, how, None, code)
    weights, opacity, seen = composite(density, lengths, feature, how.opaque_tail)
    if field.deferred:
        return Unlit(
            rays, torch.arange(len(rays), device=t.device), seen / (opacity[:, None] + FAINT), opacity, opacity
        )
    counts = weights > UNSEEN
    return Unlit(rays, counts.nonzero()[:, 0], feature[counts], weights[counts], opacity)


def shares(
    first: Float[Tensor, "r S"], second: Float[Tensor, "r S"], lengths: Float[Tensor, "r S"], media: str
) -> tuple[Float[Tensor, "r S"], Float[Tensor, "r S"]]:
    """What part of each bin's weight is of the first medium, and of the second, by their densities."""
    if media == "split":
        share = first / (first + second).clamp_min(stepfun.TINY)
        return share, 1 - share
    both = -torch.expm1(-(first + second) * lengths).clamp_max(-stepfun.TINY)
    return torch.expm1(-first * lengths) / -both, torch.expm1(-second * lengths) / -both
