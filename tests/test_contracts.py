"""The contracts of every Term, Field, Sampler, Space and Recipe. A new part joins by one word, or by none."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
import torch
from torch import Generator, Tensor, nn

from families import balls
from rayprior.errors import UserError
from rayprior.fields.codes import Code, Codes, Posterior
from rayprior.fields.field import Field
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp, MlpField
from rayprior.fields.scene_function import SceneFunction
from rayprior.fields.space import Space
from rayprior.maths import stepfun
from rayprior.maths.space import Box
from rayprior.methods import METHODS, with_field, with_size
from rayprior.priors import TERMS
from rayprior.priors.term import Adversary, Term
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.model import Model
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.rendering.samplers import Uniform
from rayprior.scenes.rays import Query, Rays
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.budget import Budget
from rayprior.training.family import FitFamily
from rayprior.training.fit import task_of
from rayprior.training.recipe import FieldConfig, Recipe, SamplerConfig
from rayprior.training.run import Conditions, Opening, Run
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene

# -- what is held to the contracts -------------------------------------------------------------------------------------

FIELDS = {
    "grid-feature": Grid(levels=4, coarsest=4, finest=32, log2_entries=10, head="feature", hidden=8),
    "grid-sh": Grid(levels=4, coarsest=4, finest=32, log2_entries=10, head="sh"),
    "grid-mlp": Grid(levels=4, coarsest=4, finest=32, log2_entries=10, head="mlp", hidden=8),
    "mlp-relu": Mlp(depth=3, width=16, skip=1, octaves=3, view_octaves=2, density="relu"),
    "mlp-softplus": Mlp(depth=3, width=16, skip=1, octaves=3, view_octaves=2, density="softplus"),
    "mlp-plain-colour": Mlp(depth=3, width=16, skip=1, octaves=3, view_directions=False),
    "scene-mlp": SceneFunction(kind="mlp", width=16, depth=3, octaves=3, view_octaves=2),
    "scene-ain": SceneFunction(kind="ain", width=16, depth=3, octaves=3, view_octaves=2),
    "scene-attention": SceneFunction("attention", 16, 3, octaves=3, view_octaves=2, attended=8, tokens=4),
}
SAMPLERS = {
    "uniform": Uniform(12),
    "inverse": Uniform(12, spacing="inverse"),
    "coarse": CoarseField(coarse=8, fine=8),
    "density-grid": DensityGrid(resolution=12, bins=32, samples=8, test_samples=12),
}
SPACES = {
    "box": Space("box", box=Box((-2.0, -2.0, 1.0), (2.0, 2.0, 6.0))),
    "contraction": Space("contraction"),
    "free": Space("free"),
    "ndc": Space("ndc", ndc=(2.0, 2.5, 1.0)),
}
COMPOSITINGS = {"middle": Compositing(), "left-opaque": Compositing(at="left", opaque_tail=True)}
BOUNDED = ("box", "contraction")  # a grid of cells has to end somewhere
Parts = tuple[FieldConfig, SamplerConfig, Space, Compositing]


def goes_together(field: FieldConfig, sampler: SamplerConfig, space: Space, how: Compositing) -> bool:
    """The opaque tail wants a density that can be zero; grids, be they of features or of densities, want bounds."""
    if isinstance(field, SceneFunction) and isinstance(sampler, DensityGrid):
        return False  # it remembers the densities of one scene
    cells = isinstance(field, Grid) or isinstance(sampler, DensityGrid)
    can_be_zero = isinstance(field, Mlp) and field.density == "relu"
    return (space.kind in BOUNDED or not cells) and (not how.opaque_tail or (can_be_zero and not cells))


COMBINATIONS: dict[str, Parts] = {
    "/".join(names): parts
    for names, parts in zip(
        product(FIELDS, SAMPLERS, SPACES, COMPOSITINGS),
        product(FIELDS.values(), SAMPLERS.values(), SPACES.values(), COMPOSITINGS.values()),
        strict=True,
    )
    if goes_together(*parts)
}
SCENE = synthetic_scene("shapes", size=24, views=5, test_views=1, supersample=1)
FAMILY = balls()
RECIPES: dict[str, Recipe] = {
    f"{name}/{field}": settle(with_size(with_field(recipe, field), "small"), SCENE)
    for name, recipe in METHODS.items()
    if recipe.episodes is None
    for field in ("grid", "mlp")
}
OF_FAMILIES: dict[str, Recipe] = {
    name: settle(with_size(recipe, "small"), FAMILY) for name, recipe in METHODS.items() if recipe.episodes is not None
}
RENDERING_FAMILIES = {name: recipe for name, recipe in OF_FAMILIES.items() if recipe.inference is not None}


def test_no_part_is_left_out():
    for kind, held in ((FieldConfig, FIELDS), (SamplerConfig, SAMPLERS)):
        missing = set(get_args(kind)) - {type(part) for part in held.values()}
        assert not missing, f"{missing} has no row above"
    kinds = set(get_args(Space.__dataclass_fields__["kind"].type)) or {"box", "contraction", "free", "ndc"}
    assert kinds - {"auto"} == {space.kind for space in SPACES.values()}
    for axis, names in enumerate((FIELDS, SAMPLERS, SPACES, COMPOSITINGS)):
        assert {key.split("/")[axis] for key in COMBINATIONS} == set(names)


@pytest.mark.parametrize("kind", ["free", "ndc"])
@pytest.mark.parametrize("parts", [("grid-sh", "coarse"), ("mlp-relu", "density-grid"), ("grid-mlp", "density-grid")])
def test_a_grid_in_a_space_without_end_is_refused(parts, kind):
    """With a message for the user: the combinations that are left out above cannot be trained either."""
    field, sampler = FIELDS[parts[0]], SAMPLERS[parts[1]]
    recipe = replace(METHODS["nerf"], field=field, sampler=sampler, space=SPACES[kind])
    with pytest.raises(UserError, match=f"space.kind={kind} has no end"):
        settle(recipe, SCENE)


combinations = pytest.mark.parametrize("parts", COMBINATIONS.values(), ids=COMBINATIONS)
recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
of_families = pytest.mark.parametrize("recipe", OF_FAMILIES.values(), ids=OF_FAMILIES)
rendering_families = pytest.mark.parametrize("recipe", RENDERING_FAMILIES.values(), ids=RENDERING_FAMILIES)


# -- models and rays ---------------------------------------------------------------------------------------------------


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def built(parts: Parts, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    model = Model.build(*parts)
    for module in model.modules():
        if isinstance(module, MlpField):  # a ReLU density may be born dead; where it is alive is asked here
            module.density_head.bias.data += 0.5
    model.refresh(0, seeded(seed))
    return model


def forward_rays(count: int = 40, seed: int = 1) -> Query:
    """Rays that every space can hold: from around the origin forward, through the box, with a colour known of each."""
    g = seeded(seed)
    origins = 0.1 * torch.randn(count, 3, generator=g)
    directions = torch.cat([0.3 * torch.randn(count, 2, generator=g), torch.ones(count, 1)], dim=1)
    rays = Rays.through(origins, directions, 1.2, 6.0, background=(0.2, 0.5, 0.9))
    return Query(rays, {"rgb": torch.rand(count, 3, generator=g)})


class Forced(Field):
    """A field whose density is set to a value, exactly, while gradients still pass to the field that it was."""

    def __init__(self, field: Field, density: float) -> None:
        super().__init__()
        self.inner, self.value, self.deferred, self.features = field, density, field.deferred, field.features

    def density(
        self, x: Tensor, generator: Generator | None = None, latent: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        density, feature = self.inner.density(x, generator, latent)
        behind = x[..., 2] > 3 if self.value else torch.ones_like(density, dtype=torch.bool)
        return (density - density.detach()) + torch.where(behind, self.value, 0.0), feature

    def colour(self, feature: Tensor, directions: Tensor, appearance: Tensor | None = None) -> Tensor:
        return self.inner.colour(feature, directions, appearance)

    def tables(self) -> list[nn.Parameter]:
        return self.inner.tables()


def force(module: nn.Module, density: float) -> None:
    """Replace every field inside a model, the coarse one too."""
    for name, child in list(module.named_children()):
        setattr(module, name, Forced(child, density)) if isinstance(child, Field) else force(child, density)


def tensors(value: Any, name: str = "rendering") -> Iterator[tuple[str, Tensor]]:
    """All tensors inside a rendering by their path, so that a new one is held to the contracts at once."""
    if isinstance(value, Tensor):
        yield name, value
    elif is_dataclass(value):
        for part in fields(value):
            yield from tensors(getattr(value, part.name), f"{name}.{part.name}")


def assert_same(a: Any, b: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Equal bit for bit, or within a tolerance."""
    left, right = dict(tensors(a)), dict(tensors(b))
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def assert_finite(model: nn.Module, seen: Rendering) -> None:
    for name, value in tensors(seen):
        assert value.isfinite().all(), f"{name} is not finite"
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"


# -- every field with every sampler in every space ---------------------------------------------------------------------


@combinations
@pytest.mark.parametrize("density", [0.0, 1e6], ids=["empty", "wall"])
def test_finite_at_the_extremes(parts, density):
    """At zero density the background is all there is; at an opaque wall nothing of it."""
    model, query = built(parts), forward_rays()
    force(model, density)
    model.refresh(0, seeded())
    seen = model.render(query.rays, seeded())
    TERMS["photometric"]().loss(seen, query.known).backward()
    assert_finite(model, seen)
    torch.testing.assert_close(seen.opacity, torch.full_like(seen.opacity, float(density > 0)))
    if not density:
        torch.testing.assert_close(seen.rgb, query.rays.background)


@combinations
def test_a_gradient_reaches_every_parameter(parts):
    model, query = built(parts), forward_rays(200)
    TERMS["photometric"]().loss(model.render(query.rays, seeded()), query.known).backward()
    assert_all_reached(model, model.field)


def assert_all_reached(model: nn.Module, field: Field) -> None:
    """Every parameter, and of hash tables every level."""
    levels = {id(p) for p in field.tables()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        reached = parameter.grad.flatten(1).any(dim=1) if id(parameter) in levels else parameter.grad.any()
        assert reached.all(), f"a gradient of zero reaches {name}: {reached.tolist()}"


@combinations
def test_saved_and_loaded_it_renders_the_same(parts):
    model, other, rays = built(parts), built(parts, seed=7), forward_rays().rays
    with torch.no_grad():
        kept = model.render(rays)
        assert not torch.equal(kept.rgb, other.render(rays).rgb)
        other.load_state_dict(safetensors.torch.load(safetensors.torch.save(model.state_dict())))
        assert_same(kept, other.render(rays))


@combinations
def test_rendering_is_repeatable(parts):
    """Without a generator always the same; with one, the same for equal seeds."""
    model, rays = built(parts), forward_rays().rays
    with torch.no_grad():
        assert_same(model.render(rays), model.render(rays))
        assert_same(model.render(rays, seeded(3)), model.render(rays, seeded(3)))
        first, second = (model.render(rays, seeded(seed)).distribution.t for seed in (3, 4))
    assert not torch.equal(first, second)


@combinations
def test_rays_know_nothing_of_each_other(parts):
    """A part of a rendering is the rendering of that part, up to the rounding of matrix products of another size."""
    model, rays = built(parts), forward_rays().rays
    with torch.no_grad():
        whole = model.render(rays)
        assert len(whole) == len(rays)
        for index in (slice(3, 9), torch.tensor([7, 2, 2]), torch.arange(len(rays)) % 3 == 0, slice(0, 1)):
            assert_same(whole[index], model.render(rays[index]), rtol=1e-4, atol=1e-5)
    assert len(whole[:0]) == 0


@combinations
@pytest.mark.parametrize("training", [True, False], ids=["training", "test"])
def test_histograms_are_histograms(parts, training):
    """Closed forms, section 2: edges in order and inside the ray, weights not negative, at most 1 in sum."""
    model, rays = built(parts), forward_rays().rays
    with torch.no_grad():
        assert_histogram(model.render(rays, seeded() if training else None), rays, bounded=parts[2].kind != "ndc")


def assert_histogram(seen: Rendering, rays: Rays, bounded: bool = True) -> None:
    t, w = seen.distribution.t, seen.distribution.w
    assert t.shape == (len(rays), w.shape[1] + 1)
    assert seen.density.shape == w.shape
    assert (seen.density >= 0).all()
    assert (stepfun.widths(t) >= 0).all()
    if bounded:  # NDC has bounds of its own
        assert (t >= rays.near[:, None] * (1 - 1e-5)).all()
        assert (t <= rays.far[:, None] * (1 + 1e-5)).all()
    assert (w >= 0).all()
    assert w.double().sum(dim=1).max() <= 1 + 1e-6
    assert seen.rgb.min() >= -1e-6
    assert seen.rgb.max() <= 1 + 1e-5
    if seen.coarse is not None:
        assert_histogram(seen.coarse, rays, bounded)


# -- every recipe, with both backbones, at --size small ----------------------------------------------------------------


@pytest.fixture(scope="module")
def rays() -> Rays:
    return SCENE.photo_rays(64, seeded(5)).rays


@recipes
def test_recipes_reach_every_parameter(recipe):
    """As training does it: all terms together, schedules at their end, where every level and octave is visible."""
    task = FitScene(recipe, SCENE, 0, torch.device("cpu"))
    losses, _ = task.losses(10**9, 1.0)
    assert losses.keys() == recipe.terms.keys()
    torch.stack(list(losses.values())).sum().backward()
    assert_all_reached(task.model, task.model.field)


@recipes
@pytest.mark.parametrize("density", [0.0, 1e6], ids=["empty", "wall"])
def test_recipes_are_finite_at_the_extremes(recipe, density):
    task = FitScene(recipe, SCENE, 0, torch.device("cpu"))
    force(task.model, density)
    losses, error = task.losses(0, 0.0)
    torch.stack(list(losses.values())).sum().backward()
    assert error.isfinite()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.model.parameters())


@recipes
def test_recipes_save_and_load(recipe, rays, tmp_path):
    task = FitScene(recipe, SCENE, 0, torch.device("cpu"))
    task.model.refresh(0, seeded())
    run = Run.create(tmp_path / "run", recipe, Opening("here", {}, {}), Conditions(Budget(10)))
    run.save_checkpoint(0, task.model, {})
    with torch.no_grad():
        kept = task.model.render(rays)
        assert_same(kept, Run.open(tmp_path / "run").model.render(rays))
        assert_same(kept[5:9], task.model.render(rays[5:9]), rtol=1e-4, atol=1e-5)
        assert_histogram(kept, rays)
        assert_histogram(task.model.render(rays, seeded()), rays)


# -- every recipe of many scenes, at --size small ----------------------------------------------------------------------


@of_families
def test_recipes_of_families_reach_every_parameter(recipe):
    """Within a few steps, since what tells a field of its scene starts at zero."""
    task = task_of(recipe, FAMILY, 0, torch.device("cpu"))
    missing = {name for name, parameter in task.model.named_parameters() if parameter.requires_grad}
    for step in range(3):
        losses, error = task.losses(step, 1.0)
        assert error.isfinite()
        assert recipe.terms.keys() <= losses.keys()
        torch.stack(list(losses.values())).sum().backward()
        missing -= {name for name, p in task.model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        task.step()
    assert not missing, f"no gradient reaches {sorted(missing)}"


@rendering_families
@pytest.mark.parametrize("density", [0.0, 1e6], ids=["empty", "wall"])
def test_recipes_of_families_are_finite_at_the_extremes(recipe, density):
    task = FitFamily(recipe, FAMILY, 0, torch.device("cpu"))
    force(task.model, density)
    losses, error = task.losses(0, 0.5)
    torch.stack(list(losses.values())).sum().backward()
    assert error.isfinite()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.model.parameters())


@of_families
def test_recipes_of_families_save_and_load(recipe, tmp_path):
    task = task_of(recipe, FAMILY, 0, torch.device("cpu"))
    run = Run.create(tmp_path / "run", recipe, Opening.of(FAMILY), Conditions(Budget(10)))
    run.save_checkpoint(0, task.model, {})
    opened = Run.open(tmp_path / "run")
    kept, again = task.model.state_dict(), (opened.model if recipe.inference else opened.painter).state_dict()
    assert kept.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in kept.items())


@rendering_families
def test_inferred_scenes_render_as_any(recipe, rays):
    task = FitFamily(recipe, FAMILY, 0, torch.device("cpu"))
    with torch.no_grad():
        guess = task.model.infer(FAMILY.shown(torch.tensor([6]), torch.tensor([[0, 1]])))[-1]
        code = Code.of_scenes(guess.mean.expand(len(rays), -1))
        whole = task.model.render(rays, code=code)
        assert_same(whole[5:9], task.model.render(rays[5:9], code=code[5:9]), rtol=1e-4, atol=1e-5)
        assert_histogram(whole, rays)


# -- every term --------------------------------------------------------------------------------------------------------


def settled(term: Any) -> Any:
    """A term with what it leaves open decided, as before training."""
    return (replace(term, rays=24) if getattr(term, "rays", 0) is None else term).settled(SCENE, {})


def judgement(term: Term) -> Callable[[Rendering, dict[str, Tensor]], Tensor]:
    """A term's loss; of an Adversary against a new critic."""
    if not isinstance(term, Adversary):
        return term.loss
    torch.manual_seed(0)
    critic = term.critic().requires_grad_(False)
    return lambda seen, known: term.loss(seen, known, critic)


def asked(term: Term) -> Query:
    """The rays that a settled term judges: its own, or the photographed ones, which stand for more of their scene."""
    question = term.query(SCENE, seeded(2))
    if question is not None:
        return question
    photo = SCENE.photo_rays(48, seeded(3))
    return Query(photo.rays, {**photo.known, "stands_for": torch.full((48,), 24.0)})


OF_A_FILE = {"follow"}  # it needs the folder of a refiner, and is tested with one in tests/priors


@pytest.mark.parametrize("density", [None, 0.0, 1e6], ids=["new", "empty", "wall"])
@pytest.mark.parametrize("recipe", [RECIPES["grid/grid"], RECIPES["nerf/mlp"]], ids=["grid", "nerf"])
@pytest.mark.parametrize("name", sorted(TERMS.keys() - OF_A_FILE))
def test_terms_are_finite_scalars(name, recipe, density):
    """And pure: asked twice they answer the same."""
    term = settled(TERMS[name]())
    judge = judgement(term)
    torch.manual_seed(0)
    codes = Codes(affine=True, transient=4, layers=1, hidden=8, photographs=len(SCENE.names))
    model = Model.build(recipe.field, recipe.sampler, recipe.space, recipe.compositing, codes)
    assert model.codes is not None
    model.codes.learns_from(SCENE.split.train)
    if density is not None:
        force(model, density)
    model.refresh(0, seeded())
    query = asked(term)
    believed = Posterior(torch.randn(2, 4).requires_grad_(), torch.randn(2, 4).requires_grad_())
    code = replace(model.codes(query.rays.camera), posterior=believed)
    seen = model.render(query.rays, seeded(), code=code)
    loss = judge(seen, query.known)
    assert loss.shape == ()
    assert loss.isfinite()
    assert torch.equal(loss, judge(seen, query.known))
    loss.backward()
    assert_finite(model, seen)


class FreeHistogram(nn.Module):
    """Rays of mass one whose bins and colours, all that photographs have of their own, and what is believed of scenes
    are parameters: what a term alone makes of them is its optimum."""

    def __init__(self, rays: int = 6, bins: int = 12) -> None:
        super().__init__()
        g = seeded(0)
        self.raw = nn.Parameter(torch.randn(rays, bins, generator=g))
        self.colours = nn.Parameter(torch.randn(rays, bins, 3, generator=g))
        self.std = nn.Parameter(torch.ones(rays))
        self.second = nn.Parameter(torch.zeros(rays, bins))
        self.code = nn.Parameter(torch.ones(rays, 3))
        self.mean = nn.Parameter(torch.ones(2, 3))
        self.log_std = nn.Parameter(torch.full((2, 3), -1.0))
        self.t = torch.linspace(2, 6, bins + 1).expand(rays, -1)

    def render(self) -> Rendering:
        """The weights are free; the density is the one that has them."""
        w = self.raw.softmax(dim=1)
        ahead = w.cumsum(dim=1) - w
        alpha = (w / (1 - ahead).clamp_min(1e-6)).clamp(max=1 - 1e-6)
        density = -torch.log1p(-alpha) / stepfun.widths(self.t)
        rgb = (w[..., None] * self.colours.sigmoid()).sum(dim=1)
        nothing = self.code.new_zeros(len(w), 0)
        believed = Posterior(self.mean, self.log_std)
        code = Code(self.code, nothing, nothing, torch.ones(len(w), dtype=torch.bool), posterior=believed)
        second = density * self.second.sigmoid()
        std = 0.03 + nn.functional.softplus(self.std)
        return Rendering(rgb, RayDistribution(self.t, w), density, code=code, transient=second, std=std)


def the_target(seen: Rendering, known: dict[str, Tensor]) -> None:
    torch.testing.assert_close(seen.rgb, known["rgb"], rtol=0, atol=0.01)


def nearly_the_target(seen: Rendering, known: dict[str, Tensor]) -> None:
    torch.testing.assert_close(seen.rgb, known["rgb"], rtol=0, atol=0.05)


def a_single_bin(seen: Rendering, known: dict[str, Tensor]) -> None:
    assert seen.distribution.w.amax(dim=1).min() > 0.99


def neighbours_alike(seen: Rendering, known: dict[str, Tensor]) -> None:
    w = seen.distribution.w
    torch.testing.assert_close(w[: len(w) // 2], w[len(w) // 2 :], rtol=0, atol=0.02)


def nothing_near(seen: Rendering, known: dict[str, Tensor]) -> None:
    assert seen.distribution.w[:, 0].max() < 0.01


def where_it_was_measured(seen: Rendering, known: dict[str, Tensor]) -> None:
    torch.testing.assert_close(seen.distribution.mean, known["distance"], rtol=0, atol=0.05)


def nothing_before(seen: Rendering, known: dict[str, Tensor]) -> None:
    ahead = stepfun.mass_before(seen.distribution.t, seen.distribution.w, known["distance"][:, None] - 0.5)
    assert ahead.max() < 0.02


def sure_of_the_target(seen: Rendering, known: dict[str, Tensor]) -> None:
    assert seen.std is not None
    torch.testing.assert_close(seen.rgb, known["rgb"], rtol=0, atol=0.03)
    assert seen.std.max() < 0.1


def nothing_of_one_photograph_alone(seen: Rendering, known: dict[str, Tensor]) -> None:
    assert seen.transient_opacity.max() < 0.02


def no_code(seen: Rendering, known: dict[str, Tensor]) -> None:
    assert seen.code is not None
    assert seen.code.appearance.abs().max() < 0.01


def nothing_but_the_prior(seen: Rendering, known: dict[str, Tensor]) -> None:
    assert seen.code is not None
    assert seen.code.posterior is not None
    torch.testing.assert_close(seen.code.posterior.mean, torch.zeros(2, 3), rtol=0, atol=0.01)
    torch.testing.assert_close(seen.code.posterior.std, torch.ones(2, 3), rtol=0, atol=0.01)


OPTIMA = {  # what each term pulls a free histogram to, alone
    "photometric": the_target,
    "distortion": a_single_bin,
    "entropy": a_single_bin,
    "information_gain": neighbours_alike,
    "occlusion": nothing_near,
    "depth": where_it_was_measured,
    "free_space": nothing_before,
    "surface": where_it_was_measured,
    "heteroscedastic": sure_of_the_target,
    "transient": nothing_of_one_photograph_alone,
    "code_size": no_code,
    "scene_likelihood": the_target,
    "latent_kl": nothing_but_the_prior,
    "patches": the_target,
    "perceptual": nearly_the_target,
}
OPPOSED = {name for name, cls in TERMS.items() if issubclass(cls, Adversary)}  # where they pull, a critic learns


def test_every_term_says_what_it_pulls_to():
    assert OPTIMA.keys() == TERMS.keys() - OPPOSED - OF_A_FILE


@pytest.mark.parametrize("name", OPTIMA)
def test_a_term_alone_pulls_a_free_histogram_to_its_optimum(name):
    term, rays = TERMS[name](), 6
    if hasattr(term, "patch"):
        rays, term = 64, replace(term, patch=8).settled(SCENE, {})  # type: ignore[call-arg]
    free, g = FreeHistogram(rays), seeded(4)
    known = {"rgb": 0.1 + 0.8 * torch.rand(rays, 3, generator=g), "distance": 3 + 2 * torch.rand(rays, generator=g)}
    known["stands_for"] = torch.full((rays,), 2.0)
    adam = torch.optim.Adam(free.parameters(), lr=0.1)
    with torch.no_grad(), pytest.raises(AssertionError):  # it is not there to begin with
        OPTIMA[name](free.render(), known)
    for _ in range(400):
        adam.zero_grad()
        term.loss(free.render(), known).backward()
        adam.step()
    with torch.no_grad():
        OPTIMA[name](free.render(), known)


# -- words -------------------------------------------------------------------------------------------------------------


def test_every_public_name_is_documented():
    """Classes and functions that other files may use say what they are."""
    house = Path(__file__).parents[1] / "src" / "rayprior"
    missing = [
        f"{path.relative_to(house)}, line {node.lineno}: {node.name}"
        for path in sorted(house.rglob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not missing, "no docstring:\n" + "\n".join(missing)
