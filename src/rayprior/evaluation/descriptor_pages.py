"""Descriptor pages: self-contained HTML that answers the mouse. Where else a pixel is found; where its ray may end.

One file a page, no network, no library. The script is named by its hash in the page's own policy, so that nothing else
runs. The pages work from a folder, from a mail and on a telephone.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from rayprior.descriptors.correspond import distance_of
from rayprior.descriptors.matching import HEAT_WIDTH
from rayprior.errors import UserError
from rayprior.evaluation.page import header, img
from rayprior.evaluation.pictures import Renders, ramp, to_bytes
from rayprior.files import write_text
from rayprior.scenes.scene import Scene

SIDE = 256  # the most pixels of a picture's longer side in a page
MOST_BYTES = 2_700_000  # of the numbers in a page, as text; the pictures come on top
BINS = 12  # of a ray, the heaviest, that a page keeps
KINDS = ("median", "mean", "raw-mean", "draw")  # that a page marks
FINEST, COARSEST = 2, 16  # pixels between two rays of a page
NOWHERE = 65535  # a place that the other camera does not see
FEWEST_VIEWS = 2


@dataclass(frozen=True, eq=False)
class Described:
    """A picture in [0, 1] and what a network says of each of its pixels."""

    name: str
    picture: Float[Tensor, "h w 3"]
    descriptors: Float[Tensor, "h w d"]


@dataclass(frozen=True, eq=False)
class Quantised:
    """Descriptors of several pictures as whole numbers of one scale: value = low + step x level, channel by channel."""

    levels: list[np.ndarray]
    low: Float[Tensor, "d"]
    step: Float[Tensor, "d"]

    @staticmethod
    def of(descriptors: Sequence[Float[Tensor, "h w d"]], bits: int) -> Quantised:
        """8 or 16 bits a channel, from the lowest to the highest value of all; a channel that never changes has
        step 0."""
        everything = torch.cat([grid.reshape(-1, grid.shape[-1]) for grid in descriptors]).double()
        low, high = everything.amin(dim=0), everything.amax(dim=0)
        step = (high - low) / (2**bits - 1)
        kind = np.uint8 if bits == 8 else np.dtype("<u2")
        scaled = [((grid.double() - low) / step.where(step > 0, 1.0)).round() for grid in descriptors]
        return Quantised([level.numpy().astype(kind) for level in scaled], low.float(), step.float())

    def values(self) -> list[Float[Tensor, "h w d"]]:
        """The descriptors that a page knows."""
        return [self.low + self.step * torch.from_numpy(level.astype(np.float32)) for level in self.levels]


# -- where else a pixel is found ---------------------------------------------------------------------------------------


def write_heat_page(
    path: Path,
    views: Sequence[Described],
    *,
    title: str,
    about: str = "",
    command: str = "",
    width: float = HEAT_WIDTH,
    side: int = SIDE,
) -> None:
    """A page in which a mouse over one picture shows, in all the others, exp(-|difference of descriptors| / width), the
    best match and its distance.

    Descriptors are kept at every k-th pixel, so that no grid is longer than `side` and all stay within `MOST_BYTES`;
    with 16 bits a channel where there is room, else 8.

    Raises:
        UserError: fewer than two pictures, descriptors of several dimensions or that are not finite, a width or a
            side that is not positive, or a place that can't be written to.
    """
    _check_described(views, width, side)
    grids, bits = _fitted([view.descriptors for view in views], side)
    kept = Quantised.of(grids, bits)
    data = {
        "width": width,
        "low": kept.low.tolist(),
        "step": kept.step.tolist(),
        "bits": bits,
        "colours": _packed(ramp("error")),
        "views": [
            {**_placed(view.name, view.picture, levels.shape[1::-1]), "descriptors": _packed(levels)}
            for view, levels in zip(views, kept.levels, strict=True)
        ],
    }
    dimension = views[0].descriptors.shape[-1]
    facts = {"pictures": str(len(views)), "descriptors": f"{dimension} numbers, {bits} bits each"}
    frames = [(view.name, to_bytes(view.picture)) for view in views]
    _write(path, title, header(title, about, command, facts), frames, data, "heat_maps.js", _HEAT_WORDS)


def _check_described(views: Sequence[Described], width: float, side: int) -> None:
    if len(views) < FEWEST_VIEWS:
        raise UserError(f"a page of heat maps compares pictures, and was given {len(views)}; expected at least 2")
    if not width > 0:
        raise UserError(
            f"a heat map of width {width:g}: expected a positive distance of descriptors, such as {HEAT_WIDTH:g}"
        )
    if side < 1:
        raise UserError(f"a heat map of {side} pixels a side: expected at least 1, such as {SIDE}")
    first = views[0]
    for view in views:
        if view.descriptors.shape[-1] != first.descriptors.shape[-1]:
            raise UserError(
                f"'{view.name}' has descriptors of {view.descriptors.shape[-1]} numbers and '{first.name}' of"
                f" {first.descriptors.shape[-1]}; expected one network for all pictures of a page"
            )
        if not bool(view.descriptors.isfinite().all()):
            raise UserError(f"'{view.name}': its descriptors are not finite; train the network anew, or longer")


def _fitted(grids: Sequence[Float[Tensor, "h w d"]], side: int) -> tuple[list[Float[Tensor, "h w d"]], int]:
    """The grids as fine as a page has room for, and the bits of a channel."""
    grids = [_thinned(grid, side) for grid in grids]
    while 4 / 3 * sum(grid.numel() for grid in grids) > MOST_BYTES:
        side = round(0.9 * min(side, max(max(grid.shape[:2]) for grid in grids)))
        grids = [_thinned(grid, side) for grid in grids]
    return grids, 16 if 8 / 3 * sum(grid.numel() for grid in grids) <= MOST_BYTES else 8


def _thinned(grid: Float[Tensor, "h w d"], side: int) -> Float[Tensor, "h w d"]:
    """The nearest of the grid at no more than `side` places a side: a mean of two sides of an edge is neither."""
    height, width = grid.shape[:2]
    share = side / max(height, width)
    if share >= 1:
        return grid
    size = max(round(height * share), 1), max(round(width * share), 1)
    return F.interpolate(grid.movedim(2, 0)[None], size=size, mode="nearest-exact")[0].movedim(0, 2)


# -- where a ray may end -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RayEnds:
    """Where the rays through a grid of a view's pixels end: the heaviest bins of each, and what is made of them.

    pixel     (u, v) of each ray, row by row
    distance  of the middles of the bins, then of each of `KINDS`; working units
    weight    of the bins
    opacity   of the whole ray
    """

    columns: int
    rows: int
    pixel: Float[Tensor, "r 2"]
    distance: Float[Tensor, "r k"]
    weight: Float[Tensor, "r b"]
    opacity: Float[Tensor, "r"]


def ray_ends(model: Renders, scene: Scene, view: int, every: int, generator: Generator, bins: int = BINS) -> RayEnds:
    """Rays through every `every`-th pixel of a view, each with its `bins` heaviest bins. `generator`: of the kind
    'draw'."""
    width, height = scene.cameras.size[view].tolist()
    columns, rows = max(width // every, 1), max(height // every, 1)
    v, u = torch.meshgrid(
        (torch.arange(rows) + 0.5) * height / rows, (torch.arange(columns) + 0.5) * width / columns, indexing="ij"
    )
    pixel = torch.stack([u.reshape(-1), v.reshape(-1)], dim=1).double()
    rays = scene.rays(torch.full((len(pixel),), view), pixel)
    distance, weight, opacity = [], [], []
    with torch.no_grad():
        for part in model.render_in_chunks(rays):
            ends = part.distribution.detach()
            ends = replace(ends, t=ends.t.cpu(), w=ends.w.cpu())
            heavy = ends.w.topk(min(bins, ends.w.shape[1]), dim=1)
            u_drawn = torch.rand(len(part), generator=generator)
            kinds = [distance_of(ends, kind, u_drawn) for kind in KINDS]
            distance.append(torch.cat([ends.midpoints.gather(1, heavy.indices), torch.stack(kinds, dim=1)], dim=1))
            weight.append(heavy.values)
            opacity.append(ends.opacity)
    return RayEnds(columns, rows, pixel, torch.cat(distance), torch.cat(weight), torch.cat(opacity))


def seen_from(scene: Scene, view: int, ends: RayEnds, other: int) -> UInt8[np.ndarray, "r k 2"]:
    """Where another view sees those places: uint16, 0..65534 across the picture, `NOWHERE` where it does not."""
    count, kinds = ends.distance.shape
    camera = torch.full((count,), view)
    origins, directions = scene.cameras.origins[camera], scene.cameras.directions(camera, ends.pixel)
    points = origins[:, None] + ends.distance[:, :, None] * directions[:, None]  # (r, k, 3)
    pixel, _, visible = scene.cameras.project(points.view(-1, 3), torch.full((count * kinds,), other))
    levels = (pixel / scene.cameras.size[other] * (NOWHERE - 1)).round()
    levels = torch.where(visible[:, None], levels, NOWHERE).nan_to_num(NOWHERE)
    return levels.view(count, kinds, 2).numpy().astype("<u2")


def write_ray_page(
    path: Path,
    model: Renders,
    scene: Scene,
    views: Sequence[int],
    generator: Generator,
    *,
    title: str,
    about: str = "",
    command: str = "",
    every: int | None = None,
    bins: int = BINS,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """A page in which a mouse over one picture shows, in all the others, where the samples of that pixel's ray lie, as
    opaque as they are heavy, and where its median, mean, undivided mean and one draw lie.

    every  pixels from one ray to the next; None: as few, from 2, as `MOST_BYTES` allows

    Raises:
        UserError: fewer than two views, an `every` or `bins` that is not positive, or a place that can't be written to.
    """
    if len(views) < FEWEST_VIEWS:
        raise UserError(f"{scene.name}: a page of rays compares views, and was given {len(views)}; expected at least 2")
    if bins < 1 or (every is not None and every < 1):
        raise UserError(f"a page of rays with {bins} bins each, {every} pixels apart: both are at least 1")
    every = _spacing(scene, views, bins) if every is None else every
    ends: list[RayEnds] = []
    for done, view in enumerate(views):
        ends.append(ray_ends(model, scene, view, every, generator, bins))
        if on_progress is not None:
            on_progress(done + 1, len(views))
    farthest = max(float(e.distance.max()) for e in ends)
    unit = 1 / scene.similarity.scale
    data = {
        "bins": ends[0].weight.shape[1],
        "kinds": list(KINDS),
        "distance": farthest * unit / (NOWHERE - 1),
        "views": [
            {
                **_placed(scene.names[view], scene.picture(view), (e.columns, e.rows)),
                "weights": _packed((e.weight.clamp(0, 1) * 255).round().byte().numpy()),
                "opacity": _packed((e.opacity.clamp(0, 1) * 255).round().byte().numpy()),
                "distances": _packed((e.distance / farthest * (NOWHERE - 1)).round().numpy().astype("<u2")),
                "seen": [None if view == other else _packed(seen_from(scene, view, e, other)) for other in views],
            }
            for view, e in zip(views, ends, strict=True)
        ],
    }
    facts = {"views": str(len(views)), "rays": f"{every} pixels apart, the {data['bins']} heaviest bins of each"}
    frames = [(scene.names[view], to_bytes(scene.picture(view))) for view in views]
    _write(path, title, header(title, about, command, facts), frames, data, "ray_ends.js", _RAY_WORDS)


def _spacing(scene: Scene, views: Sequence[int], bins: int) -> int:
    """The finest that a page has room for."""
    pixels = float(scene.cameras.size[list(views)].prod(dim=1).sum())
    places = bins + len(KINDS)
    a_ray = (bins + 1) + 2 * places + 4 * places * (len(views) - 1)  # bytes
    return next((k for k in range(FINEST, COARSEST) if 4 / 3 * pixels / k**2 * a_ray <= MOST_BYTES), COARSEST)


# -- what both are made of ---------------------------------------------------------------------------------------------


def _placed(name: str, picture: Float[Tensor, "h w 3"], grid: tuple[int, ...]) -> dict[str, Any]:
    """A picture's name and size in its own pixels, and the (columns, rows) that a page knows of it."""
    return {"name": name, "size": [picture.shape[1], picture.shape[0]], "grid": list(grid)}


def _packed(numbers: np.ndarray) -> str:
    return b64encode(np.ascontiguousarray(numbers).tobytes()).decode()


_HOW = (
    "<b>Mouse</b> over a picture asks. <b>Click</b> pins; <b>Esc</b> lets go. <b>Arrows</b> move by a pixel, with"
    " <b>Shift</b> by ten; <b>Tab</b> goes to the next picture. Tap or draw sideways on a touch screen."
)
_HEAT_WORDS = (
    f'<p class="soft how">{_HOW} Heat is exp(−distance / <span id="width"></span>); the cross is the best match in the'
    " whole picture.</p>",
    '<p class="key-row"><span class="ring"></span>asked <span class="plus">+</span>best match</p>',
)
_RAY_WORDS = (
    f'<p class="soft how">{_HOW} Dots are the heaviest samples of the ray, as opaque as they are heavy (the heaviest is'
    " opaque).</p>",
    '<p class="key-row"><span class="ring"></span>asked <span class="dot-key"></span>samples '
    + " ".join(f'<span class="mark-key k{i}">{kind}</span>' for i, kind in enumerate(KINDS))
    + "</p>",
)


def _write(
    path: Path,
    title: str,
    head: str,
    frames: Sequence[tuple[str, UInt8[np.ndarray, "h w 3"]]],
    data: dict[str, Any],
    answers: str,
    words: tuple[str, str],
) -> None:
    """The page: pictures with a layer for what is answered, the data, and the two scripts."""
    script = _file("asking.js") + _file(answers)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    numbers = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    how, key = words
    figures = "".join(_figure(number, name, frame) for number, (name, frame) in enumerate(frames))
    choices = "".join(f'<option value="{i}">{escape(name)}</option>' for i, (name, _) in enumerate(frames))
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_file('report.css')}{_file('asking.css')}</style></head>\n"
        f'<body><main>{head}{how}<div class="panel">'
        f'<div class="pair"><label>from <select id="from"><option value="">any</option>{choices}</select></label>'
        f'<label>to <select id="to"><option value="">all</option>{choices}</select></label>'
        f'<button id="free" hidden>let go</button></div>{key}<p id="said" aria-live="polite">Point at a picture.</p>'
        f'<div id="more"></div></div><div class="asked">{figures}</div>'
        "<noscript><p>This page answers with a script, which this browser does not run.</p></noscript>"
        "<footer>Written by rayprior. This file holds all that it shows.</footer></main>"
        f'<script type="application/json" id="data">{numbers}</script>\n<script>{script}</script></body></html>\n',
    )


def _figure(number: int, name: str, frame: UInt8[np.ndarray, "h w 3"]) -> str:
    height, width = frame.shape[:2]
    return (
        f'<figure data-view="{number}"><div class="stage" tabindex="0" role="application" '
        f'aria-label="{escape(name)}">{img(frame, name, round(SIDE * min(1, width / height)))}<canvas></canvas>'
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true"></svg></div>'
        f'<figcaption><b>{escape(name)}</b> <span class="answer"></span></figcaption></figure>'
    )


def _file(name: str) -> str:
    return files("rayprior.evaluation").joinpath(name).read_text(encoding="utf-8")
