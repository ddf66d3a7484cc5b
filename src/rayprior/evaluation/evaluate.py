"""Evaluate: render held-out views, score them, and write every number with how it was made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rayprior.errors import UserError, did_you_mean
from rayprior.evaluation import consistency, metrics, perception
from rayprior.evaluation.appearance import PROTOCOL, fit_code, middle, right_half
from rayprior.evaluation.lpips import VERSION, Lpips, load_lpips
from rayprior.evaluation.pictures import Picture, Renders, on_background, render_picture
from rayprior.files import write_text
from rayprior.maths.psnr import psnr
from rayprior.rendering.model import Model
from rayprior.scenes.scene import Pictures, Scene

LpipsChoice = Literal["auto", "alex", "vgg", "none"]
KEPT_PICTURES = 8
MEASURES = (*perception.NAMES, "consistency")  # of all views together, and cheap
ALL_MEASURES = (*MEASURES, "flicker")  # renders a film


@dataclass(frozen=True, eq=False)
class ScoredView:
    """One view: its numbers and what they were made of. mask: True = scored; surface: true distances, nan unknown."""

    name: str
    numbers: dict[str, float | None]
    truth: Float[Tensor, "h w 3"]
    picture: Picture
    mask: Bool[Tensor, "h w"] | None = None
    surface: Float[Tensor, "h w"] | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Numbers with their protocol. `kept`: a few views with their pictures, spread over all, for the report.

    unit: length of one working unit in the capture's own unit.
    """

    protocol: dict[str, Any]
    mean: dict[str, float | None]
    views: list[dict[str, Any]]
    kept: tuple[ScoredView, ...] = field(default=(), repr=False)
    unit: float = 1.0

    def to_json(self) -> str:
        """{"protocol": ..., "mean": ..., "views": [{"name": ..., "psnr": ...}]}; strict JSON: nan and inf are null."""
        layout = {"protocol": self.protocol, "mean": self.mean, "views": self.views}
        return json.dumps(strict(layout), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: str | Path) -> None:
        """metrics.json, whole or not at all."""
        write_text(Path(path), self.to_json())


def evaluate(
    model: Renders,
    scene: Scene,
    views: Sequence[int],
    *,
    background: tuple[float, float, float] | None = None,
    masks: Pictures | None = None,
    lpips: LpipsChoice | Lpips = "auto",
    weights: str | Path | None = None,
    overridden: Mapping[str, Any] | None = None,
    halves: bool | None = None,
    exchanged: bool = False,
    measures: Collection[str] = MEASURES,
    keep: int = KEPT_PICTURES,
    on_progress: Callable[[int, int, ScoredView], None] | None = None,
) -> Evaluation:
    """Render and score views of the scene.

    Args:
        views: positions in the scene's list of frames.
        background: what stands behind a known background; default the scene's colour, white where it is random.
        masks: True = scored; default the scene's own (masked-out pixels are never scored).
        lpips: 'auto': AlexNet where its weights are on this machine, else null and the reason; 'alex' and 'vgg' are
            explicit requests; 'none' leaves it out.
        weights: folder of LPIPS weights (default RAYPRIOR_WEIGHTS).
        overridden: what the user set by hand (near, far, ...): it stands in the protocol; default the scene's `opened`.
        halves: score right halves alone, after the codes of photographs, if the model has some, were fitted to the
            left ones; default where the model has such codes. See `evaluation.appearance`.
        exchanged: a control: each view is shown in the light that was fitted to the next one.
        measures: those of all views together, which stand in `mean` alone; see `evaluation.perception` and
            `evaluation.consistency`. 'flicker' renders a film for itself.
        keep: for how many views pictures are kept.
        on_progress: called with (views done, views in all, the view just scored).

    Raises:
        UserError: no view to score, no such measure, or LPIPS was asked for and its weights are missing.
    """
    views = list(views)
    if not views:
        raise UserError(
            f"{scene.path or scene.name}: split '{scene.split.name}' has no view to score; choose another --split, or "
            f"--views, so that test views are held out"
        )
    for name in measures:
        if name not in ALL_MEASURES:
            raise UserError(f"no measure named '{name}'{did_you_mean(name, ALL_MEASURES)}")
    judge, why = _lpips(lpips, weights)
    shown = on_background(scene, background)
    masks = scene.masks if masks is None else masks
    keeping = {views[i * len(views) // keep] for i in range(keep)} if len(views) > keep else set(views)
    rows, counts, kept = [], [], []
    coded = isinstance(model, Model) and model.codes is not None and model.codes.config.colours
    halves = coded if halves is None else halves
    codes = model.codes if halves and isinstance(model, Model) else None
    learned = None if codes is None else (codes.known.clone(), {k: v.clone() for k, v in codes.state_dict().items()})
    if codes is not None and isinstance(model, Model):
        for index in views:
            fit_code(model, shown, index)
        if exchanged:
            codes.exchange(views)
    together = _Together(shown, views, measures, halves)
    for done, index in enumerate(views, start=1):
        mask = None if masks is None else masks[index][:, :, 0].bool()
        if halves:
            mask = right_half(scene, index) if mask is None else mask & right_half(scene, index)
        view, pixels, compared = _score_view(model, shown, index, mask, judge, middle(scene, index) if halves else 0)
        together.add(view, *compared)
        rows.append(view.numbers)
        counts.append(pixels)
        if index in keeping and keep:
            kept.append(view)
        if on_progress is not None:
            on_progress(done, len(views), view)
    if codes is not None and learned is not None:  # what was fitted to views is of this measurement alone
        codes.known.copy_(learned[0])
        codes.load_state_dict(learned[1])
    names = [scene.names[index] for index in views]
    overridden = scene.opened if overridden is None else overridden
    mean = _mean(rows, counts) | together.mean()
    if "flicker" in measures:
        mean["flicker"] = consistency.flicker(model, shown)
    return Evaluation(
        protocol=_protocol(scene, shown, views, masks, halves, judge, why, overridden) | together.protocol(),
        mean=mean,
        views=[{"name": name, **row} for name, row in zip(names, rows)],
        kept=tuple(kept),
        unit=1 / scene.similarity.scale,
    )


def _score_view(
    model: Renders, scene: Scene, index: int, mask: Bool[Tensor, "h w"] | None, judge: Lpips | None, first: int
) -> tuple[ScoredView, int, tuple[Tensor, Tensor]]:
    """One view, the number of its scored pixels, and (rendering, truth) as metrics with windows see them; `scene`
    already stands on the background of the protocol.

    first  the column from which metrics with windows see the pictures
    """
    width, height = scene.pictures.size[index].tolist()
    truth = scene.picture(index)
    surface = None if scene.depth is None else scene.depth[index][:, :, 0]
    flat = None if surface is None else surface.reshape(-1)
    picture = render_picture(model, scene.view_rays(index), (width, height), flat)
    error = metrics.mse(picture.rgb, truth, mask)
    # SSIM, LPIPS and what compares sets have windows: masked-out pixels get one colour in both pictures
    seen, known = (metrics.composited(p, mask, scene.background.colour)[:, first:] for p in (picture.rgb, truth))
    numbers: dict[str, float | None] = {
        "psnr": None if error is None else psnr(error),
        "mse": error,
        "ssim": metrics.ssim(seen, known),
        "ssim_reflect": metrics.ssim_reflect(seen, known),
        "ms_ssim": metrics.ms_ssim(seen, known),
        "lpips": None if judge is None else judge.distance(seen, known),
    }
    if surface is not None:
        in_input_unit = 1 / scene.similarity.scale
        numbers |= metrics.distance_errors(picture.distance * in_input_unit, surface * in_input_unit, mask)
        assert picture.in_front is not None
        numbers["floater_share"] = metrics.floater_share(picture.in_front, mask)
    pixels = width * height if mask is None else int(mask.sum())
    return ScoredView(scene.names[index], numbers, truth, picture, mask, surface), pixels, (seen, known)


class _Together:
    """What is measured of all views together, while views come one by one: few pixels of each are kept, and whole views
    only where they are compared with another."""

    def __init__(self, scene: Scene, views: Sequence[int], measures: Collection[str], halves: bool) -> None:
        """scene: on the background of the protocol. halves: each view is shown in its own light."""
        self.measures, self.halves, self.count = measures, halves, len(views)
        self.cameras = scene.cameras[list(views)]
        self.pairs = consistency.neighbours(self.cameras) if "consistency" in measures and not halves else []
        self.known_depth = scene.depth is not None and all(bool(scene.depth[i].isfinite().any()) for i in views)
        self.seen: list[perception.Pieces] = []
        self.known: list[perception.Pieces] = []
        self.renderings: dict[int, consistency.Sight] = {}
        self.photographs: dict[int, consistency.Sight] = {}
        self.number = 0

    def add(self, view: ScoredView, seen: Float[Tensor, "h w 3"], known: Float[Tensor, "h w 3"]) -> None:
        """The next view, with its rendering and truth as metrics with windows see them."""
        number, self.number = self.number, self.number + 1
        if any(name in perception.NAMES for name in self.measures):
            self.seen.append(perception.pieces(seen, number, self.count))
            self.known.append(perception.pieces(known, number, self.count))
        if any(number in pair for pair in self.pairs):
            known_surface = view.surface if self.known_depth else None
            surface = consistency.rendered_surface(view.picture) if known_surface is None else known_surface
            if view.mask is not None:
                surface = torch.where(view.mask, surface, torch.nan)
            self.renderings[number] = consistency.Sight(view.picture.rgb, surface)
            self.photographs[number] = consistency.Sight(view.truth, surface)

    def mean(self) -> dict[str, float | None]:
        """Each measure that was asked for; and what `consistency` makes of the true views, the best to be had."""
        found = perception.distances(self.seen, self.known) if self.seen else {}
        found = {name: value for name, value in found.items() if name in self.measures}
        if "consistency" in self.measures:
            found["consistency"] = consistency.difference(self.renderings, self.cameras, self.pairs)
            found["consistency_photographs"] = consistency.difference(self.photographs, self.cameras, self.pairs)
        return found

    def protocol(self) -> dict[str, str]:
        said = perception.PROTOCOL | consistency.PROTOCOL
        said["consistency"] = said["consistency"].format(distance="true" if self.known_depth else "rendered")
        if not self.pairs:
            why = "each view is shown in its own light" if self.halves else "one view has no other"
            said["consistency"] = f"null: {why}"
        return {name: text for name, text in said.items() if name in self.measures}


def _mean(rows: list[dict[str, float | None]], counts: list[int]) -> dict[str, float | None]:
    """Mean over views of each number, and PSNR of the MSE pooled over all scored pixels."""
    mean = {key: metrics.mean_of([row[key] for row in rows]) for key in rows[0]}
    scored = [(row["mse"], count) for row, count in zip(rows, counts) if row["mse"] is not None]
    pooled = metrics.psnr_pooled([e for e, _ in scored], [c for _, c in scored]) if scored else None
    return {"psnr": mean.pop("psnr"), "psnr_pooled": pooled, **mean}


def _lpips(choice: LpipsChoice | Lpips, weights: str | Path | None) -> tuple[Lpips | None, str]:
    """The network, or None and why there is none."""
    if isinstance(choice, Lpips):
        return choice, ""
    if choice == "none":
        return None, "left out on request"
    if choice in ("alex", "vgg"):
        return load_lpips(choice, weights), ""
    if choice != "auto":
        raise UserError(f"no LPIPS network named {choice!r}; choices: auto, alex, vgg, none")
    try:
        return load_lpips("alex", weights), ""
    except UserError as error:
        return None, str(error)


def _protocol(
    scene: Scene,
    shown: Scene,
    views: list[int],
    masks: Pictures | None,
    halves: bool,
    judge: Lpips | None,
    why: str,
    overridden: Mapping[str, Any],
) -> dict[str, Any]:
    """How the numbers were made, complete enough to make them again."""
    colour = colour_name(shown.background.colour)
    behind = {
        "colour": f"{colour}, behind truth and rendering",
        "random": f"{colour}, behind truth and rendering (random in training)",
        "none": "none known: whole photographs are compared",
    }[scene.background.kind]
    sizes = sorted({tuple(scene.pictures.size[i].tolist()) for i in views})
    windowed = "SSIM, LPIPS and measures of sets"
    small = " (null below 31 px, vgg 16 px)" if judge is not None else ""
    geometry = {
        "distance": "median of the normalised weights against the true distance along the ray, valid pixels only, in "
        "the capture's unit; delta_1.25: share with ratio below 1.25",
        "depth": list(scene.depth_source),
        "floater_share": "mean over rays of known surface of the weight in front of .9 of its distance",
    }
    return {
        "dataset": scene.name,
        "format": scene.format,
        "split": scene.split.name,
        "train_views": [scene.names[i] for i in scene.split.train],
        "test_views": [scene.names[i] for i in views],
        "resolution": [f"{width}x{height}" for width, height in sizes],
        "background": behind,
        "masks": "none" if masks is None else f"masked-out pixels are not scored; {windowed} see them as {colour}",
        "appearance": PROTOCOL if halves else "whole views; no code is fitted to them",
        "psnr": "mean over views of -10 log10 MSE; MSE over scored pixels and channels in [0, 1], rendering clipped",
        "psnr_pooled": "-10 log10 of the MSE over all scored pixels of all views",
        "ssim": "Gaussian window 11, sigma 1.5, K1 .01, K2 .03, range 1, per channel then mean, valid region only",
        "ssim_reflect": "the same with pictures mirrored at their borders, all pixels",
        "ms_ssim": "5 scales, window 11, per channel then mean, valid region; null unless both sides exceed 160 px",
        "lpips": f"{judge.network}, version {VERSION}{small}" if judge is not None else f"null: {why}",
        **(geometry if scene.depth is not None else {}),
        "near": scene.bounds.near / scene.similarity.scale,
        "far": scene.bounds.far / scene.similarity.scale,
        "overridden": dict(overridden),
    }


def colour_name(colour: Sequence[float]) -> str:
    """'white', 'black', else '#rrggbb'."""
    code = "#" + "".join(f"{round(min(max(c, 0), 1) * 255):02x}" for c in colour)
    return {"#ffffff": "white", "#000000": "black"}.get(code, code)


def strict(value: Any) -> Any:
    """The same value as strict JSON knows it: nan and inf are null, paths are text."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Iterable):
        return [strict(item) for item in value]
    return str(value)
