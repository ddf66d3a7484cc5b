"""How well descriptors find matching pixels: end-point errors and PCK on pairs whose match is known.

AEPE and PCK as NeRF-Supervision (Yen-Chen et al. 2022) has them; match in the picture and in the mask, the descriptor's
distance at the truth, the share of pixels closer than the truth and areas above curves as Dense Object Nets (Florence
et al. 2018) has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from math import hypot
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayprior.descriptors.matching import at, best_match, closer_share
from rayprior.descriptors.pairs import Pairs
from rayprior.errors import UserError
from rayprior.scenes.scene import Scene

Describe = Callable[[int], Float[Tensor, "h w d"]]  # of a view of the scene
PCK_PX = (1, 2, 3, 5)


@dataclass(frozen=True, eq=False)
class Scores:
    """What the matches of every pair are worth, in the order of the pairs.

    found         the pixel of the target view whose descriptor is nearest, (u, v)
    error_px      its distance from the true match
    error_l1_px   |du| + |dv| of it
    error_width   `error_px` as a share of the target picture's width
    error_area    `error_px` as a share of the target picture's diagonal
    error_3d      between what the found and the true pixel show, in the capture's unit; nan where a distance is unknown
    distance      of the found pixel's descriptor from the query's
    distance_at_truth   of the true match's, looked up bilinearly
    closer        the share of pixels whose descriptor is closer to the query's than the true match's
    protocol      what was asked, in words
    """

    found: Float[Tensor, "p 2"]
    error_px: Float[Tensor, "p"]
    error_l1_px: Float[Tensor, "p"]
    error_width: Float[Tensor, "p"]
    error_area: Float[Tensor, "p"]
    error_3d: Float[Tensor, "p"]
    distance: Float[Tensor, "p"]
    distance_at_truth: Float[Tensor, "p"]
    closer: Float[Tensor, "p"]
    protocol: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.error_px)

    @cached_property
    def numbers(self) -> dict[str, float | None]:
        """Means over the pairs; None where nothing is known. Every pair counts once, whatever its weight.

        aepe_px, median_px, error_l1_px   of the end-point error, in pixels
        pck_1px, ..., pck_1pct            the share of pairs whose error is less than so many pixels, or 1 % of width
        area_above_cdf                    above the cumulative curve of `error_area`, which is its mean; 0 is perfect
        """
        known = self.error_3d[self.error_3d.isfinite()]
        return {
            "aepe_px": float(self.error_px.mean()),
            "median_px": float(self.error_px.median()),
            "error_l1_px": float(self.error_l1_px.mean()),
            **{f"pck_{limit}px": float((self.error_px < limit).double().mean()) for limit in PCK_PX},
            "pck_1pct": float((self.error_width < 0.01).double().mean()),
            "area_above_cdf": float(self.error_area.mean()),
            "closer_share": float(self.closer.mean()),
            "distance_at_match": float(self.distance.mean()),
            "distance_at_truth": float(self.distance_at_truth.mean()),
            "error_3d": float(known.mean()) if len(known) else None,
            "error_3d_median": float(known.median()) if len(known) else None,
        }

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: protocol, means, and the errors of every pair; null where not known."""
        kept = [field.name for field in fields(self) if field.name not in ("protocol", "found")]
        pairs = {name: [round(x, 6) if x == x else None for x in getattr(self, name).tolist()] for name in kept}
        pairs["found"] = self.found.tolist()
        return {"protocol": dict(self.protocol), "mean": self.numbers, "pairs": pairs}


def score(
    describe: Describe,
    pairs: Pairs,
    scene: Scene,
    *,
    masked: bool,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Match every pair's source pixel in its target view and compare with the pair's target.

    describe     descriptors of a view, at its picture's size; asked at most twice for each view
    masked       match among the pixels of the target's object mask alone
    on_progress  called with (views done, of how many)

    Raises UserError without pairs, for pixels outside their pictures, descriptors of another size than the picture or
    of another dimension than the last view's, and where a target's mask is missing or empty.
    """
    _check(pairs, scene)
    count = len(pairs)
    sources, targets = _by_view(pairs.view_s), _by_view(pairs.view_t)
    total = len(sources) + len(targets)
    queries: Tensor | None = None
    for done, (view, rows) in enumerate(sources, start=1):
        found = at(_described(describe, scene, view), pairs.pixel_s[rows])
        queries = found.new_empty(count, found.shape[1]) if queries is None else queries
        _check_dimension(queries, found, scene, view)
        queries[rows] = found
        if on_progress is not None:
            on_progress(done, total)
    assert queries is not None
    parts = []
    for done, (view, rows) in enumerate(targets, start=len(sources) + 1):
        picture = _described(describe, scene, view)
        _check_dimension(queries, picture.reshape(-1, picture.shape[2]), scene, view)
        parts.append((rows, _matched(picture, queries[rows], pairs.pixel_t[rows], scene, view, masked)))
        if on_progress is not None:
            on_progress(done, total)
    order = torch.cat([rows for rows, _ in parts]).argsort()
    columns = [torch.cat(column)[order] for column in zip(*(values for _, values in parts), strict=True)]
    return Scores(*columns, protocol=_protocol(pairs, scene, masked, queries.shape[1]))


def _matched(
    picture: Tensor, queries: Tensor, truth: Tensor, scene: Scene, view: int, masked: bool
) -> tuple[Tensor, ...]:
    """The columns of Scores for pairs of one target view."""
    mask = _mask(scene, view) if masked else None
    found, distance = best_match(picture, queries, mask)
    at_truth = (at(picture, truth) - queries).norm(dim=1)
    closer = closer_share(picture, queries, at_truth, mask)
    found = found.cpu()
    offset = found - truth
    error = offset.norm(dim=1)
    width, height = scene.pictures.size[view].tolist()
    shown = [_points(scene, view, pixel) for pixel in (found, truth)]
    values = (
        found, error, offset.abs().sum(dim=1), error / width, error / hypot(width, height),
        (shown[0] - shown[1]).norm(dim=1) / scene.similarity.scale, distance, at_truth, closer,
    )  # fmt: skip
    return tuple(value.double().cpu() for value in values)


def _points(scene: Scene, view: int, pixel: Float[Tensor, "p 2"]) -> Float[Tensor, "p 3"]:
    """What pixels of a view show by its known distances, which are those of the pixels they lie in; else nan."""
    if scene.depth is None:
        return torch.full((len(pixel), 3), torch.nan, dtype=torch.float64)
    column, row = pixel.long().unbind(dim=1)
    distance = scene.depth[view][row, column].double()
    directions = scene.cameras.directions(torch.full((len(pixel),), view), pixel)
    return scene.cameras.origins[view] + distance * directions


def _by_view(views: Int[Tensor, "p"]) -> list[tuple[int, Int[Tensor, "q"]]]:
    return [(int(view), (views == view).nonzero()[:, 0]) for view in views.unique()]


def _described(describe: Describe, scene: Scene, view: int) -> Tensor:
    """Descriptors of a view, checked against its picture."""
    found = describe(view).detach()
    width, height = scene.pictures.size[view].tolist()
    if found.shape[:2] != (height, width):
        raise UserError(
            f"view '{scene.names[view]}' has descriptors of {found.shape[1]}x{found.shape[0]}, and {width}x{height}"
            " pixels; describe it at the size of its picture"
        )
    return found


def _check_dimension(queries: Tensor, found: Tensor, scene: Scene, view: int) -> None:
    if queries.shape[1] != found.shape[1]:
        raise UserError(
            f"view '{scene.names[view]}' has descriptors of {found.shape[1]} numbers, other views of"
            f" {queries.shape[1]}; describe all views with one network"
        )


def _check(pairs: Pairs, scene: Scene) -> None:
    where = scene.path or scene.name
    if len(pairs) == 0:
        raise UserError(f"{where}: no pairs to score; draw some, or name a file that has some with --pairs FILE")
    for views, pixels in ((pairs.view_s, pairs.pixel_s), (pairs.view_t, pairs.pixel_t)):
        if int(views.min()) < 0 or int(views.max()) >= len(scene):
            raise UserError(
                f"{where}: pairs name view {int(views.max())}, the scene has {len(scene)}; use its own pairs"
            )
        outside = ~((pixels >= 0) & (pixels < scene.pictures.size[views])).all(dim=1)  # nan too
        if bool(outside.any()):
            row = int(outside.nonzero()[0, 0])
            (u, v), (width, height) = pixels[row].tolist(), scene.pictures.size[views[row]].tolist()
            raise UserError(
                f"{where}: pair {row} has pixel {u:g},{v:g} in view '{scene.names[int(views[row])]}', which is"
                f" {width}x{height}; expected pixels inside the picture"
            )


def _mask(scene: Scene, view: int) -> Tensor:
    mask = scene.object_mask(view)
    if mask is None:
        raise UserError(
            f"{scene.path or scene.name}: no mask says where the object is, so matches can't be sought in it alone;"
            " make masks with `rayprior masks`, or match in the whole picture"
        )
    if not bool(mask.any()):
        raise UserError(
            f"{scene.path or scene.name}: the object mask of view '{scene.names[view]}' is empty; white means keep"
        )
    return mask


def _protocol(pairs: Pairs, scene: Scene, masked: bool, dimension: int) -> dict[str, Any]:
    def named(views: Tensor) -> list[str]:
        return [scene.names[view] for view in views.unique().tolist()]

    used = torch.cat([pairs.view_s, pairs.view_t]).unique()
    sizes = sorted({(width, height) for width, height in scene.pictures.size[used].tolist()})
    return {
        "scene": scene.name,
        "pairs": len(pairs),
        "views_s": named(pairs.view_s),
        "views_t": named(pairs.view_t),
        "resolution": [f"{width}x{height}" for width, height in sizes],
        "match": "best in the object mask" if masked else "best in the whole picture",
        "dimension": dimension,
        "errors": "nearest descriptor's pixel against the pair's target; PCK counts errors less than the threshold;"
        " every pair counts once",
        "error_3d": "in the capture's unit, by the target view's known distances" if scene.depth is not None else None,
        "masks": None if scene.masks is None else scene.mask_rule,
    }
