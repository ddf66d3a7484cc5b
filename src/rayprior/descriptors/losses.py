"""Losses of descriptors: what matches is near, what does not match is not. Pure functions of vectors.

The contrastive and the triplet loss are those of Dense Object Nets (Florence et al., CoRL 2018) after its code;
InfoNCE and the heat map's cross-entropy are ours beside them, by the squared distance that matching is by.
Shapes: m matches, k non-matches of each, d the descriptor's dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rayprior.errors import UserError

FAR_PX = 50.0  # a non-match so far from the truth, or farther, counts fully (Dense Object Nets code)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network says of one pair of pictures, and what is known of it.

    source    at the first picture's pixels
    target    at their matches in the second picture
    weight    of the matches, in [0, 1]
    masked    at non-matches in the second picture's object mask, `background` at those outside it; the `_valid` say
              which count, the `_off_px` how far from the true match they are
    map       the second picture's, at the output stride
    at        the matches in pixels of the map, centres at +0.5
    """

    source: Float[Tensor, "m d"]
    target: Float[Tensor, "m d"]
    weight: Float[Tensor, "m"]
    masked: Float[Tensor, "m k d"]
    masked_valid: Bool[Tensor, "m k"]
    masked_off_px: Float[Tensor, "m k"]
    background: Float[Tensor, "m l d"]
    background_valid: Bool[Tensor, "m l"]
    background_off_px: Float[Tensor, "m l"]
    map: Float[Tensor, "d i j"]
    at: Float[Tensor, "m 2"]


# -- the parts ---------------------------------------------------------------------------------------------------------


def match_loss(
    source: Float[Tensor, "m d"], target: Float[Tensor, "m d"], weight: Float[Tensor, "m"]
) -> Float[Tensor, ""]:
    """Weighted mean of the squared distance of matches: L_match of Dense Object Nets. 0 where no match has weight."""
    return weighted_mean((source - target).square().sum(dim=-1), weight)


def hinge(a: Float[Tensor, "... d"], b: Float[Tensor, "... d"], margin: float) -> Float[Tensor, "..."]:
    """max(0, margin - |a - b|)^2 for each pair of vectors that should be far from each other."""
    return (margin - (a - b).norm(dim=-1)).clamp_min(0).square()


def non_match_loss(
    hinges: Sequence[Float[Tensor, "m k"]], valid: Sequence[Bool[Tensor, "m k"]], *, hard: bool = True
) -> Float[Tensor, ""]:
    """Sum of hinges, in the object and in the background, by how many there are.

    hard  by how many are not zero, at least 1: hard-negative scaling (Dense Object Nets). The number has no gradient
    """
    kept = torch.cat([part.where(counts, 0.0).flatten() for part, counts in zip(hinges, valid)])
    count = kept.detach().count_nonzero() if hard else sum(counts.count_nonzero() for counts in valid)
    return kept.sum() / max(int(count), 1)


def pixel_weight(off_px: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    """min(distance, 50)/50: a non-match near the true match counts less (an option of Dense Object Nets)."""
    return off_px.clamp_max(FAR_PX) / FAR_PX


def triplet_loss(
    source: Float[Tensor, "m d"],
    target: Float[Tensor, "m d"],
    others: Float[Tensor, "m k d"],
    valid: Bool[Tensor, "m k"],
    weight: Float[Tensor, "m"],
    margin: float,
) -> Float[Tensor, ""]:
    """Mean of max(0, |a - b|^2 - |a - n|^2 + margin), one hinge a triplet: not one a channel, as in the code of Dense
    Object Nets."""
    near = (source - target).square().sum(dim=-1)
    far = (source[:, None] - others).square().sum(dim=-1)
    each = (near[:, None] - far + margin).clamp_min(0)
    return weighted_mean(each, weight[:, None] * valid)


def info_nce(
    source: Float[Tensor, "m d"],
    target: Float[Tensor, "m d"],
    others: Float[Tensor, "m k d"],
    valid: Bool[Tensor, "m k"],
    weight: Float[Tensor, "m"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of picking the match among itself and the non-matches, by exp(-|a - b|^2 / temperature)."""
    near = -(source - target).square().sum(dim=-1) / temperature
    far = -(source[:, None] - others).square().sum(dim=-1) / temperature
    every = torch.cat([near[:, None], far.masked_fill(~valid, -torch.inf)], dim=1)
    return weighted_mean(every.logsumexp(dim=1) - near, weight)


def heat_map_loss(
    source: Float[Tensor, "m d"],
    map: Float[Tensor, "d i j"],
    at: Float[Tensor, "m 2"],
    weight: Float[Tensor, "m"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy between where the match is and softmax(-|a - map|^2 / temperature) over all pixels of a picture.

    The target is the match's bilinear share of the four pixels around it. It is linear in the target: rows of one
    source pixel with weights that sum to 1 are that distribution of targets.
    """
    flat = map.flatten(1)  # (d, ij)
    squared = source.square().sum(dim=1, keepdim=True) - 2 * source @ flat + flat.square().sum(dim=0)
    logits = -squared / temperature
    index, share = corners(at, (map.shape[2], map.shape[1]))
    return weighted_mean(logits.logsumexp(dim=1) - (logits.gather(1, index) * share).sum(dim=1), weight)


def corners(pixel: Float[Tensor, "m 2"], size: tuple[int, int]) -> tuple[Int[Tensor, "m 4"], Float[Tensor, "m 4"]]:
    """The four pixels around a place in a picture of (width, height), row by row, and their bilinear shares."""
    width, height = size
    last = torch.tensor([width - 1, height - 1], dtype=pixel.dtype, device=pixel.device)
    place = (pixel - 0.5).clamp_min(0).minimum(last)
    low = place.floor()
    (x, y), (right, down) = low.long().unbind(dim=1), (place - low).unbind(dim=1)
    x2, y2 = (x + 1).clamp_max(width - 1), (y + 1).clamp_max(height - 1)
    index = torch.stack([y * width + x, y * width + x2, y2 * width + x, y2 * width + x2], dim=1)
    left, up = 1 - right, 1 - down
    return index, torch.stack([up * left, up * right, down * left, down * right], dim=1)


def weighted_mean(values: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """Sum of weight x value by the sum of weights; 0 where that is 0."""
    return (weight * values).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


# -- what a training is by ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contrastive:
    """Squared distances of matches, hinges of non-matches (Dense Object Nets, section III-A).

    margin, background  how far a non-match in the object, and one in the background, has to be
    hard                hard-negative scaling
    near_less           non-matches count by their distance from the true match
    """

    margin: float = 0.5
    background: float = 0.5
    hard: bool = True
    near_less: bool = False

    def __post_init__(self) -> None:
        _positive("loss.margin", self.margin)
        _positive("loss.background", self.background)

    def of(self, seen: Seen) -> dict[str, Tensor]:
        """Losses by name."""
        source = seen.source[:, None]
        inside = hinge(source, seen.masked, self.margin)
        outside = hinge(source, seen.background, self.background)
        if self.near_less:
            inside = inside * pixel_weight(seen.masked_off_px)
            outside = outside * pixel_weight(seen.background_off_px)
        counts = [part & (seen.weight > 0)[:, None] for part in (seen.masked_valid, seen.background_valid)]
        return {
            "match": match_loss(seen.source, seen.target, seen.weight),
            "non_match": non_match_loss([inside, outside], counts, hard=self.hard),
        }


@dataclass(frozen=True)
class Triplet:
    """A match is nearer than any non-match, by `margin` in squared distance."""

    margin: float = 0.1

    def __post_init__(self) -> None:
        _positive("loss.margin", self.margin)

    def of(self, seen: Seen) -> dict[str, Tensor]:
        """Losses by name."""
        others, valid = _others(seen)
        return {"triplet": triplet_loss(seen.source, seen.target, others, valid, seen.weight, self.margin)}


@dataclass(frozen=True)
class InfoNce:
    """The match is picked among sampled non-matches."""

    temperature: float = 0.1

    def __post_init__(self) -> None:
        _positive("loss.temperature", self.temperature)

    def of(self, seen: Seen) -> dict[str, Tensor]:
        """Losses by name."""
        others, valid = _others(seen)
        return {"info_nce": info_nce(seen.source, seen.target, others, valid, seen.weight, self.temperature)}


@dataclass(frozen=True)
class HeatMap:
    """The match is picked among all pixels of its picture."""

    temperature: float = 0.1

    def __post_init__(self) -> None:
        _positive("loss.temperature", self.temperature)

    def of(self, seen: Seen) -> dict[str, Tensor]:
        """Losses by name."""
        return {"heat_map": heat_map_loss(seen.source, seen.map, seen.at, seen.weight, self.temperature)}


Loss = Contrastive | Triplet | InfoNce | HeatMap


def _others(seen: Seen) -> tuple[Float[Tensor, "m k d"], Bool[Tensor, "m k"]]:
    """Non-matches in the object and in the background together."""
    others = torch.cat([seen.masked, seen.background], dim=1)
    return others, torch.cat([seen.masked_valid, seen.background_valid], dim=1)


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise UserError(f"{name}={value:g}: expected more than 0")
