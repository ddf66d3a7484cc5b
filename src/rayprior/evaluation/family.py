"""Evaluation of what learned from a family: pictures of scenes it never saw, from a few of their views.

Anything that predicts pictures from pictures is measured alike: a radiance field whose latent is inferred, or the
convolutional rival. Each scene's views stand in an order that depends on the scene's number alone; the last ones are
asked for, the first n are shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import log, pi
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayprior.errors import UserError
from rayprior.evaluation import metrics
from rayprior.evaluation.evaluate import strict
from rayprior.evaluation.predicted import Prediction, Predictor, predictor_of
from rayprior.evaluation.uncertainty import coverage, seen_before
from rayprior.files import write_text
from rayprior.maths.psnr import psnr
from rayprior.networks.gqn import GqnModel
from rayprior.rendering.model import Model
from rayprior.scenes.family import Family, Views
from rayprior.training.tasks import generator_for

COUNTS = (1, 2, 3, 5)
TARGETS = 2
SEED = 0  # of the order of views, and of every draw
PROTOCOL = f"family: last {TARGETS} of each, context first n of a fixed order"
SCENES_AT_ONCE = 8
MEAN_OF = 512  # scenes of which the mean picture is made, where there are more
ACTIVE = 0.01  # nats: a latent number of a larger mean KL tells something


@dataclass(frozen=True, eq=False)
class ShownScene:
    """A scene with its pictures, for a report: what was shown, and for each number of shown views what was predicted.

    context      all that was shown at most; the first n of them at n
    predictions  of that scene alone
    """

    name: str
    context: Float[Tensor, "c h w 3"]
    truth: Float[Tensor, "t h w 3"]
    distance: Float[Tensor, "t h w"] | None
    predictions: Mapping[int, Prediction]


@dataclass(frozen=True, eq=False)
class FamilyEvaluation:
    """Numbers with their protocol. mean: over scenes; scenes: a row each; keys end in @n for n shown views.

    counts  the numbers of views shown
    kept    a few scenes with their pictures
    """

    protocol: dict[str, Any]
    mean: dict[str, float | None]
    scenes: list[dict[str, Any]]
    counts: tuple[int, ...]
    kept: tuple[ShownScene, ...] = field(default=(), repr=False)

    def to_json(self) -> str:
        """Strict JSON: nan and inf are null."""
        layout = {"protocol": self.protocol, "mean": self.mean, "scenes": self.scenes}
        return json.dumps(strict(layout), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: str | Path) -> None:
        """metrics.json, whole or not at all."""
        write_text(Path(path), self.to_json())


def fixed_order(family: Family, scenes: Sequence[int]) -> Int[Tensor, "b v"]:
    """The views of each scene in the order of the protocol, which depends on the scene's number alone."""
    orders = [torch.randperm(family.views, generator=generator_for(SEED, scene, "views")) for scene in scenes]
    return torch.stack(orders) if orders else torch.empty(0, family.views, dtype=torch.long)


def evaluate_family(
    model: Model | GqnModel | Predictor,
    family: Family,
    scenes: Sequence[int],
    counts: Sequence[int] = COUNTS,
    *,
    samples: int = 0,
    std: float = 0.1,
    shown: Sequence[int] = (),
    targets_from: Family | None = None,
    sanity: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> FamilyEvaluation:
    """Predict the targets of each scene from the first n views of its order, and score the predictions.

    scenes        numbers in the family, none of which was trained on
    counts        how many views are shown
    samples       how many latents are drawn: 1 gives `nats`, more also `deviation`, its AUC, and coverage
    std           standard deviation of a colour under the model's likelihood; the same for all that are compared
    shown         of these scenes pictures are kept
    targets_from  the same scenes seen by other cameras: targets are its pictures, what is shown is the family's
    sanity        also what costs nothing to predict: the nearest shown view, a scene of which nothing was shown, the
                  mean of all training pictures
    on_progress   called with (scenes done, scenes in all)

    Numbers of a scene, those that depend on what was shown ending in @n: psnr (mean over targets, dB), mse, and of what
    has geometry distance_mae, distance_rmse, distance_abs_rel, distance_delta_1.25; of what has one latent a scene kl,
    nats (the negative ELBO of both targets) and bits (nats a colour value / ln 2). With draws deviation (mean over
    pixels), auc_unseen (that it is larger where the surface is in no shown view), unseen_share, and coverage_50, _80,
    _95. Of sanity nearest_view_*, prior_mean_*, mean_picture_*. `mean` has active_units too.

    Raises UserError for no scene, more shown views than the targets leave, negative samples, and another family as
    `targets_from` than one of the same worlds.
    """
    predictor = predictor_of(model) if isinstance(model, Model | GqnModel) else model
    counts = tuple(sorted(set(counts)))
    asked_of = family if targets_from is None else targets_from
    _check(family, asked_of, scenes, counts, samples)
    mean_picture = mean_of_pictures(family) if sanity else None
    rows: list[dict[str, Any]] = []
    kept: list[ShownScene] = []
    told: dict[int, list[Tensor]] = {n: [] for n in counts}
    for start in range(0, len(scenes), SCENES_AT_ONCE):
        some = list(scenes[start : start + SCENES_AT_ONCE])
        part = _Part.of(family, asked_of, some, counts)
        of_part: list[dict[str, Any]] = [{"name": f"{family.name}/{scene}", "scene": scene} for scene in some]
        for row, order in zip(of_part, part.order.tolist()):
            row |= {"context": order[: counts[-1]], "targets": order[-TARGETS:]}
        predictions = {}
        for n in counts:
            generator = generator_for(SEED, start, f"draws@{n}")
            found = predictions[n] = predictor.predict(part.shown(n), part.asked, samples, generator)
            _add(of_part, part.scores(found), f"@{n}")
            _add(of_part, part.belief(found, std), f"@{n}")
            _add(of_part, part.uncertainty(found, n, std), f"@{n}")
            if found.posterior is not None:
                told[n].append(found.posterior.kl())
            if sanity:
                _add(of_part, part.scores(Prediction(part.nearest(n))), f"@{n}", "nearest_view_")
        if mean_picture is not None:
            _add(of_part, part.scores(predictor.unseeing(part.asked)), "", "prior_mean_")
            _add(of_part, part.scores(Prediction(mean_picture.expand_as(part.asked.rgb))), "", "mean_picture_")
        rows += of_part
        kept += [part.kept(i, predictions, of_part[i]["name"]) for i, scene in enumerate(some) if scene in shown]
        if on_progress is not None:
            on_progress(len(rows), len(scenes))
    numbers = [key for key in rows[0] if key not in ("name", "scene", "context", "targets")]
    mean = {key: metrics.mean_of([row[key] for row in rows]) for key in numbers}
    for n, kl in told.items():
        if kl:
            mean[f"active_units@{n}"] = float((torch.cat(kl).mean(dim=0) > ACTIVE).sum())
    protocol = _protocol(family, targets_from, scenes, counts, samples, std)
    return FamilyEvaluation(protocol, mean, rows, counts, tuple(kept))


@dataclass(frozen=True, eq=False)
class _Part:
    """Some scenes at once: their order, what is shown at most, what is asked for, and its true distances."""

    family: Family
    order: Int[Tensor, "b v"]
    context: Views
    asked: Views
    distance: Float[Tensor, "b t h w"] | None
    context_distance: Float[Tensor, "b c h w"] | None

    @staticmethod
    def of(family: Family, asked_of: Family, scenes: Sequence[int], counts: tuple[int, ...]) -> _Part:
        number, order = torch.tensor(scenes), fixed_order(family, scenes)
        context, targets = order[:, : counts[-1]], order[:, -TARGETS:]

        def distances(of: Family, views: Tensor) -> Tensor | None:
            found = of.distances(number.repeat_interleave(views.shape[1]), views.reshape(-1))
            return None if found is None else found.view(*views.shape, *found.shape[1:])

        return _Part(
            family,
            order,
            family.shown(number, context),
            asked_of.shown(number, targets),
            distances(asked_of, targets),
            distances(family, context),
        )

    def shown(self, n: int) -> Views:
        """The first n views of the order."""
        return replace(
            self.context,
            **{f.name: getattr(self.context, f.name)[:, :n] for f in fields(Views) if f.name != "background"},
        )

    def scores(self, found: Prediction) -> dict[str, list[float | None]]:
        """How far the mean latent's pictures and distances are from the truth, a number a scene."""
        error = (found.rgb.double().clamp(0, 1) - self.asked.rgb.double()).square().mean(dim=(2, 3, 4))
        scores: dict[str, list[float | None]] = {
            "psnr": [sum(map(psnr, row)) / len(row) for row in error.tolist()],
            "mse": error.mean(dim=1).tolist(),
        }
        if found.distance is not None and self.distance is not None:
            each = [metrics.distance_errors(*pair) for pair in zip(found.distance, self.distance)]
            scores |= {key: [row[key] for row in each] for key in each[0]}
        return scores

    def belief(self, found: Prediction, std: float) -> dict[str, list[float | None]]:
        """What is believed costs to tell, and with it the targets: the negative ELBO."""
        if found.posterior is None:
            return {}
        kl = found.posterior.kl().sum(dim=1)
        numbers: dict[str, list[float | None]] = {"kl": kl.tolist()}
        if found.draws is not None:
            values = self.asked.rgb[0].numel()
            missed = (found.draws - self.asked.rgb).square().flatten(2).sum(dim=2).mean(dim=0)
            nats = missed / (2 * std**2) + values * (log(std) + 0.5 * log(2 * pi)) + kl
            numbers |= {"nats": nats.tolist(), "bits": (nats / (values * log(2))).tolist()}
        return numbers

    def uncertainty(self, found: Prediction, n: int, std: float) -> dict[str, list[float | None]]:
        """Whether what varies between draws is what could not be known."""
        deviation = found.deviation
        if deviation is None or found.draws is None or len(found.draws) < 2:
            return {}
        numbers: dict[str, list[float | None]] = {"deviation": deviation.mean(dim=(1, 2, 3)).tolist()}
        covered = coverage(found.draws, self.asked.rgb, std)
        numbers |= {f"coverage_{percent}": share.tolist() for percent, share in covered.items()}
        if self.distance is not None and self.context_distance is not None:
            seen = seen_before(self.family, self.shown(n), self.context_distance[:, :n], self.asked, self.distance)
            known = self.distance.isfinite()
            unseen = known & ~seen
            numbers["unseen_share"] = (unseen.sum(dim=(1, 2, 3)) / known.sum(dim=(1, 2, 3)).clamp_min(1)).tolist()
            numbers["auc_unseen"] = [metrics.roc_auc(d[k], u[k]) for d, k, u in zip(deviation, known, unseen)]
        return numbers

    def nearest(self, n: int) -> Float[Tensor, "b t h w 3"]:
        """For each target the picture of the shown view whose camera is nearest."""
        apart = torch.cdist(self.asked.poses[..., 3], self.context.poses[:, :n, :, 3])
        nearest = apart.argmin(dim=2)
        return self.context.rgb[torch.arange(len(nearest))[:, None], nearest]

    def kept(self, i: int, predictions: Mapping[int, Prediction], name: str) -> ShownScene:
        def alone(found: Prediction) -> Prediction:
            distance = None if found.distance is None else found.distance[i : i + 1]
            return Prediction(
                found.rgb[i : i + 1], distance, None if found.draws is None else found.draws[:, i : i + 1]
            )

        distance = None if self.distance is None else self.distance[i]
        alone_at = {n: alone(found) for n, found in predictions.items()}
        return ShownScene(name, self.context.rgb[i], self.asked.rgb[i], distance, alone_at)


def _add(rows: list[dict[str, Any]], scores: Mapping[str, Sequence[float | None]], end: str, begin: str = "") -> None:
    for key, values in scores.items():
        for row, value in zip(rows, values):
            row[f"{begin}{key}{end}"] = value


def _check(family: Family, asked_of: Family, scenes: Sequence[int], counts: tuple[int, ...], samples: int) -> None:
    if not scenes:
        raise UserError(f"{family.path}: no scene to measure; expected some that are held out, make them with --test N")
    most = family.views - TARGETS
    if not counts or counts[0] < 1 or counts[-1] > most:
        raise UserError(
            f"{family.path}: {counts[-1] if counts else 0} views to be shown of each scene; expected 1 to {most}, since"
            f" they have {family.views} and {TARGETS} are asked for"
        )
    if samples < 0:
        raise UserError(f"--samples {samples}: expected 0 or more")
    if asked_of is family:
        return
    for what, here, there in (
        ("kind", family.kind, asked_of.kind),
        ("number of scenes", len(family), len(asked_of)),
        ("number of views", family.views, min(family.views, asked_of.views)),
        *((key, value, asked_of.digest[key]) for key, value in family.digest.items() if key != "near"),
    ):
        if here != there:
            raise UserError(
                f"{asked_of.path}: not the same worlds as {family.path} from elsewhere: its {what} is {there}, and"
                f" {here} there; make it with the same rayprior family make and --shift"
            )


def _protocol(
    family: Family,
    targets_from: Family | None,
    scenes: Sequence[int],
    counts: tuple[int, ...],
    samples: int,
    std: float,
) -> dict[str, Any]:
    """How the numbers were made, complete enough to make them again."""
    width, height = family.size
    said = {
        "family": family.name,
        "split": family.split.name,
        "scenes": len(scenes),
        "views": f"{PROTOCOL}; its seed is {SEED}, each row names them",
        "shown": list(counts),
        "targets from": "the same cameras" if targets_from is None else targets_from.name,
        "resolution": f"{width}x{height}",
        "psnr": "mean over a scene's targets, then over scenes, of -10 log10 MSE; of the mean latent's picture",
        "distance": "median of the normalised weights against the true distance along the ray, where it is known, in "
        "working units",
        "kl": "from N(0, 1) to what is believed of a scene, nats; active units: numbers of mean KL above "
        f"{ACTIVE:g} over these scenes",
        "nearest view": "the picture of the shown view whose camera is nearest to the target's",
        "mean picture": f"of all pictures of training scenes (of at most {MEAN_OF}, evenly spread)",
    }
    if samples:
        said["nats"] = (
            f"negative ELBO of a scene's {TARGETS} targets, mean of {samples} draws, standard deviation of a colour "
            f"{std:g}; bits: of one colour value, whose range is [0, 1]"
        )
    if samples > 1:
        said["uncertainty"] = (
            f"{samples} draws; intervals are those of the mixture of N(draw, {std:g}^2); unseen: known surfaces that "
            "no shown view has in sight, by its distances"
        )
    return said


def mean_of_pictures(family: Family) -> Float[Tensor, "h w 3"]:
    """The mean of the training pictures, pixel by pixel."""
    train = family.split.train
    picked = sorted({train[i * len(train) // MEAN_OF] for i in range(MEAN_OF)})
    width, height = family.size
    total, views = torch.zeros(height, width, 3, dtype=torch.float64), torch.arange(family.views)
    for start in range(0, len(picked), 64):
        some = torch.tensor(picked[start : start + 64])
        pictures = family.pictures(some.repeat_interleave(len(views)), views.repeat(len(some)))
        total += pictures.double().sum(dim=0)
    return (total / (255 * len(picked) * len(views))).float()
