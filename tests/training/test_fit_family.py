"""FitFamily: one step on many scenes. What it draws and judges, and that parts, views and stops change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from families import balls
from rayprior.errors import UserError
from rayprior.fields.codes import Codes
from rayprior.fields.scene_function import SceneFunction
from rayprior.methods import METHODS
from rayprior.networks.encoder import Encoder
from rayprior.networks.refinement import Refinement
from rayprior.priors.spec import parse_priors
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.inference import Inference
from rayprior.rendering.samplers import Guide
from rayprior.scenes.family import Family
from rayprior.training.bill import bill
from rayprior.training.budget import Budget
from rayprior.training.family import FitFamily, draw_episode, judged_pixels
from rayprior.training.fit import fit, go_on
from rayprior.training.loop import Progress
from rayprior.training.recipe import Adam, Episodes, Photo, Recipe
from rayprior.training.run import Run, load_run
from rayprior.training.settle import settle
from rayprior.training.tasks import generator_for

CPU = torch.device("cpu")
BALLS = balls()
SMALL = replace(
    METHODS["nerf-vae"],
    field=SceneFunction(width=16, octaves=4, view_octaves=2),
    sampler=CoarseField(coarse=8, fine=8),
    compositing=Compositing(),  # balls hang before nothing: no walls end their rays
    codes=Codes(latent=8),
    inference=Inference(Encoder(side=4, hidden=16), Refinement(hidden=16), rays=6),
    episodes=Episodes(scenes=4, context=5, targets=2),
    photo=Photo(rays=32),
)


def with_refinements(recipe: Recipe, count: int) -> Recipe:
    assert recipe.inference is not None
    return replace(recipe, inference=replace(recipe.inference, refinements=count))


def with_episodes(recipe: Recipe, **changes) -> Recipe:
    assert recipe.episodes is not None
    return replace(recipe, episodes=replace(recipe.episodes, **changes))


def task(recipe: Recipe = SMALL, family: Family = BALLS, seed: int = 0) -> FitFamily:
    return FitFamily(settle(recipe, family), family, seed, CPU)


def step(fit: FitFamily, at: int, progress: float = 0.5) -> dict[str, float]:
    losses, _ = fit.losses(at, progress)
    torch.stack(list(losses.values())).sum().backward()
    fit.step()
    return {name: float(loss.detach()) for name, loss in losses.items()}


def wake(fit: FitFamily) -> FitFamily:
    """AIN starts as the identity, and a step from there moves little: let the latent matter."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in fit.model.named_parameters():
            if ".shifts." in name or ".scales." in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=g))
    return fit


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_targets_are_never_among_the_context():
    """Over many draws; every count from 1 to what leaves the targets comes up, and whole scenes alone are different."""
    counts, held = set(), set(BALLS.split.test)
    for k in range(300):
        episode = draw_episode(BALLS, Episodes(scenes=4), generator_for(0, k, "episode"))
        both = torch.cat([episode.context, episode.targets], dim=1).sort(dim=1).values
        assert (both[:, 1:] > both[:, :-1]).all()
        assert len(set(episode.scenes.tolist())) == 4
        assert not held & set(episode.scenes.tolist())
        assert episode.targets.shape[1] == 2
        counts.add(episode.context.shape[1])
    assert counts == {1, 2, 3}


@pytest.mark.parametrize(("views", "counts"), [(3, {1}), (4, {1, 2}), (7, {1, 2, 3, 4, 5}), (9, {1, 2, 3, 4, 5})])
def test_context_counts_cover_what_views_allow(views: int, counts: set[int]):
    family = balls(views=views, size=8)
    drawn = [draw_episode(family, Episodes(), generator_for(1, k, "episode")).context.shape[1] for k in range(120)]
    assert set(drawn) == counts


def test_judged_pixels_are_of_targets_and_stand_for_all():
    episode = draw_episode(BALLS, Episodes(scenes=4), generator_for(0, 0, "episode"))
    asked = judged_pixels(BALLS, episode, 32, generator_for(0, 0, "photo"))
    assert asked.rays.scene.view(4, 8).unique(dim=1).flatten().tolist() == episode.scenes.tolist()
    for slot in range(4):
        assert set(asked.rays.camera.view(4, 8)[slot].tolist()) <= set(episode.targets[slot].tolist())
    assert float(asked.known["stands_for"].sum()) == 4 * 2 * 16 * 16


def test_a_family_smaller_than_an_episode_judges_each_draw_by_its_own_latent():
    """A scene that is drawn twice is shown and judged by other views each time."""
    fit = task(with_episodes(SMALL, scenes=6), balls(scenes=4, test=1))
    episode = draw_episode(fit.family, fit.episodes, generator_for(0, 0, "episode"))
    asked = fit._ask(fit.recipe, episode, lambda name: generator_for(0, 0, name))
    assert episode.scenes.tolist() == [*episode.scenes[:3].tolist()] * 2
    for slot, camera in zip(asked.slot.tolist(), asked.questions["photo"].rays.camera.tolist(), strict=True):
        assert camera in episode.targets[slot]
        assert camera not in episode.context[slot]


# -- what is judged ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refinements", [0, 1])
@pytest.mark.parametrize("kind", ["mlp", "ain", "attention"])
def test_gradients_reach_every_parameter(refinements: int, kind):
    recipe = replace(SMALL, field=replace(SMALL.field, kind=kind, tokens=4, attended=8))
    fit = task(with_refinements(recipe, refinements))
    missing: set[str] = {name for name, parameter in fit.model.named_parameters() if parameter.requires_grad}
    for k in range(3):  # what is told through weights that start at zero learns after they do
        losses, _ = fit.losses(k, 1.0)
        torch.stack(list(losses.values())).sum().backward()
        missing -= {name for name, p in fit.model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        fit.step()
    assert not missing, f"no gradient reaches {sorted(missing)}"
    assert {name for name, p in fit.model.named_parameters() if not p.requires_grad} == {"codes.latent"}


def test_a_step_equals_the_plain_reference():
    """The negative ELBO of the judged pixels for each of their values, one ray after another."""
    fit = wake(task())
    with torch.no_grad():
        check_a_step(fit)


def check_a_step(fit: FitFamily) -> None:
    losses, error = fit.losses(7, 1.0)
    episode = draw_episode(BALLS, fit.episodes, generator_for(0, 7, "episode"))
    asked = judged_pixels(BALLS, episode, 32, generator_for(0, 7, "photo"))
    model = fit.model
    posterior = model.infer(BALLS.shown(episode.scenes, episode.context))[0]
    noise = torch.randn(4, 8, generator=generator_for(0, 7, "latent"))
    z = posterior.mean + posterior.log_std.exp() * noise
    code = replace(model.codes(asked.rays.camera), latent=z.repeat_interleave(8, dim=0))
    seen = model.render(asked.rays, generator_for(0, 7, "sampler"), code=code)
    pixels = 2 * 16 * 16  # of a scene's targets
    nats, kl, squares = 0.0, 0.0, 0.0
    for ray in range(32):
        for level in (seen, seen.coarse):
            for channel in range(3):
                away = float(level.rgb[ray, channel] - asked.known["rgb"][ray, channel])
                normal = torch.distributions.Normal(0.0, 0.1).log_prob(torch.tensor(away))
                nats -= float(normal) * pixels / 8
        squares += float((seen.rgb[ray] - asked.known["rgb"][ray]).square().sum())
    for mean, std in zip(posterior.mean.flatten().tolist(), posterior.std.flatten().tolist(), strict=True):
        kl += 0.5 * (mean**2 + std**2 - 1) - torch.tensor(std).log().item()
    assert float(losses["scene_likelihood"]) == pytest.approx(nats / (3 * 4 * pixels), rel=1e-5)
    assert float(losses["latent_kl"]) == pytest.approx(kl / (3 * 4 * pixels), rel=1e-5)
    assert float(error) == pytest.approx(squares / 96, rel=1e-5)


def test_no_refinement_is_no_refinement_module():
    plain, refined = task(), task(with_refinements(SMALL, 2))
    assert plain.model.inferrer.refinement is None
    refined.model.load_state_dict(plain.model.state_dict(), strict=False)
    shown = BALLS.shown(torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 3]]))
    alone, first = plain.model.infer(shown), refined.model.infer(shown, refinements=0)
    assert len(alone) == len(first) == 1
    assert torch.equal(alone[0].mean, first[0].mean)
    assert torch.equal(alone[0].log_std, refined.model.infer(shown)[0].log_std)


def test_a_refinement_learns():
    fit = wake(task(with_refinements(SMALL, 1)))
    before = [p.clone() for p in fit.model.inferrer.refinement.parameters()]
    for k in range(3):
        losses = step(fit, k)
        assert all(torch.isfinite(torch.tensor(loss)) for loss in losses.values())
    after = list(fit.model.inferrer.refinement.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("refinements", [0, 1])
def test_the_order_of_the_context_changes_nothing(refinements: int):
    fit = wake(task(with_refinements(SMALL, refinements)))
    views = torch.tensor([[0, 1, 2], [4, 2, 1]])
    scenes = torch.tensor([0, 3])
    a = fit.model.infer(BALLS.shown(scenes, views))
    b = fit.model.infer(BALLS.shown(scenes, views[:, [2, 0, 1]]))
    torch.testing.assert_close(a[0].mean, b[0].mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(a[0].log_std, b[0].log_std, rtol=0, atol=1e-5)
    assert len(a) == 1 + refinements


def test_it_learns_more_than_the_mean_picture():
    """Of other views than were shown, after a few seconds."""
    family = balls(scenes=4, test=1, size=8)
    field = SceneFunction(kind="mlp", width=24, octaves=4, view_octaves=2)
    fit = task(replace(SMALL, field=field, optimiser=Adam(lr=5e-3), photo=Photo(rays=128)), family)
    for k in range(200):
        step(fit, k, progress=k / 300)
    train = torch.tensor(family.split.train)
    pictures = torch.stack([family.pictures(train, torch.full_like(train, view)) for view in range(5)]).float() / 255
    mean = (pictures - pictures.mean(dim=(0, 1))).square().mean()
    with torch.no_grad():
        errors = [float(fit.losses(1000 + k, 1.0)[1]) for k in range(60)]
    assert sum(errors) / len(errors) < 0.9 * float(mean)


# -- parts and stops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("refinements", [0, 1])
def test_parts_are_the_whole(parts: int, refinements: int):
    """Losses and gradients of a step in parts are those of the step at once."""
    whole = wake(task(with_refinements(SMALL, refinements)))
    cut = wake(task(with_episodes(with_refinements(SMALL, refinements), accumulate=parts)))
    found = []
    for one in (whole, cut):
        losses, error = one.losses(3, 1.0)
        torch.stack(list(losses.values())).sum().backward()
        gradients = {name: p.grad for name, p in one.model.named_parameters() if p.grad is not None}
        found.append((losses, {"error": error}, gradients))
    assert whole.rays == cut.rays
    for a, b in zip(*found, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_parts_of_a_mean_over_rays_are_the_whole():
    """Rays of a term's own question, of which parts have unequally many, and pairs of rays, which stay together."""
    said = ("entropy:rays=30,per=rays", "information_gain:rays=20", "distortion")
    recipe = with_priors(SMALL, said)
    one = task(recipe).losses(2, 1.0)[0]
    many = task(with_episodes(recipe, accumulate=3)).losses(2, 1.0)[0]
    assert one.keys() == many.keys()
    for name in set(one) - {"information_gain"}:  # the mean of pairs that both hit something
        torch.testing.assert_close(one[name], many[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one["information_gain"], many["information_gain"], rtol=0.2, atol=1e-3)


class Stopped(Exception):
    """As a kill in the middle of a run would."""


def stop_at(step: int) -> Callable[[Progress], None]:
    def watch(now: Progress) -> None:
        if now.step == step:
            raise Stopped

    return watch


@pytest.mark.parametrize("recipe", [SMALL, with_episodes(with_refinements(SMALL, 1), accumulate=2)], ids=["", "parts"])
def test_resumed_it_ends_with_the_same_bits(recipe: Recipe, tmp_path: Path):
    steps = 12
    whole = fit(recipe, BALLS, steps=steps, out=tmp_path / "whole", threads=1, device="cpu")
    with pytest.raises(Stopped):
        fit(recipe, BALLS, steps=steps, out=tmp_path / "cut", threads=1, device="cpu", watch=stop_at(7))
    cut = go_on(Run.open(tmp_path / "cut"), BALLS)
    file = f"checkpoints/step-{steps:06d}/model.safetensors"
    assert (cut.path / file).read_bytes() == (whole.path / file).read_bytes()
    losses = [[(row["step"], row["losses"], row["rays"]) for row in run.read_log()] for run in (cut, whole)]
    assert losses[0] == losses[1]
    model = load_run(whole.path).model
    shown = BALLS.shown(torch.tensor([6]), torch.tensor([[0, 1]]))
    assert torch.equal(model.infer(shown)[-1].mean, load_run(cut.path).model.infer(shown)[-1].mean)


# -- with what the rest of the house has -------------------------------------------------------------------------------


def with_priors(recipe: Recipe, said: tuple[str, ...]) -> Recipe:
    return replace(recipe, terms={**recipe.terms, **parse_priors(said)})


PRIORS = {
    "depth": ("depth",),
    "free_space": ("free_space",),
    "entropy": ("entropy:rays=8",),
    "entropy-both": ("entropy:rays=8,on=both,poses=hemisphere",),
    "information_gain": ("information_gain:rays=8",),
    "occlusion": ("occlusion",),
    "distortion": ("distortion",),
    "all": ("depth", "entropy:rays=8", "distortion"),
}


@pytest.mark.parametrize("said", PRIORS.values(), ids=PRIORS)
def test_priors_train_as_they_are_typed(said: tuple[str, ...]):
    """No word of families in any of them. Each has a loss of its own, rays of the episode's scenes, and a gradient."""
    fit = task(with_priors(with_refinements(SMALL, 1), said))
    assert settle(fit.recipe, BALLS) == fit.recipe
    losses, _ = fit.losses(0, 1.0)
    assert losses.keys() == fit.recipe.terms.keys()
    assert all(bool(loss.isfinite()) for loss in losses.values())
    own = [name for name in fit.rays if name != "photo"]
    counted = bill(fit.recipe, BALLS, Budget(steps=10))
    assert counted.rays == {"photo": 32, **dict.fromkeys(own, 8)} == fit.rays
    asked = fit._ask(fit.recipe, draw_episode(BALLS, fit.episodes, generator_for(0, 0, "episode")), seeded)
    assert set(asked.rays.scene.tolist()) <= set(BALLS.split.train)
    for name in losses.keys() - {"latent_kl", "scene_likelihood"}:
        for parameter in fit.model.parameters():
            parameter.grad = None
        fit.losses(0, 1.0)[0][name].backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in fit.model.field.parameters()), name
    assert {name: step(fit, k)[name] for k in range(2) for name in losses}.keys() == losses.keys()


def seeded(name: str):
    return generator_for(0, 0, name)


def test_depth_knows_what_rays_of_training_scenes_meet():
    """A distance for every judged pixel that shows the ball; a prior alone, it teaches the field where that is."""
    recipe = replace(SMALL, terms={"depth": parse_priors(("depth:weight=1",))["depth"]}, optimiser=Adam(lr=4e-3))
    fit = task(recipe)
    first = sum(float(fit.losses(k, 1.0)[0]["depth"].detach()) for k in range(8))
    for k in range(30):
        step(fit, k)
    assert sum(float(fit.losses(k, 1.0)[0]["depth"].detach()) for k in range(8)) < 0.9 * first


def test_depth_of_a_family_without_is_refused():
    family = replace(BALLS, has_depth=False)
    with pytest.raises(UserError, match="nothing tells where rays end"):
        bill(settle(with_priors(SMALL, ("depth",)), family), family, Budget(steps=10))
    with pytest.raises(UserError, match=r"no sparse points \(at=keypoints\)"):
        bill(settle(with_priors(SMALL, ("depth:at=keypoints",)), BALLS), BALLS, Budget(steps=10))
    guided = replace(SMALL, sampler=replace(SMALL.sampler, guide=Guide(share=0.5)))
    with pytest.raises(UserError, match="none are known"):
        settle(guided, family)
    step(task(guided), 0)  # where distances are known they guide


@pytest.mark.parametrize(
    "codes", [Codes(latent=8, appearance=3), Codes(latent=8, affine=True), Codes(latent=8, transient=2, layers=1)]
)
def test_photographs_learn_codes_of_their_own(codes: Codes):
    """A row for each picture of each scene; those that were judged move, no others, and unknown ones have the mean."""
    family = balls(jitter=1.5)
    fit = task(with_refinements(replace(SMALL, codes=codes), 1), family)
    table = fit.model.codes
    assert fit.recipe.codes.photographs == 8 * 5 == bill_rows(fit)
    assert table.trained.view(8, 5).all(dim=1).tolist() == [True] * 6 + [False] * 2
    rows = next(t for t in (table.appearance, table.affine, table.transient) if t is not None)
    before = rows.detach().clone()
    episode = draw_episode(family, fit.episodes, generator_for(0, 0, "episode"))
    seen = (episode.scenes[:, None] * 5 + episode.targets).flatten().tolist()
    step(fit, 0)
    if codes.appearance or codes.affine:
        moved = (rows != before).any(dim=1).nonzero()[:, 0].tolist()
        assert moved
        assert set(moved) <= set(seen)
    step(fit, 1)
    shown = family.shown(torch.tensor([6]), torch.tensor([[0, 1]]))
    assert fit.model.infer(shown)[-1].mean.isfinite().all()
    rays = family.rays(torch.tensor([0]), torch.tensor([1]), torch.tensor([[4.5, 4.5]]))
    assert fit._photographs(rays).tolist() == [1]
    assert fit._photographs(replace(rays, scene=torch.tensor([3]))).tolist() == [16]
    assert fit._photographs(replace(rays, camera=torch.tensor([-1]))).tolist() == [-1]


def bill_rows(fit: FitFamily) -> int:
    """What the bill counts: a number of rows that differs costs more."""
    counted = bill(fit.recipe, balls(), Budget(steps=10)).memory["model"]
    more = replace(fit.recipe, codes=replace(fit.recipe.codes, photographs=140))
    row = fit.recipe.codes.appearance + 6 * fit.recipe.codes.affine + fit.recipe.codes.transient
    fields = 2  # a coarse field is billed as another of the same
    return 140 - (bill(more, balls(), Budget(steps=10)).memory["model"] - counted) // (4 * fields * row)


def test_codes_tell_exposures_apart():
    """Gains of photographs, on a family whose pictures are darker at random: their likelihood is better with them."""
    family = balls(scenes=6, test=1, jitter=2.0)
    found = []
    for codes in (Codes(latent=8), Codes(latent=8, affine=True)):
        fit = task(replace(SMALL, codes=codes, optimiser=Adam(lr=1e-2), photo=Photo(rays=64)), family)
        for k in range(300):
            step(fit, k)
        with torch.no_grad():
            found.append(sum(float(fit.losses(1000 + k, 1.0)[1]) for k in range(20)))
    assert found[1] < 0.95 * found[0]


def test_the_bill_counts_what_a_step_keeps():
    """Parts share its memory, refinements add a rendering each, and what is computed once a ray is counted once."""

    def activations(recipe: Recipe) -> int:
        return bill(settle(recipe, BALLS), BALLS, Budget(steps=10)).memory["activations"]

    one, more = activations(SMALL), activations(replace(SMALL, photo=Photo(rays=64)))
    samples = 32 * (8 + 16)
    assert 2 * 16 * 5 * 4 < (more - one) / samples < 4 * (27 + 16 * 8 + 24) * 4
    assert activations(with_episodes(SMALL, accumulate=4)) == one // 4
    assert activations(with_refinements(SMALL, 1)) - one == more - one
    assert activations(replace(SMALL, codes=Codes(latent=800))) < 1.5 * one


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_more_parts_than_scenes_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"4 scenes a step are too few for 1 processes with 5 parts each"):
        fit(with_episodes(SMALL, accumulate=5), BALLS, steps=2, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_bf16_is_the_same_step_but_for_its_digits():
    exact, short = (wake(task(with_episodes(with_refinements(SMALL, 1), bf16=bf16))) for bf16 in (False, True))
    losses, rough = exact.losses(0, 1.0)[0], short.losses(0, 1.0)[0]
    for name in losses:
        assert rough[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], rough[name], rtol=0.05, atol=0.02)
    torch.stack(list(rough.values())).sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in short.model.parameters())
