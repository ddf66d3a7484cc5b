"""How good labels are, where the truth is known: end-point error and coverage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from rayprior.descriptors.drawing import objects_of, view_pairs
from rayprior.descriptors.pairs import Labels
from rayprior.errors import UserError
from rayprior.scenes.scene import Scene

AT_ONCE = 256  # source pixels of one pair of views, at most


@dataclass(frozen=True, eq=False)
class Quality:
    """What labels say of source pixels whose true match is known. One row a pixel, in the order they were asked.

    error    |u' - truth| in pixels; nan where the labels match nothing
    weight   of the match; 0 where there is none
    width    of the target's picture, in pixels
    view_s, view_t, pixel_s, pixel_t (the truth)  what was asked
    """

    error: Float[Tensor, "n"]
    weight: Float[Tensor, "n"]
    width: Float[Tensor, "n"]
    view_s: Int[Tensor, "n"]
    view_t: Int[Tensor, "n"]
    pixel_s: Float[Tensor, "n 2"]
    pixel_t: Float[Tensor, "n 2"]

    def __len__(self) -> int:
        return len(self.error)

    @property
    def matched(self) -> Bool[Tensor, "n"]:
        return self.error.isfinite()

    @property
    def coverage(self) -> float:
        """Share of the pixels that have a match."""
        return float(self.matched.double().mean())

    @property
    def mean_px(self) -> float:
        """End-point error; nan where nothing is matched, as all of these."""
        return float(self.error[self.matched].mean())

    @property
    def median_px(self) -> float:
        return float(self.error[self.matched].median())

    def within_px(self, limit: float) -> float:
        """Share of the matches with an error below `limit` pixels."""
        return float((self.error[self.matched] < limit).double().mean())

    def within_width(self, share: float = 0.01) -> float:
        """Share of the matches with an error below a share of the picture's width."""
        return float((self.error < share * self.width)[self.matched].double().mean())

    def on(self, kept: Bool[Tensor, "n"]) -> Quality:
        """The same, with no match where not `kept`; coverage counts all pixels still. `a.on(b.matched)` and
        `b.on(a.matched)` compare two sources on the pixels that both match."""
        error, weight = self.error.where(kept, torch.nan), self.weight.where(kept, 0.0)
        return Quality(error, weight, self.width, self.view_s, self.view_t, self.pixel_s, self.pixel_t)

    def at_coverage(self, share: float) -> Quality:
        """Only the matches of the greatest weight, as many as are this share of all pixels; of equal weights, those
        that were asked first. UserError where there are fewer."""
        wanted = round(share * len(self))
        if not 0 < wanted <= int(self.matched.sum()):
            raise UserError(
                f"quality at coverage {share:g}: the labels cover {self.coverage:.4f}; expected at most that"
            )
        order = self.weight.where(self.matched, -1.0).argsort(descending=True, stable=True)
        kept = torch.zeros_like(self.matched)
        kept[order[:wanted]] = True
        return self.on(kept)

    def summary(self) -> dict[str, float | None]:
        """Numbers for a table, in strict JSON: None where nothing is matched."""
        if not bool(self.matched.any()):
            return {"coverage": 0.0, "mean_px": None, "median_px": None, "below_1px": None, "below_2px": None,
                    "below_1pct": None}  # fmt: skip
        return {
            "coverage": self.coverage,
            "mean_px": self.mean_px,
            "median_px": self.median_px,
            "below_1px": self.within_px(1.0),
            "below_2px": self.within_px(2.0),
            "below_1pct": self.within_width(0.01),
        }


def label_quality(
    labels: Labels,
    truth: Labels,
    scene: Scene,
    views: Sequence[int],
    count: int,
    generator: Generator,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Quality:
    """Ask `labels` for `count` source pixels of the object whose match `truth` knows, in any pair of `views`.

    Pixels and pairs of views are drawn by the generator as in `draw_pairs`, and do not depend on the labels: with equal
    seeds two sources are asked for the same. What labels draw comes from a generator of their own, seeded by this one.

    UserError for a count below 1, for views without overlap, and where truth knows too few matches.
    """
    if count < 1:
        raise UserError(f"label quality on {count} pixels: expected at least 1")
    objects = objects_of(scene, views)
    asked = view_pairs(scene.cameras, list(objects)) if pairs is None else list(pairs)
    own = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
    each = min(max(-(-2 * count // len(asked)), 8), AT_ONCE)
    parts: list[Quality] = []
    found = tried = 0
    while found < count:
        if tried > 200 * count + 20_000:
            raise UserError(
                f"{scene.path or scene.name}: of {tried:,} pixels the truth knows the match of {found:,}, and {count:,}"
                " are wanted; choose views that see the same"
            )
        for at in torch.randperm(len(asked), generator=generator).tolist():
            view_s, view_t = asked[at]
            pixels = objects[view_s].draw(each, generator)
            true = truth.match(view_s, pixels, view_t)
            known = true.valid & objects[view_t].holds(true.pixel)
            known &= known.cumsum(dim=0) <= count - found
            tried += each
            if not bool(known.any()):
                continue
            claimed = labels.match(view_s, pixels[known], view_t, own)
            number = len(claimed)
            error = (claimed.pixel - true.pixel[known]).norm(dim=1).where(claimed.valid, torch.nan).double()
            width = float(scene.cameras.size[view_t, 0])
            ones = torch.ones(number, dtype=torch.float64)
            rows = pixels[known], true.pixel[known]
            sides = torch.full((number,), view_s), torch.full((number,), view_t)
            parts.append(Quality(error, claimed.weight.double(), ones * width, *sides, *rows))
            found += number
            if on_progress is not None:
                on_progress(found, count)
            if found == count:
                break
    return Quality(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Quality)))
