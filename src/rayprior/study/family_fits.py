"""The rival that has time: one scene fitted by itself, with a family's scene function, and stopped where it is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from rayprior.evaluation.family import TARGETS, evaluate_family, fixed_order
from rayprior.evaluation.predicted import RAYS_AT_ONCE, Prediction, rays_of
from rayprior.fields.codes import Codes
from rayprior.priors import Entropy, Photometric
from rayprior.rendering.model import Model
from rayprior.scenes.family import Family, Views
from rayprior.scenes.formats.family import cameras_of
from rayprior.scenes.scene import Pictures, Scene, Split
from rayprior.scenes.synthetic.again import seen_again
from rayprior.training.recipe import Recipe
from rayprior.training.recipe_json import set_value
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene

CPU = torch.device("cpu")


def recipe_of_one(
    recipe: Recipe, settings: Sequence[str] = (), *, latent: bool = False, entropy: bool = False
) -> Recipe:
    """A family's recipe made one of a single scene: the same scene function and sampler, judged by colour alone.

    latent   with a latent that is fitted too; else the scene function is built without one
    entropy  with the prior of that name beside: rays end in one place, on the ring of the cameras
    """
    terms = {"photometric": Photometric()} | ({"entropy": Entropy(poses="hemisphere")} if entropy else {})
    codes = Codes(latent=recipe.codes.latent) if latent else Codes()
    one = replace(
        recipe, name=f"{recipe.name}-one", terms=terms, codes=codes, inference=None, episodes=None, background="scene"
    )
    for setting in settings:
        one = set_value(one, setting)
    return one


def scene_of(family: Family, number: int, train: Sequence[int]) -> Scene:
    """One scene of a family, of which these views train and none is held out."""
    views = torch.tensor(list(train))
    numbers = torch.full_like(views, number)
    cameras = cameras_of(family.poses(numbers, views), family.size, family.focal_px, family.centre_px)
    return Scene(
        name=f"{family.name}/{number}",
        path=None,
        format="family",
        names=tuple(f"{view:03d}" for view in train),
        cameras=cameras,
        pictures=Pictures.of(list(family.pictures(numbers, views))),
        split=Split("family", tuple(range(len(views))), ()),
        bounds=family.bounds,
        background=family.background,
        inward=family.inward,
        up=family.up,
        focus=family.focus.double(),
    )


def views_for(family: Family, number: int, count: int) -> tuple[Family, list[int]]:
    """The first `count` views of the protocol's order, and the family that has them: beyond what the targets leave, the
    same worlds are photographed again from further cameras of the same ring."""
    shown = fixed_order(family, [number])[0, :-TARGETS].tolist()
    if count <= len(shown):
        return family, shown[:count]
    more = count - len(shown)
    return seen_again(family, {}, family.views + more), shown + [family.views + i for i in range(more)]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model of one scene, asked for pictures of it: whatever is shown, it has seen all that it will."""

    model: Model

    def predict(self, shown: Views, asked: Views, draws: int = 0, generator: Generator | None = None) -> Prediction:
        return self.unseeing(asked)

    def unseeing(self, asked: Views) -> Prediction:
        rays, _ = rays_of(asked)
        parts = [(part.rgb.clamp(0, 1), part.distance) for part in self.model.render_in_chunks(rays, RAYS_AT_ONCE)]
        rgb, distance = (torch.cat(part) for part in zip(*parts))
        return Prediction(rgb.view_as(asked.rgb), distance.view(asked.rgb.shape[:-1]))


def fit_one(
    recipe: Recipe,
    family: Family,
    number: int,
    views: int,
    *,
    steps: int,
    every: int,
    seed: int,
    start: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Fit scene `number` from the first views of the protocol's order, and the scores of its best look at the targets.

    start  weights to begin with, by name; those that the model has not are left out

    The oracle favours the fit: nobody who has only these views could stop it there. The scores are those of
    `evaluate_family`, with the `step` of that look.
    """
    source, train = views_for(family, number, views)
    scene = scene_of(source, number, train)
    task = FitScene(settle(recipe, scene), scene, seed, CPU)
    if start is not None:
        own = task.model.state_dict()
        task.model.load_state_dict({name: start.get(name, value) for name, value in own.items()})
    best: dict[str, Any] = {}
    for step in range(steps):
        losses, _ = task.losses(step, step / steps)
        torch.stack(list(losses.values())).sum().backward()
        task.step()
        if (step + 1) % every == 0 or step + 1 == steps:
            scored = evaluate_family(Fitted(task.model), family, [number], (1,), sanity=False).scenes[0]
            if not best or scored["mse@1"] < best["mse"]:
                best = {key.removesuffix("@1"): value for key, value in scored.items() if key.endswith("@1")}
                best["step"] = step + 1
    return best
