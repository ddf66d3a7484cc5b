"""Non-matches: pixels of the second picture that do not show what a pixel of the first shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from rayprior.errors import UserError

ROUNDS = 8  # of drawing anew what fell into the excluded disc; what is left after them does not count


@dataclass(frozen=True)
class NonMatching:
    """How non-matches are drawn: uniformly among the pixels of the object mask, and among those outside it.

    count     a match; those of Dense Object Nets are 150
    masked    the share of them that lies in the mask. Without a mask, or where it has no outside, all lie anywhere
    exclude_px, exclude_share   radius of the disc around the true match in which none lies: so many pixels and so much
              of the picture's width. Without one a small mask makes enemies of neighbours: of 75 non-matches in a mask
              of 400 pixels one is within 2 px of the truth in 91 % of all cases
    """

    count: int = 150
    masked: float = 0.5
    exclude_px: float = 2.0
    exclude_share: float = 0.01

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"non_matches.count={self.count}: expected at least 1")
        if not 0 <= self.masked <= 1:
            raise UserError(f"non_matches.masked={self.masked:g}: expected a share, 0 to 1")
        for name in ("exclude_px", "exclude_share"):
            if not getattr(self, name) >= 0:
                raise UserError(f"non_matches.{name}={getattr(self, name):g}: expected at least 0")

    def radius_px(self, width: int) -> float:
        """Of the excluded disc, in a picture of this width."""
        return self.exclude_px + self.exclude_share * width


@dataclass(frozen=True, eq=False)
class NonMatches:
    """Non-matches of m matches: pixel centres (u, v), which of them count, and how far from the true match they are."""

    pixel: Float[Tensor, "m k 2"]
    valid: Bool[Tensor, "m k"]
    off_px: Float[Tensor, "m k"]


def draw_non_matches(
    truth: Float[Tensor, "m 2"],
    size: tuple[int, int],
    mask: Bool[Tensor, "h w"] | None,
    how: NonMatching,
    generator: Generator,
) -> tuple[NonMatches, NonMatches]:
    """Those in the object and those in the background of a picture of (width, height), whose true matches are given.

    Without a mask all are of the first kind, and none of the second.
    """
    width, height = size
    everything = torch.arange(width * height)
    inside, outside = (everything, everything[:0]) if mask is None else (_pixels(mask), _pixels(~mask))
    count = how.count if len(outside) == 0 else round(how.masked * how.count)
    if len(inside) == 0:
        count = 0
    radius = how.radius_px(width)
    return (
        _draw(truth, inside, width, count, radius, generator),
        _draw(truth, outside, width, how.count - count, radius, generator),
    )


def _pixels(mask: Bool[Tensor, "h w"]) -> Tensor:
    return mask.flatten().nonzero()[:, 0]


def _draw(
    truth: Float[Tensor, "m 2"], among: Tensor, width: int, count: int, radius_px: float, generator: Generator
) -> NonMatches:
    """`count` of the pixels `among` for each match, none nearer to it than the radius: those are drawn anew."""

    def draw(many: int) -> Tensor:
        flat = among[torch.randint(len(among), (many,), generator=generator)]
        return torch.stack([flat % width, flat // width], dim=1).to(truth) + 0.5

    matches = len(truth)
    pixel = draw(matches * count) if count else truth.new_zeros(0, 2)
    own = truth.repeat_interleave(count, dim=0)
    off = (pixel - own).norm(dim=1)
    for _ in range(ROUNDS):
        near = (off < radius_px).nonzero()[:, 0]
        if len(near) == 0:
            break
        pixel[near] = draw(len(near))
        off[near] = (pixel[near] - own[near]).norm(dim=1)
    shape = (matches, count)
    return NonMatches(pixel.view(*shape, 2), (off >= radius_px).view(shape), off.view(shape))
