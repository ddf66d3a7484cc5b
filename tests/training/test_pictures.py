"""FitPictures, the rival's step: what it draws and judges, and that it carries nothing but weights and optimiser."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths.poses import look_at
from rayprior.maths.schedules import Schedule
from rayprior.maths.space import Box
from rayprior.networks.gqn import Gqn, GqnModel
from rayprior.rendering.samplers import Uniform
from rayprior.scenes.family import Family, Views
from rayprior.scenes.formats.family import Shard
from rayprior.scenes.scene import Background, Bounds, Split
from rayprior.training.family import draw_episode
from rayprior.training.pictures import FitPictures
from rayprior.training.recipe import Adam, Episodes, Recipe
from rayprior.training.tasks import generator_for

CPU = torch.device("cpu")
RECIPE = Recipe(
    name="tiny",
    about="a small rival",
    field=Gqn(representation=16, cores=2, hidden=16, latent=2, kernel=3, std=0.1),
    sampler=Uniform(),
    terms={},
    episodes=Episodes(scenes=4),
    optimiser=Adam(lr=5e-3),
)


def family(scenes: int = 5, views: int = 7, size: int = 16, test: int = 1) -> Family:
    """Each scene a colour, brighter above; a darker stripe stands where the camera's yaw says."""
    g = torch.Generator().manual_seed(0)
    yaw = torch.arange(views) * 2 * torch.pi / views
    eyes = torch.stack([yaw.cos(), yaw.sin(), torch.full_like(yaw, 0.5)], dim=1)
    poses = look_at(eyes, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])).expand(scenes, views, 3, 4)
    colour = 0.2 + 0.6 * torch.rand(scenes, 1, 1, 1, 3, generator=g)
    light = torch.linspace(1, 0.6, size)[:, None, None]
    column = torch.arange(size)[None, None, :, None]
    dark = (column / size - torch.arange(views)[:, None, None, None] / views).abs() < 0.15
    pictures = colour * light * torch.where(dark, 0.5, 1.0)
    return Family(
        name="stripes",
        path=Path("stripes"),
        kind="rooms",
        views=views,
        size=(size, size),
        focal_px=(float(size), float(size)),
        centre_px=(size / 2, size / 2),
        split=Split("last", tuple(range(scenes - test)), tuple(range(scenes - test, scenes))),
        bounds=Bounds(0.1, 3.0, Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))),
        background=Background("none"),
        shards=[Shard((pictures * 255).to(torch.uint8).numpy(), None, poses.numpy().astype(np.float32))],
        shard_scenes=scenes,
        has_depth=False,
        focus=torch.zeros(3),
    )


STRIPES = family()


def task(seed: int = 0, of: Family = STRIPES, **changes) -> FitPictures:
    return FitPictures(replace(RECIPE, **changes), of, seed, CPU)


def train(fit: FitPictures, steps: range) -> dict[str, Tensor]:
    for step in steps:
        losses, _ = fit.losses(step, step / 10)
        torch.stack(list(losses.values())).sum().backward()
        fit.step()
    return fit.model.state_dict()


@pytest.fixture
def drawn(monkeypatch) -> list[tuple[Tensor, Tensor]]:
    """Scenes and views of every call of `Family.shown`, in order: context, targets, the one that is predicted."""
    calls: list[tuple[Tensor, Tensor]] = []
    shown = Family.shown

    def watched(self: Family, scenes: Tensor, views: Tensor, present: Tensor | None = None) -> Views:
        calls.append((scenes, views))
        return shown(self, scenes, views, present)

    monkeypatch.setattr(Family, "shown", watched)
    return calls


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_targets_are_never_among_the_context(drawn):
    fit = task()
    counts = set()
    for step in range(40):
        drawn.clear()
        fit.losses(step, 0.0)
        (scenes, context), (same, targets), (also, one) = drawn
        assert torch.equal(scenes, same)
        assert torch.equal(scenes, also)
        assert set(scenes.tolist()) <= set(STRIPES.split.train)
        assert targets.shape == (4, 2)
        assert torch.equal(one, targets[:, :1])
        together = torch.cat([context, targets], dim=1)
        assert all(len(set(row)) == len(row) for row in together.tolist())
        counts.add(context.shape[1])
    assert counts == {1, 2, 3, 4, 5}


def test_the_views_of_a_step_are_those_of_its_rival(drawn):
    """Arms of a study that differ in the model see the same scenes, context and targets."""
    fit = task(seed=3)
    for step in (0, 7):
        drawn.clear()
        fit.losses(step, 0.0)
        episode = draw_episode(STRIPES, fit.episodes, generator_for(3, step, "episode"))
        assert torch.equal(drawn[0][0], episode.scenes)
        assert torch.equal(drawn[0][1], episode.context)
        assert torch.equal(drawn[1][1], episode.targets)


def test_the_smallest_family_that_can_be_drawn_from(drawn):
    """Three views: one is shown, two are judged."""
    fit = task(of=family(views=3))
    for step in range(5):
        fit.losses(step, 0.0)
    assert {tuple(views.shape) for _, views in drawn} == {(4, 1), (4, 2)}


def test_pictures_of_another_size_are_refused():
    with pytest.raises(UserError, match=r"pictures of 18x18: .*multiples of 4; make the family anew"):
        task(of=family(size=18))


# -- what is judged ----------------------------------------------------------------------------------------------------


def test_the_losses_are_the_bound_for_each_value():
    fit = task()
    losses, _ = fit.losses(2, 0.0)
    assert list(losses) == ["likelihood", "kl"]
    assert fit.rays == {"photo": 4 * 2 * 16 * 16}
    episode = draw_episode(STRIPES, fit.episodes, generator_for(0, 2, "episode"))
    r = fit.model.represent(STRIPES.shown(episode.scenes, episode.context))
    asked = STRIPES.shown(episode.scenes, episode.targets)
    nll, kl, _ = fit.model.loss_parts(r, asked, generator_for(0, 2, "latents"))
    torch.testing.assert_close(losses["likelihood"], nll.mean() / 768)
    torch.testing.assert_close(losses["kl"], kl.mean() / 768)


def test_the_error_is_that_of_predictions(monkeypatch):
    """Not of the posterior's pictures, which saw the answer: however good those are, it stays what it is."""
    fit = task()
    _, error = fit.losses(2, 0.0)
    assert not error.requires_grad
    parts = GqnModel.loss_parts
    monkeypatch.setattr(
        GqnModel, "loss_parts", lambda self, r, query, generator: (*parts(self, r, query, generator)[:2], query.rgb)
    )
    assert torch.equal(fit.losses(2, 0.0)[1], error)
    episode = draw_episode(STRIPES, fit.episodes, generator_for(0, 2, "episode"))
    r = fit.model.represent(STRIPES.shown(episode.scenes, episode.context))
    asked = STRIPES.shown(episode.scenes, episode.targets[:, :1])
    torch.testing.assert_close(error, (fit.model.predict(r, asked) - asked.rgb).square().mean())


def test_gradients_reach_every_parameter():
    fit = task()
    losses, _ = fit.losses(0, 0.0)
    torch.stack(list(losses.values())).sum().backward()
    missing = [name for name, p in fit.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


@pytest.mark.parametrize("camera", ["seven", "rays"])
def test_four_scenes_are_learned(camera):
    """Predicted from other views: the error falls to less than half of what the mean of all pictures makes."""
    fit = task(field=replace(RECIPE.field, camera=camera))  # type: ignore[type-var]
    train(fit, range(250))
    errors = torch.stack([fit.losses(step, 1.0)[1] for step in range(250, 260)])
    pictures = torch.as_tensor(STRIPES.shards[0].pictures[:4]).float() / 255
    assert errors.mean() < 0.4 * pictures.var(dim=(0, 1), correction=0).mean()


# -- schedules, clipping -----------------------------------------------------------------------------------------------


def test_deviation_and_rate_follow_their_schedules():
    std, lr = Schedule(((0, 0.5), (10, 0.1))), Schedule(((0.0, 1e-2), (1.0, 0.0)), of="budget")
    fit = task(field=replace(RECIPE.field, std=std), optimiser=Adam(lr=lr))  # type: ignore[type-var]
    for step, progress, deviation, rate in ((0, 0.0, 0.5, 1e-2), (5, 0.25, 0.3, 7.5e-3), (10, 1.0, 0.1, 0.0)):
        losses, _ = fit.losses(step, progress)
        assert fit.model.config.std == pytest.approx(deviation)
        torch.stack(list(losses.values())).sum().backward()
        fit.step()
        assert fit.optimiser.param_groups[0]["lr"] == pytest.approx(rate)
        assert all(p.grad is None for p in fit.model.parameters())


def test_the_gradient_is_clipped(monkeypatch):
    """To length 1, whatever the loss says."""
    fit, lengths = task(), []
    take = fit.optimiser.step

    def watched() -> None:
        lengths.append(torch.stack([p.grad.norm() for p in fit.model.parameters() if p.grad is not None]).norm())
        take()

    monkeypatch.setattr(fit.optimiser, "step", watched)
    for scale in (1e4, 1e-4):
        losses, _ = fit.losses(0, 0.0)
        (scale * torch.stack(list(losses.values())).sum()).backward()
        fit.step()
    assert lengths[0] == pytest.approx(1, abs=1e-3)
    assert lengths[1] < 0.1


# -- nothing is carried but weights and optimiser ----------------------------------------------------------------------


def test_asked_twice_a_step_answers_the_same():
    fit = task()
    (first, error), (second, again) = (fit.losses(3, 0.0) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(error, again)


def test_a_run_resumes_to_the_same_bits(tmp_path):
    """Weights and state, written and read, make another task go on as this one would."""
    whole, other = task(), task()
    train(other, range(2))  # of no account
    train(whole, range(4))
    torch.save((whole.model.state_dict(), whole.state()), tmp_path / "state.pt")
    truth = deepcopy(train(whole, range(4, 8)))
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    other.model.load_state_dict({name: value.contiguous() for name, value in weights.items()})  # as files hold them
    other.load_state(state)
    got = train(other, range(4, 8))
    assert all(torch.equal(got[name], value) for name, value in truth.items())


def test_other_seeds_are_other_trainings():
    first, second = (train(task(seed), range(2)) for seed in (0, 1))
    assert not torch.equal(first["start.weight"], second["start.weight"])


def test_a_foreign_optimiser_is_refused():
    fit = task()
    other = task(field=replace(RECIPE.field, cores=1))  # type: ignore[type-var]
    for state in ({}, {"optimiser": None}, other.state()):
        with pytest.raises(UserError, match="not that of this recipe"):
            fit.load_state(state)
