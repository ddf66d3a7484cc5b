"""Drawing pairs of pixels from a source of labels: the same number from every source, in the same way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from rayprior.descriptors.correspond import dropped_by
from rayprior.descriptors.pairs import Labels, Pairs
from rayprior.errors import UserError
from rayprior.maths.poses import focus_point
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.scene import Scene

INWARD_SHARE = 0.8  # of the cameras that have the point nearest to all optical axes in front of them
AT_ONCE = 1024  # source pixels of one pair of views, at most
FEWEST = 8
TRIES = 200  # source pixels asked for each pair that is wanted, before giving up
HOPELESS = 20_000  # source pixels asked without a single match
OFF_OBJECT = "the target pixel is not on the object"
KEPT = "kept"
NO_MATCH = "without a match"


def view_pairs(
    cameras: Cameras, views: Sequence[int], *, least_deg: float = 5.0, most_deg: float = 75.0
) -> list[tuple[int, int]]:
    """Ordered pairs of views (source, target) that look at the same from directions so far apart.

    The angle is that between two cameras as seen from the point that all look at. Cameras that look at no common point
    are compared by their optical axes, of which most_deg alone is asked.

    UserError for fewer than two views, for a view that there is not, and where no pair is left.
    """
    views = list(dict.fromkeys(views))
    if len(views) < 2:
        raise UserError(f"pairs of views: {len(views)} views were given; expected at least two")
    for view in views:
        if not 0 <= view < len(cameras):
            raise UserError(f"pairs of views: no view {view}; expected 0 to {len(cameras) - 1}")
    chosen = cameras[views]
    focus = focus_point(chosen.c2w)
    towards = focus - chosen.origins
    inward = float(((towards * chosen.forward).sum(dim=1) > 0).double().mean()) >= INWARD_SHARE
    axis = torch.nn.functional.normalize(towards if inward else chosen.forward, dim=1)
    angle = torch.rad2deg(torch.arccos((axis @ axis.T).clamp(-1, 1)))
    apart = ~torch.eye(len(views), dtype=torch.bool)
    kept = apart & (angle <= most_deg)
    if inward:
        kept &= angle >= least_deg
    if not bool(kept.any()):
        low, high = float(angle[apart].min()), float(angle[apart].max())
        wanted = f"{least_deg:g} to {most_deg:g}" if inward else f"at most {most_deg:g}"
        raise UserError(
            f"no overlap between views: the {len(views)} views look from {low:.1f} to {high:.1f} degrees apart, and"
            f" pairs of {wanted} are wanted; choose other views"
        )
    return [(views[s], views[t]) for s, t in kept.nonzero().tolist()]


def some_pairs(pairs: Sequence[tuple[int, int]], most: int, generator: Generator) -> list[tuple[int, int]]:
    """At most so many of the pairs of views. A training looks at one pair of views at a time, and wants many matches in
    it: a pool is better deep than wide."""
    order = torch.randperm(len(pairs), generator=generator)[: max(most, 1)]
    return [pairs[i] for i in order.tolist()]


def draw_pairs(
    labels: Labels,
    scene: Scene,
    views: Sequence[int],
    count: int,
    generator: Generator,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    tally: Counter[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Pairs:
    """`count` matches between `views`, each source pixel drawn anew: a pair of views, then a place on the object.

    labels  whose matches; of a whole distribution (`whole`) each source pixel gives one row for each of its bins, so
            that `count` pixels are more rows. Labels that know few pixels have a `draw` of their own, which is asked
    pairs   of views, instead of `view_pairs` of the scene's cameras
    tally   receives how many matches were kept and dropped, by reason

    Source pixels are uniform on the object's mask, sub-pixel; a target must lie on the object too. Without a mask the
    whole picture is the object. A view whose mask is empty is left out, and counted.

    UserError for a count below 1, fewer than two views, masks that are empty in all views, views that do not overlap,
    and a source that matches too few of the pixels.
    """
    if count < 1:
        raise UserError(f"{count} pairs of pixels: expected at least 1")
    tally = Counter() if tally is None else tally
    own = getattr(labels, "draw", None)
    if own is not None:
        given: Pairs = own(views, count, generator)
        tally[KEPT] += len(given)
        return given
    objects = objects_of(scene, views, tally)
    asked = view_pairs(scene.cameras, list(objects)) if pairs is None else list(pairs)
    asked = [(s, t) for s, t in asked if s in objects and t in objects]
    if not asked:
        raise UserError(
            f"{scene.path or scene.name}: no overlap between views: no pair of them shows the object in both"
        )
    before = Counter(dropped_by(labels))
    drawn: list[Pairs] = []
    found = tried = astray = 0
    while found < count:
        if tried > TRIES * count or (found == 0 and tried > HOPELESS):
            reasons = _reasons(labels, before, tried - found - astray) + Counter({OFF_OBJECT: astray})
            raise UserError(
                f"{scene.path or scene.name}: {tried:,} pixels were asked for their match, and {found:,} of the"
                f" {count:,} wanted were found ({said(reasons)}); choose other views or other labels; a field may"
                " want more training"
            )
        short = (count - found) * (1.1 * tried / found if found else 2.0)
        each = min(max(ceil(short / len(asked)), FEWEST), AT_ONCE)
        for at in torch.randperm(len(asked), generator=generator).tolist():
            rows, on_object, off = _matched(labels, objects, asked[at], each, count - found, generator)
            drawn.append(rows)
            found, tried, astray = found + on_object, tried + each, astray + off
            if on_progress is not None:
                on_progress(found, count)
            if found == count:
                break
    tally[KEPT] += found
    tally[OFF_OBJECT] += astray
    tally.update(_reasons(labels, before, tried - found - astray))
    return Pairs.cat(drawn)


def said(tally: Counter[str]) -> str:
    """'12,345 hidden in the target view, 678 not on the object': the most frequent first."""
    return ", ".join(f"{number:,} {reason}" for reason, number in tally.most_common() if number)


@dataclass(frozen=True, eq=False)
class Object:
    """Where a view shows the object: flat indices of its pixels and the mask itself, or None for the whole picture."""

    size: tuple[int, int]
    pixels: Int[Tensor, "k"] | None
    mask: Bool[Tensor, "h w"] | None

    def draw(self, count: int, generator: Generator) -> Float[Tensor, "r 2"]:
        """Places uniform on the object, float64."""
        width, height = self.size
        inside = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        if self.pixels is None:
            return inside * torch.tensor([width, height])
        flat = self.pixels[torch.randint(len(self.pixels), (count,), generator=generator)]
        return torch.stack([flat % width, flat // width], dim=1) + inside

    def holds(self, pixels: Float[Tensor, "r 2"]) -> Bool[Tensor, "r"]:
        """Whether places of the picture lie on the object; nan does not."""
        known = pixels.isfinite().all(dim=1)
        if self.mask is None:
            return known
        column, row = pixels.nan_to_num().long().unbind(dim=1)
        return known & self.mask[row, column]


def objects_of(scene: Scene, views: Sequence[int], tally: Counter[str] | None = None) -> dict[int, Object]:
    """Where each view shows the object, without those whose mask is empty, which `tally` counts by name.

    UserError where all are, and for a view that there is not.
    """
    found: dict[int, Object] = {}
    empty = []
    for view in dict.fromkeys(views):
        if not 0 <= view < len(scene):
            raise UserError(f"{scene.path or scene.name}: no view {view}; expected 0 to {len(scene) - 1}")
        width, height = scene.pictures.size[view].tolist()
        mask = scene.object_mask(view)
        pixels = None if mask is None else mask.reshape(-1).nonzero()[:, 0]
        if pixels is not None and len(pixels) == 0:
            empty.append(scene.names[view])
            continue
        found[view] = Object((width, height), pixels, mask)
    if empty and not found:
        raise UserError(
            f"{scene.path or scene.name}: the object's mask is empty in all {len(empty)} views, '{empty[0]}' for one;"
            " white means object. Invert the masks, or choose other views"
        )
    if tally is not None:
        tally.update({f"view '{name}' left out: its object mask is empty": 1 for name in empty})
    return found


def _matched(
    labels: Labels,
    objects: dict[int, Object],
    views: tuple[int, int],
    tries: int,
    most: int,
    generator: Generator,
) -> tuple[Pairs, int, int]:
    """(rows, source pixels matched on the object, matched off it) of one pair of views; at most `most` are matched."""
    view_s, view_t = views
    source = objects[view_s].draw(tries, generator)
    if getattr(labels, "whole", False):
        pixel, weight, valid = labels.match_all(view_s, source, view_t)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        found = labels.match(view_s, source, view_t, generator)
        pixel, weight, valid = found.pixel[:, None], found.weight[:, None], found.valid[:, None]  # (r, 1, ...)
    rows = valid.shape[1]
    on_object = valid & objects[view_t].holds(pixel.reshape(-1, 2)).view_as(valid)
    kept = on_object.any(dim=1)
    astray = int((valid.any(dim=1) & ~kept).sum())
    kept &= kept.cumsum(dim=0) <= most
    number = int(kept.sum())
    on_object = on_object & kept[:, None]
    count = int(on_object.sum())
    pairs = Pairs(
        torch.full((count,), view_s),
        torch.full((count,), view_t),
        source[:, None].expand(-1, rows, 2)[on_object],
        pixel[on_object].double(),
        weight[on_object].double(),
    )
    return pairs, number, astray


def _reasons(labels: Labels, before: Counter[str], unmatched: int) -> Counter[str]:
    """Why pixels have no match, as far as the source tells."""
    since = Counter(dropped_by(labels)) - before
    return since or Counter({NO_MATCH: max(unmatched, 0)})
