"""Augmentation: pictures changed so that their descriptors need not, and the pixels that follow.

Backgrounds, half turns and pasted pictures are those of Dense Object Nets (Florence et al., CoRL 2018); homographies
make pairs of one picture; colours are ours. Every draw is from the generator that is given in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import radians

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor

NOISE = 0.08  # standard deviation of a drawn background's noise, at most
CORNER = 0.2  # how far a homography moves a corner, at most, as a share of the picture's sides
TURN_DEG = 30.0  # how far it turns the picture then, at most: cameras that look at one thing are seldom on their side
EPSILON = 1e-9


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture in [0, 1], the object's mask where there is one, and some of its pixels.

    pixel  (u, v), centres at +0.5
    valid  whether a pixel still shows what it did: inside the picture, and not pasted over
    """

    picture: Float[Tensor, "3 h w"]
    mask: Bool[Tensor, "h w"] | None
    pixel: Float[Tensor, "m 2"]
    valid: Bool[Tensor, "m"]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.picture.shape[2], self.picture.shape[1]


def with_drawn_background(shown: Shown, generator: Generator) -> Shown:
    """Outside the mask a colour, or as likely a gradient between two at any angle, with noise. Needs a mask."""
    assert shown.mask is not None, "who asks for backgrounds has masks"
    width, height = shown.size
    draws = torch.rand(9, generator=generator)
    first, second = draws[:3, None, None], draws[3:6, None, None]
    flat, angle, amount = draws[6] < 0.5, 2 * torch.pi * draws[7], NOISE * draws[8]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    along = (torch.cos(angle) * x + torch.sin(angle) * y) / (torch.cos(angle).abs() + torch.sin(angle).abs())
    drawn = first if flat else torch.lerp(first, second, (along + 1) / 2)
    noisy = drawn + amount * torch.randn(3, height, width, generator=generator)
    return replace(shown, picture=torch.where(shown.mask, shown.picture, noisy.clamp(0, 1)))


def half_turned(shown: Shown) -> Shown:
    """Turned by 180 degrees."""
    width, height = shown.size
    turned = shown.pixel.new_tensor([width, height]) - shown.pixel
    mask = None if shown.mask is None else shown.mask.flip(0, 1)
    return replace(shown, picture=shown.picture.flip(1, 2), mask=mask, pixel=turned)


def jittered(shown: Shown, amount: float, generator: Generator) -> Shown:
    """Each channel times its own factor, all times one, and around the mean by another: 1 +- amount, uniformly."""
    gain = 1 + amount * (2 * torch.rand(5, generator=generator) - 1)
    lit = shown.picture * gain[:3, None, None] * gain[3]
    middle = lit.mean()
    return replace(shown, picture=(middle + gain[4] * (lit - middle)).clamp(0, 1))


# -- homographies ------------------------------------------------------------------------------------------------------


def drawn_homography(size: tuple[int, int], generator: Generator) -> Float[Tensor, "3 3"]:
    """(u, v, 1) -> (u', v', 1) up to scale, float64: each corner of a picture of (width, height) moves by up to
    `CORNER` of its sides, then all turns about the middle by up to `TURN_DEG`."""
    width, height = size
    corners = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64) * torch.tensor([width, height])
    moved = corners + CORNER * (2 * torch.rand(4, 2, generator=generator, dtype=torch.float64) - 1) * corners[2]
    angle = radians(TURN_DEG) * (2 * torch.rand((), generator=generator, dtype=torch.float64) - 1)
    cos, sin, middle = torch.cos(angle), torch.sin(angle), corners.mean(dim=0)
    turn = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])
    return homography_through(corners, (moved - middle) @ turn.T + middle)


def homography_through(a: Float[Tensor, "4 2"], b: Float[Tensor, "4 2"]) -> Float[Tensor, "3 3"]:
    """The homography that leads four points to four others; its last entry is 1."""
    one, zero = torch.ones(4, 1, dtype=a.dtype), torch.zeros(4, 3, dtype=a.dtype)
    u = torch.cat([a, one, zero, -b[:, :1] * a], dim=1)
    v = torch.cat([zero, a, one, -b[:, 1:] * a], dim=1)
    entries = torch.linalg.solve(torch.cat([u, v]), torch.cat([b[:, 0], b[:, 1]]))
    return torch.cat([entries, entries.new_ones(1)]).view(3, 3)


def moved_by(homography: Float[Tensor, "3 3"], pixel: Float[Tensor, "m 2"]) -> Float[Tensor, "m 2"]:
    """Where a homography leads pixels; nan where that is behind the picture's horizon."""
    x = pixel.to(homography) @ homography[:, :2].T + homography[:, 2]
    return (x[:, :2] / x[:, 2:].where(x[:, 2:] > EPSILON, torch.nan)).to(pixel)


def warped(shown: Shown, homography: Float[Tensor, "3 3"]) -> Shown:
    """The picture as the homography moves it, bilinear, its border continued; the mask's nearest pixel, nothing beyond
    the border. Pixels that leave the picture are not valid, and stay where they were."""
    width, height = shown.size
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    inverse = torch.linalg.inv(homography)
    came = moved_by(inverse / inverse[2, 2], torch.stack([u, v], dim=-1).view(-1, 2).double())
    grid = (came / torch.tensor([width, height]) * 2 - 1).nan_to_num(-2.0).float().view(1, height, width, 2)
    picture = F.grid_sample(shown.picture[None], grid, padding_mode="border", align_corners=False)[0]
    mask = shown.mask
    if mask is not None:
        mask = F.grid_sample(mask[None, None].float(), grid, mode="nearest", align_corners=False)[0, 0] > 0.5
    pixel = moved_by(homography, shown.pixel)
    inside = ((pixel >= 0) & (pixel < pixel.new_tensor([width, height]))).all(dim=1)
    return Shown(picture, mask, pixel.where(inside[:, None], shown.pixel), shown.valid & inside)


# -- several objects in one picture ------------------------------------------------------------------------------------


def pasted(front: Shown, back: Shown) -> Shown:
    """The object of one picture before another picture of the same size, and the pixels of both, the front's first;
    those of the back that it hides are no longer valid. Needs both masks."""
    assert front.mask is not None, "who asks for pasted pictures has masks"
    assert back.mask is not None
    column, row = back.pixel.long().unbind(dim=1)
    width, height = back.size
    hidden = front.mask[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return Shown(
        picture=torch.where(front.mask, front.picture, back.picture),
        mask=front.mask | back.mask,
        pixel=torch.cat([front.pixel, back.pixel]),
        valid=torch.cat([front.valid, back.valid & ~hidden]),
    )
