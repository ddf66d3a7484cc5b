"""What one step means: everybody is asked, all is rendered once, each judges its own part, schedules are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp, MlpField
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule
from rayprior.priors import Distortion, Photometric, Prior, Term
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.model import Model
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query, Rays
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.recipe import Adam, Photo, Recipe
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene, generator_for, scene_for

SCENE = synthetic_scene("shapes", size=24, views=5, test_views=1, supersample=1)
CPU = torch.device("cpu")
RECIPE = Recipe(
    name="tiny",
    about="a small grid",
    field=Grid(levels=2, coarsest=4, finest=16, log2_entries=9, hidden=8),
    sampler=DensityGrid(resolution=8, bins=16, samples=6, test_samples=6, refresh_every=4),
    terms={"photometric": Photometric()},
    photo=Photo(rays=20),
)


@dataclass(frozen=True)
class Asks(Prior):
    """Wants rays of its own, remembers where each starts, and checks that it is shown just these."""

    weight: float | Schedule = 0.5
    rays: int = 7

    def query(self, scene: Scene, generator: Generator) -> Query:
        question = scene.unseen_rays(self.rays, generator, poses="hemisphere")
        return Query(question.rays, {"near": question.rays.near, "background": question.rays.background})

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        assert len(seen) == self.rays
        torch.testing.assert_close(seen.distribution.t[:, 0], known["near"])
        passed = 1 - seen.opacity.detach()[:, None]
        assert (seen.rgb.detach() - passed * known["background"] > -1e-5).all()
        return seen.opacity.mean()


@dataclass(frozen=True)
class AsksNothing(Asks):
    """A question without a ray in it: nothing up there today."""

    def query(self, scene: Scene, generator: Generator) -> Query:
        return super().query(scene, generator)[:0]

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        raise AssertionError("a mean of nothing was asked for")


@dataclass(frozen=True)
class Constant(Prior):
    """Its own option, as a number: what a schedule inside a term becomes."""

    level: float | Schedule = 1.0

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        assert isinstance(self.level, float)
        return 0 * seen.rgb.sum() + self.level


def task(terms: Mapping[str, Term] = RECIPE.terms, seed: int = 0, **changes) -> FitScene:
    return FitScene(settle(replace(RECIPE, terms=terms, **changes), SCENE), SCENE, seed, CPU)


@pytest.fixture
def rendered(monkeypatch) -> list[Rays]:
    """The rays of every call of `Model.render`, in order."""
    calls: list[Rays] = []
    render = Model.render

    def watched(self: Model, rays: Rays, generator: Generator | None = None) -> Rendering:
        calls.append(rays)
        return render(self, rays, generator)

    monkeypatch.setattr(Model, "render", watched)
    return calls


def same_rays(a: Rays, b: Rays) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("origins", "directions", "background"))


# -- who is asked, and what is rendered --------------------------------------------------------------------------------


def test_one_render_a_step_holds_everybodys_rays(rendered):
    both = task({"photometric": Photometric(), "first": Asks(), "distortion": Distortion(), "second": Asks(rays=3)})
    for step in range(3):
        losses, _ = both.losses(step, 0.0)
        assert list(losses) == ["photometric", "first", "distortion", "second"]
        assert both.rays == {"photo": 20, "first": 7, "second": 3}
        assert [len(rays) for rays in rendered] == [30] * (step + 1)


def test_the_same_photographs_whatever_else_is_asked(rendered):
    """Arms of a study that differ in their terms see the same photographed rays, on the same backgrounds."""
    arms = [
        task(),
        task({"distortion": Distortion(), "photometric": Photometric()}),
        task({"asks": Asks(), "photometric": Photometric()}),
        task({"photometric": Photometric()}, field=Mlp(depth=2, width=8, skip=0), sampler=CoarseField(4, 4)),
    ]
    for step in (0, 1, 5):
        rendered.clear()
        for arm in arms:
            arm.losses(step, 0.0)
        assert all(same_rays(rays[:20], rendered[0]) for rays in rendered)


def test_other_steps_and_other_seeds_draw_other_rays(rendered):
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        task(seed=seed).losses(step, 0.0)
    first, second, third, again = rendered
    assert same_rays(first, again)
    assert not same_rays(first, second)
    assert not same_rays(first, third)


def test_a_terms_draws_are_its_own(rendered):
    """They go by its name: neither another term nor its place in the recipe changes them."""
    task({"photometric": Photometric(), "asks": Asks()}).losses(2, 0.0)
    task({"other": Asks(rays=4), "asks": Asks(), "photometric": Photometric()}).losses(2, 0.0)
    alone, together = rendered
    assert same_rays(alone[20:27], together[24:31])
    assert not same_rays(alone[20:24], together[20:24])


def test_consumers_have_generators_of_their_own():
    drawn = {
        torch.rand(1, generator=generator_for(seed, step, name)).item()
        for seed in (0, 1)
        for step in (0, 1)
        for name in ("photo", "sampler", "refresh")
    }
    assert len(drawn) == 12


def test_an_empty_part_is_skipped_and_counted():
    fit = task({"photometric": Photometric(), "nothing": AsksNothing()})
    losses, error = fit.losses(0, 0.0)
    assert list(losses) == ["photometric"]
    assert fit.rays == {"photo": 20, "nothing": 0}
    assert losses["photometric"].detach() == error


def test_a_term_without_a_question_judges_the_photographs(rendered):
    """Of a batch that holds other rays too."""
    fit = task({"photometric": Photometric(weight=3.0), "asks": Asks()})
    losses, error = fit.losses(0, 0.0)
    torch.testing.assert_close(losses["photometric"].detach(), 3 * error)
    truth = SCENE.photo_rays(20, generator_for(0, 0, "photo")).known["rgb"]
    seen = fit.model.render(rendered[0], generator_for(0, 0, "sampler")).rgb[:20]
    torch.testing.assert_close(error, (seen.detach() - truth).square().mean())


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_weights_and_options_of_terms_follow_their_schedules():
    over_steps = Schedule(((0, 0.0), (10, 2.0)))
    over_budget = Schedule(((0.0, 1.0), (1.0, 3.0)), of="budget")
    fit = task({"photometric": Photometric(), "a": Constant(weight=over_steps), "b": Constant(level=over_budget)})
    for step, progress, a, b in ((0, 0.0, 0.0, 1.0), (5, 0.25, 1.0, 1.5), (10, 0.5, 2.0, 2.0), (99, 1.0, 2.0, 3.0)):
        losses, _ = fit.losses(step, progress)
        assert losses["a"].item() == pytest.approx(a)
        assert losses["b"].item() == pytest.approx(b)


def test_rates_follow_theirs_and_tables_have_their_own():
    over_steps = Schedule(((0, 1e-2), (10, 1e-4)), shape="log")
    over_budget = Schedule(((0.0, 1.0), (1.0, 0.0)), of="budget")
    fit = task(optimiser=Adam(lr=over_steps, tables=over_budget))
    tables, others = fit.optimiser.param_groups
    assert [id(p) for p in tables["params"]] == [id(p) for p in fit.model.field.tables()]
    assert len(tables["params"]) + len(others["params"]) == len(list(fit.model.parameters()))
    for step, progress, lr, table in ((0, 0.0, 1e-2, 1.0), (5, 0.5, 1e-3, 0.5), (10, 1.0, 1e-4, 0.0)):
        losses, _ = fit.losses(step, progress)
        torch.stack(list(losses.values())).sum().backward()
        fit.step()
        assert others["lr"] == pytest.approx(lr)
        assert tables["lr"] == pytest.approx(table)
        assert all(p.grad is None for p in fit.model.parameters())


def test_field_and_sampler_see_numbers():
    noise = Schedule(((0, 1.0), (10, 0.0)))
    fit = task(field=Mlp(depth=2, width=8, skip=0, noise_std=noise), sampler=CoarseField(4, 4), space=Space("free"))
    fields = [module for module in fit.model.modules() if isinstance(module, MlpField)]
    assert len(fields) == 2
    for step, value in ((0, 1.0), (4, 0.6), (10, 0.0)):
        fit.losses(step, 0.0)
        assert [field.config.noise_std for field in fields] == pytest.approx([value, value])


def test_the_crop_opens(rendered):
    """NeRF's first steps see the middle of the pictures only."""
    crop = Schedule(((0, 0.5), (9, 0.5), (10, 1.0)))
    fit = task(photo=Photo(rays=200, crop=crop, one_picture=True))
    for step, low, high in ((0, 6, 18), (9, 6, 18), (10, 0, 24)):
        fit.losses(step, 0.0)
        pixel, camera = rendered[-1].pixel, rendered[-1].camera
        assert len(camera.unique()) == 1
        assert pixel.min() < low + 2
        assert pixel.min() > low
        assert high - 2 < pixel.max() < high


# -- nothing is carried but weights and optimiser ----------------------------------------------------------------------


def test_asked_twice_a_step_answers_the_same():
    fit = task({"photometric": Photometric(), "asks": Asks(), "distortion": Distortion()})
    fit.losses(0, 0.0)  # fills the density grid
    first, second = (fit.losses(3, 0.0)[0] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_state_moves_to_another_task():
    """Weights and state of one task make another go on as it would: bit for bit, over a refresh of the grid."""

    def train(fit: FitScene, steps: range) -> dict[str, Tensor]:
        for step in steps:
            losses, _ = fit.losses(step, step / 10)
            torch.stack(list(losses.values())).sum().backward()
            fit.step()
        return fit.model.state_dict()

    terms = {"photometric": Photometric(), "distortion": Distortion(), "asks": Asks()}
    whole, other = task(terms), task(terms)
    train(other, range(2))  # of no account
    train(whole, range(5))
    other.model.load_state_dict(whole.model.state_dict())
    other.load_state(deepcopy(whole.state()))
    truth, got = train(whole, range(5, 10)), train(other, range(5, 10))
    assert all(torch.equal(got[name], value) for name, value in truth.items())


def test_a_foreign_optimiser_is_refused():
    fit, other = task(), task(field=Mlp(depth=2, width=8, skip=0), sampler=CoarseField(4, 4))
    for state in ({}, {"optimiser": None}, other.state()):
        with pytest.raises(UserError, match="not that of this recipe"):
            fit.load_state(state)


@pytest.mark.parametrize(("background", "colour"), [("white", (1.0, 1.0, 1.0)), ("black", (0.0, 0.0, 0.0))])
def test_a_named_background_is_that_of_truth_and_rendering(background, colour, rendered):
    fit = task(background=background)
    fit.losses(0, 0.0)
    assert (rendered[0].background == torch.tensor(colour)).all()
    assert scene_for(fit.recipe, SCENE).background.colour == colour
    assert scene_for(replace(fit.recipe, background="random"), SCENE).background.kind == "random"
