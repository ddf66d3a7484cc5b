"""Every recipe, one screen each: the table of papers."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from rayprior.errors import UserError, did_you_mean
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule
from rayprior.priors import Distortion, Photometric
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.density_grid import DensityGrid
from rayprior.training.recipe import Adam, Expects, Photo, Recipe

Quality = Literal["draft", "standard", "final"]

# NeRF (Mildenhall et al. 2020) on Blender scenes, section 5.3 and the released code: ReLU density, the opaque last bin,
# samples at the left ends of their bins, 64 coarse and 128 fine samples, 1024 rays of one photograph a step, of its
# central half for the first 500 steps, white background.
nerf = Recipe(
    name="nerf",
    about="NeRF (Mildenhall et al., ECCV 2020), the paper's settings for Blender scenes",
    field=Mlp(depth=8, width=256, skip=4, octaves=10, view_octaves=4, density="relu"),
    sampler=CoarseField(coarse=64, fine=128),
    terms={"photometric": Photometric()},
    space=Space("free"),
    compositing=Compositing(at="left", opaque_tail=True),
    photo=Photo(rays=1024, crop=Schedule(((0, 0.5), (499, 0.5), (500, 1.0))), one_picture=True),
    optimiser=Adam(lr=Schedule(((0, 5e-4), (500_000, 5e-5)), shape="log"), betas=(0.9, 0.999), eps=1e-8),
    steps=200_000,
    background="white",
    expects=Expects(
        protocol="blender/full", metric="psnr", value=31.005, mark="reported",
        source="mean of the eight Blender scenes at 800x800, 200k steps", tolerance=0.5,
    ),
)  # fmt: skip

# The fast default: one small hash grid, one cached density grid, photometric + distortion. Rates are constant for 30 %
# of the budget, then fall exponentially, so that a run of ten seconds and one of an hour both end converged.
grid = Recipe(
    name="grid",
    about="small hash grid (after instant-ngp, Mueller et al. 2022) with a cached density grid; the fast default",
    field=Grid(),
    sampler=DensityGrid(),
    terms={"photometric": Photometric(), "distortion": Distortion(weight=3e-3)},
    optimiser=Adam(
        lr=Schedule(((0.0, 1e-2), (0.3, 1e-2), (1.0, 3e-4)), of="budget", shape="log"),
        tables=Schedule(((0.0, 1e-1), (0.3, 1e-1), (1.0, 3e-3)), of="budget", shape="log"),
        betas=(0.9, 0.99),
        eps=1e-15,
    ),
    steps=8_000,
    expects="no published number: it is ours; docs/methods/grid.md has the measured ones",
)

METHODS: dict[str, Recipe] = {recipe.name: recipe for recipe in (grid, nerf)}


def method(name: str) -> Recipe:
    """A recipe by its name; UserError with a suggestion otherwise."""
    if name not in METHODS:
        raise UserError(f"no recipe named '{name}'{did_you_mean(name, METHODS)}")
    return METHODS[name]


def with_field(recipe: Recipe, kind: Literal["mlp", "grid"]) -> Recipe:
    """Another backbone under the same question: field, sampler, space and optimiser change; terms, rays, steps stay."""
    like = nerf if kind == "mlp" else grid
    if isinstance(recipe.field, type(like.field)):
        return recipe
    field, space, compositing = like.field, like.space, like.compositing
    if kind == "mlp":  # not the faithful options, which are NeRF's own: the house's conventions with NeRF's network
        field, space, compositing = Mlp(), Space(), Compositing()
    return replace(
        recipe, field=field, sampler=like.sampler, space=space, compositing=compositing, optimiser=like.optimiser
    )


def with_size(recipe: Recipe, size: Literal["small", "full"]) -> Recipe:
    """'small': the recipe of tests and studies of MLP fields: 4 x 64, 24 + 24 samples, 128 rays."""
    if size == "full":
        return recipe
    field, sampler = recipe.field, recipe.sampler
    if isinstance(field, Mlp):
        field = replace(field, depth=4, width=64, skip=2)
    else:
        field = replace(field, log2_entries=13, finest=128)
    if isinstance(sampler, CoarseField):
        sampler = replace(sampler, coarse=24, fine=24)
    return replace(recipe, field=field, sampler=sampler, photo=replace(recipe.photo, rays=128))


def with_quality(recipe: Recipe, quality: Quality) -> Recipe:
    """One dial of the grid: how much it can hold, and how many steps it takes by default."""
    if not isinstance(recipe.field, Grid) or not isinstance(recipe.sampler, DensityGrid):
        raise UserError(
            f"--quality is a dial of grid fields, and '{recipe.name}' has none; add --field grid, or use --size"
        )
    if quality == "draft":
        return replace(recipe, steps=1_500)
    if quality == "standard":
        return recipe
    field = replace(recipe.field, log2_entries=17)
    return replace(recipe, field=field, sampler=replace(recipe.sampler, test_samples=128), steps=40_000)
