"""Every recipe, one screen each: the table of papers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rayprior.errors import UserError, did_you_mean
from rayprior.fields.codes import Codes
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.scene_function import SceneFunction
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule
from rayprior.networks.encoder import Encoder
from rayprior.networks.gqn import Gqn
from rayprior.priors import (
    Adversarial,
    Depth,
    Distortion,
    Entropy,
    FreeSpace,
    Heteroscedastic,
    InformationGain,
    LatentKL,
    Occlusion,
    Patches,
    Perceptual,
    Photometric,
    SceneLikelihood,
    Surface,
    Transient,
)
from rayprior.priors.spec import parse_priors
from rayprior.priors.term import Term
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.inference import Inference
from rayprior.rendering.samplers import Guide, Uniform
from rayprior.training.recipe import Adam, Episodes, Expects, Photo, Recipe
from rayprior.training.recipe_json import read_recipe, set_value

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

# What recipes for other captures than Blender's have in place of NeRF's: noise before the density's ReLU, and a rate
# that falls to a tenth in half as many steps.
_noisy = Mlp(depth=8, width=256, skip=4, octaves=10, view_octaves=4, density="relu", noise_std=1.0)
_halved_decay = replace(nerf.optimiser, lr=Schedule(((0, 5e-4), (250_000, 5e-5)), shape="log"))

# InfoNeRF (Kim, Seo, Han, CVPR 2022) on Blender with four views: vanilla NeRF, 1024 photographed rays and as many
# unseen ones, whose alphas (not weights) have their entropy lowered, a mask at opacity .1, divided by all rays.
# The paper also pulls each ray towards one from a camera turned by up to 5 degrees; the released lego configuration
# leaves that out. Unseen poses are those of the capture without its test views: the release has them too.
infonerf = replace(
    nerf,
    name="infonerf",
    about="InfoNeRF (Kim et al., CVPR 2022) for Blender: ray entropy and information gain, as in the paper",
    terms={
        "photometric": Photometric(),
        "entropy": Entropy(
            weight=1e-3, rays=1024, of="opacity", per="rays", normalised=False, min_opacity=0.1, poses="loaded",
            cameras=1,
        ),
        "information_gain": InformationGain(
            weight=Schedule(tuple((5_000 * i + j * 4_999, 1e-5 * 0.5**i) for i in range(10) for j in (0, 1))),
            rays=1024, of="opacity", near="orbit", angle_deg=5.0, direction="code", poses="loaded",
            cameras=1, floor=1e-10, min_opacity=0.0,
        ),
    },
    steps=50_000,
    expects=Expects(
        protocol="blender/infonerf-4", metric="psnr", value=18.65, mark="unverified",
        source="mean of the eight Blender scenes at 800x800 with 4 views, 50k steps", tolerance=0.5,
    ),
)  # fmt: skip

infonerf_released = replace(
    infonerf,
    name="infonerf-released",
    about="InfoNeRF as its released lego configuration runs: entropy alone",
    terms={name: term for name, term in infonerf.terms.items() if name != "information_gain"},
)

# The same on DTU with three views: twice the entropy, a lower mask, noise on the density, a black background.
infonerf_dtu = replace(
    infonerf,
    name="infonerf-dtu",
    about="InfoNeRF (Kim et al., CVPR 2022) for DTU with three views",
    field=_noisy,
    terms={
        "photometric": Photometric(),
        "entropy": replace(infonerf.terms["entropy"], weight=2e-3, min_opacity=0.01),
        "information_gain": replace(
            infonerf.terms["information_gain"],
            weight=Schedule(((0, 2e-5), (4_999, 2e-5), (5_000, 1e-5))),
        ),
    },
    photo=replace(nerf.photo, crop=1.0),
    optimiser=_halved_decay,
    steps=10_000,
    background="black",
    expects=Expects(
        protocol="dtu/infonerf-3", metric="psnr", value=11.23, mark="unverified",
        source="a later paper's run with 3 views of DTU", tolerance=0.5,
    ),
)  # fmt: skip

# DS-NeRF (Deng et al., CVPR 2022) on LLFF without NDC: half of each step's 4096 rays go through sparse points. The
# paper's loss asks for a Gaussian around each point's distance; the release can't run it (it never passes the depths
# on), and trains on the squared error of the distance instead. Every distance has the same variance, 1, as in its code.
dsnerf = replace(
    nerf,
    name="dsnerf",
    about="DS-NeRF (Deng et al., CVPR 2022): sparse points as a Gaussian of where rays end, as in the paper",
    field=_noisy,
    terms={
        "photometric": Photometric(),
        "depth": Depth(weight=0.1, rays=2048, at="keypoints", judgement="gaussian", std=1.0, coarse=0.0, colour=0.0),
    },
    photo=Photo(rays=2048),
    optimiser=_halved_decay,
    steps=50_000,
    background="scene",
    expects="20.2 dB with 2 views of LLFF is on the paper's own split, whose view ids are not public",
)

dsnerf_released = replace(
    dsnerf,
    name="dsnerf-released",
    about="DS-NeRF as its release runs: the squared error of the distance",
    terms={
        "photometric": Photometric(),
        "depth": Depth(weight=0.1, rays=2048, at="keypoints", judgement="mse", estimate="left", coarse=0.0, colour=0.0),
    },
    expects="19.5 dB with 2 views of LLFF is on the paper's own split, whose view ids are not public",
)

# NeRF-Supervision's field (Yen-Chen et al., ICRA 2022), by its public code: DS-NeRF's as it is released, with samples
# even in inverse distance, as many fine ones as coarse, and half of the rays. The phone's pictures are taken 8 times
# smaller: --downscale 8.
nerf_supervision = replace(
    dsnerf_released,
    name="nerf-supervision",
    about="NeRF-Supervision (Yen-Chen et al., ICRA 2022): the field that its correspondences are asked of",
    sampler=CoarseField(coarse=64, fine=64, spacing="inverse"),
    terms={
        "photometric": Photometric(),
        "depth": Depth(weight=0.1, rays=1024, at="keypoints", judgement="mse", estimate="left", coarse=0.0, colour=0.0),
    },
    photo=Photo(rays=1024),
    steps=200_000,
    expects="none: the paper scores descriptors, not its fields, and its photographs could not be found",
)

# The four depth strategies: one network, 64 samples in 2..6, 1024 rays of one photograph a step, a constant rate. Their
# constants; not their accidents (a background that differs between data and rendering, a last interval of 1e10 in some
# arms, directions of another length in tests): all four share one renderer and one test sampler here.
UNRELIABLE = "none that can be trusted: the two published tables order the strategies in opposite ways"
depth_baseline = Recipe(
    name="depth-baseline",
    about="the four depth strategies: no depth, their control",
    field=Mlp(depth=8, width=256, skip=4, octaves=10, view_octaves=4, density="softplus"),
    sampler=Uniform(64),
    terms={"photometric": Photometric()},
    space=Space("free"),
    photo=Photo(rays=1024, one_picture=True),
    optimiser=Adam(lr=5e-4, betas=(0.9, 0.999), eps=1e-8),
    steps=20_000,
    background="white",
    expects=UNRELIABLE,
)
_soft = Depth(weight=0.01, at="pixels", judgement="mse", estimate="raw")
_free = FreeSpace(weight=0.005, at="pixels", of="density", margin_std=0.0)
_surface = Surface(weight=0.005, at="pixels", variance=0.1, estimate="raw")
depth_soft = replace(
    depth_baseline,
    name="depth-soft",
    about="the four depth strategies: squared error of the distance",
    terms={"photometric": Photometric(), "depth": _soft},
)
depth_hard = replace(
    depth_baseline,
    name="depth-hard",
    about="the four depth strategies: 48 of 64 samples around the known distance, free space before it, a thin surface",
    sampler=Uniform(64, guide=Guide(share=0.75, window=0.15, jitter=False)),
    terms={"photometric": Photometric(), "free_space": _free, "surface": _surface},
)
depth_hybrid = replace(
    depth_baseline,
    name="depth-hybrid",
    about="the four depth strategies: soft and hard together, 32 of 64 samples around the known distance",
    sampler=Uniform(64, guide=Guide(share=0.5, window=0.15, jitter=False)),
    terms={"photometric": Photometric(), "depth": _soft, "free_space": _free, "surface": _surface},
)


# NeRF-W (Martin-Brualla et al., CVPR 2021), by its text and two public re-implementations; the authors released none.
# The fine level has a second medium for what stands in one photograph alone, and says how sure its colour is. Density
# is a softplus and the last bin has its real length, both against the original. The coarse level has the codes too.
nerfw = replace(
    nerf,
    name="nerfw",
    about="NeRF-W (Martin-Brualla et al., CVPR 2021): light and passers-by of each photograph",
    field=Mlp(depth=8, width=256, skip=4, octaves=10, view_octaves=4, density="softplus"),
    sampler=CoarseField(coarse=64, fine=64),
    codes=Codes(appearance=48, transient=16, layers=4, hidden=128, least_std=0.03),
    compositing=Compositing(media="alphas"),
    terms={
        "photometric": Heteroscedastic(coarse=0.5),
        "transient": Transient(weight=0.01, of="density"),
    },
    photo=Photo(rays=1024),
    optimiser=Adam(lr=5e-4, betas=(0.9, 0.999), eps=1e-8),
    background="scene",
    expects="29.08 dB on Brandenburg Gate (unverified) is of the paper's own photographs; others reach about 24.2",
)
nerf_a = replace(
    nerfw,
    name="nerf-a",
    about="NeRF-W's appearance codes alone",
    codes=Codes(appearance=48),
    terms={"photometric": Photometric(coarse=0.5)},
    expects="none that can be compared: the paper's ablation is on its own photographs",
)
nerf_u = replace(
    nerfw,
    name="nerf-u",
    about="NeRF-W's second medium alone",
    codes=Codes(transient=16, layers=4, hidden=128, least_std=0.03),
    expects="none that can be compared: the paper's ablation is on its own photographs",
)

# Ours. Photographs of many lights: a code for each, on the fast field.
wild = replace(
    grid,
    name="wild",
    about="photographs in many lights: grid, and a code of its light for each",
    codes=Codes(appearance=32),
    expects="no published number: it is ours; docs/methods/nerfw.md has the measured ones",
)

# Ours. Few photographs, no depth. A colour that is the same from everywhere leaves less by which few photographs can be
# explained; occlusion removes what stands before single cameras, distortion what is left in the air.
fewview = replace(
    grid,
    name="fewview",
    about="few photographs, no depth: no view dependence, nothing right before a camera, weights close together",
    field=Grid(degree=0),
    terms={
        "photometric": Photometric(),
        "distortion": Distortion(weight=1e-2),
        "occlusion": Occlusion(weight=5e-3, reach=0.1),
    },
    expects="no published number: it is ours; docs/methods/fewview.md has the measured ones",
)


# Ours. Some distances are known, of dense maps or of sparse points. They decide where things are while that is open,
# and fade to a tenth: photographs are sharper than any sensor's depth, and contradict it where it is wrong.
def _fading(start: float, end: float) -> Schedule:
    return Schedule(((0.0, start), (1.0, end)), of="budget", shape="log")


depth = replace(
    grid,
    name="depth",
    about="grid with known distances, dense or sparse: samples there, rays end there, nothing stands before",
    sampler=DensityGrid(guide=Guide(share=0.25)),
    terms={
        **grid.terms,
        "depth": Depth(weight=_fading(3e-4, 3e-5), rays=64, judgement="termination"),
        "free_space": FreeSpace(weight=_fading(3e-3, 3e-4), rays=64, margin=0.1),
    },
    expects="no published number: it is ours; docs/methods/depth.md has the measured ones",
)

# Ours. One object, its points from structure from motion. On steel some points are reflections and lie: the robust loss
# pulls by bounded force, and nothing is said of free space, which a false point would carve out of the thing. Entropy,
# of unseen rays and weak, where little else tells that thin things are opaque. Chosen by reasoning, none measured.
object_ = replace(
    grid,
    name="object",
    about="one object: grid with its sparse points as distances, and rays that end in one place",
    terms={
        **grid.terms,
        "depth": Depth(weight=_fading(3e-5, 3e-6), rays=64, at="keypoints", judgement="robust"),
        "entropy": Entropy(weight=Schedule(((0.0, 0.0), (0.5, 0.0), (0.6, 1e-3)), of="budget"), rays=64),
    },
    expects="no published number: it is ours; docs/methods/object.md has what is known of it",
)

# GANeRF's first stage (Roessle et al., SIGGRAPH Asia 2023), by its public code: one patch of a training photograph a
# step, judged by a critic that is learned beside the field and by VGG19, without a loss of its colour. Its field is
# nerfstudio's Nerfacto; here it is a hash grid of the same size behind a density grid, which costs no proposals. Its R1
# of .2 sums over the 16 tiles of a patch: 3.2 a tile.
_nerfacto_rate = Schedule(((0, 1e-2), (200_000, 1e-4)), shape="log")
ganerf = replace(
    grid,
    name="ganerf",
    about="GANeRF (Roessle et al., SIGGRAPH Asia 2023), stage 1: a critic of patches beside the field",
    field=Grid(levels=16, finest=2048, log2_entries=19, head="mlp", hidden=64),
    sampler=DensityGrid(samples=48),
    codes=Codes(appearance=32),
    terms={
        "photometric": Photometric(),
        "distortion": Distortion(weight=2e-3),
        "perceptual": Perceptual(weight=3e-4, of="adversarial", side=224),
        "adversarial": Adversarial(
            weight=3e-4, lr=1e-3, largest=256, network="residual", tile=64, r1=3.2, optimiser="rmsprop"
        ),
    },
    photo=Photo(rays=4096),
    optimiser=Adam(lr=_nerfacto_rate, tables=_nerfacto_rate, betas=(0.9, 0.999), eps=1e-15),
    steps=200_000,
    expects="19.9 dB without its generator, 20.9 with it (reported) are of another field, Nerfacto, on four scenes of"
    " Tanks and Temples",
)

# Ours, for CPUs: what the adversary judges has its colour judged too, since those rays are paid for.
sharp = replace(
    grid,
    name="sharp",
    about="grid with patches: their colours, and a small critic that wants them sharp",
    terms={
        **grid.terms,
        "patches": Patches(weight=1.0, largest=32),
        "adversarial": Adversarial(weight=3e-3, of="patches", network="small", tile=16, r1=0.03, r1_every=4),
    },
    photo=Photo(rays=512),
    expects="no published number: it is ours; docs/methods/ganerf.md has the measured ones",
)

# Ours, after NeRF-VAE (Kosiorek et al., ICML 2021): of the paper no table and no code is known to us, so sizes and
# schedules are the house's own. beta rises while the likelihood finds what there is to tell. Every ray ends at the
# latest where the family's box does, opaque: without that, fog before the cameras paints the pictures (docs/log.md).
nerf_vae = Recipe(
    name="nerf-vae",
    about="one look at a scene never seen before: what a family of scenes has in common, and a latent for each",
    field=SceneFunction(),
    sampler=Uniform(48),
    compositing=Compositing(opaque_tail=True),
    terms={
        "scene_likelihood": SceneLikelihood(std=0.1),
        "latent_kl": LatentKL(weight=Schedule(((0.0, 0.0), (0.2, 1.0)), of="budget")),
    },
    space=Space("box"),
    codes=Codes(latent=128),
    inference=Inference(),
    episodes=Episodes(),
    photo=Photo(rays=344),
    optimiser=Adam(lr=Schedule(((0.0, 1e-3), (0.5, 1e-3), (1.0, 3e-5)), of="budget")),
    steps=6_000,
    expects="none: no table of the paper is known, and its sets of scenes are not to be had",
)

# The same with one refinement of the encoder's guess: two renderings a step, and gradients where a scene is inferred.
nerf_vae_refined = replace(
    nerf_vae,
    name="nerf-vae-refined",
    about="nerf-vae, its guess of a scene improved once by the gradient of the ELBO",
    inference=Inference(refinements=1, rays=32),
)

# Its controls. Without KL nothing asks the latent to be a draw of a prior, and the deviation that it starts with is too
# small to blur anything: an autoencoder of scenes.
scene_autoencoder = replace(
    nerf_vae,
    name="scene-autoencoder",
    about="nerf-vae without its KL (beta = 0): an autoencoder of scenes, nothing to sample from",
    terms={"scene_likelihood": SceneLikelihood(std=0.1), "latent_kl": LatentKL(weight=0.0)},
    inference=Inference(encoder=Encoder(std=1e-3)),
    expects="none: it is nerf-vae's control",
)

# GQN (Eslami et al., Science 2018), small: 4 cores of 64 channels. A field's sampler, space and terms are not read.
gqn = Recipe(
    name="gqn",
    about="the convolutional rival (GQN, Eslami et al., Science 2018): pictures to pictures, cameras as seven numbers",
    field=Gqn(),
    sampler=Uniform(64),
    terms={},
    episodes=Episodes(),
    optimiser=Adam(lr=5e-4),
    steps=6_000,
    expects="none that can be compared: its scenes are others, its size is far larger",
)
gqn_rays = replace(
    gqn,
    name="gqn-rays",
    about="the convolutional rival that is told the rays of every pixel, as nerf-vae is",
    field=Gqn(camera="rays"),
)

METHODS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        grid, fewview, depth, object_, wild, sharp, nerf, nerfw, nerf_a, nerf_u, infonerf, infonerf_released,
        infonerf_dtu, dsnerf, dsnerf_released, nerf_supervision, depth_baseline, depth_soft, depth_hard, depth_hybrid,
        ganerf, nerf_vae, nerf_vae_refined, scene_autoencoder, gqn, gqn_rays,
    )
}  # fmt: skip


def method(name: str) -> Recipe:
    """A recipe by its name; UserError with a suggestion otherwise."""
    if name not in METHODS:
        raise UserError(f"no recipe named '{name}'{did_you_mean(name, METHODS)}")
    return METHODS[name]


def with_field(recipe: Recipe, kind: Literal["mlp", "grid"]) -> Recipe:
    """Another backbone under the same question: field, sampler, space and optimiser change; terms, rays, steps stay."""
    like = nerf if kind == "mlp" else grid
    if recipe.episodes is not None:
        raise UserError(f"--field {kind}: a field of one scene, and '{recipe.name}' is of many; leave --field out")
    if isinstance(recipe.field, type(like.field)):
        return recipe
    field, space, compositing = like.field, like.space, Compositing(media=recipe.compositing.media)
    if kind == "mlp":  # not the faithful options, which are NeRF's own: the house's conventions with NeRF's network
        field, space = Mlp(), Space()
    sampler = replace(like.sampler, guide=recipe.sampler.guide)
    slow = recipe.optimiser.transient or recipe.optimiser.lr  # at a grid's rate a second medium swallows the scene
    optimiser = replace(like.optimiser, transient=slow if recipe.codes.transient else None)
    return replace(recipe, field=field, sampler=sampler, space=space, compositing=compositing, optimiser=optimiser)


def with_size(recipe: Recipe, size: Literal["small", "full"]) -> Recipe:
    """'small': the recipe of tests and studies of MLP fields: 4 x 64, 24 + 24 samples, 128 rays, a second medium of
    1 x 32, patches of at most 32 and a small critic of tiles of 16; of families, width 32."""
    if size == "full":
        return recipe
    field, sampler, codes = recipe.field, recipe.sampler, recipe.codes
    if isinstance(field, Mlp):
        field = replace(field, depth=4, width=64, skip=2)
    elif isinstance(field, SceneFunction):
        field = replace(field, width=32)
    elif isinstance(field, Gqn):
        field = replace(field, representation=32, hidden=32)
    else:
        field = replace(field, log2_entries=13, finest=128)
    if isinstance(sampler, CoarseField):
        sampler = replace(sampler, coarse=24, fine=24)
    if codes.transient:  # else it is larger than the field
        codes = replace(codes, layers=1, hidden=32)
    terms = {name: _small(term, 128, recipe.photo.rays) for name, term in recipe.terms.items()}
    photo = replace(recipe.photo, rays=128)
    return replace(recipe, field=field, sampler=sampler, codes=codes, photo=photo, terms=terms)


def _small(term: Term, photo: int, before: int | None) -> Term:
    """A term that asks for as large a share of the photographed rays as before; of patches, for small ones."""
    if isinstance(term, Adversarial):
        return replace(term, largest=min(term.largest, 32), tile=min(term.tile, 16), network="small")
    if isinstance(term, Perceptual):
        return replace(term, largest=min(term.largest, 32), side=None)
    if isinstance(term, Patches):
        return replace(term, largest=min(term.largest, 32))
    rays = getattr(term, "rays", None)
    return replace(term, rays=rays * photo // before) if isinstance(rays, int) and before else term


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


def recipe_from(
    name: str,
    field: Literal["mlp", "grid"] | None = None,
    size: Literal["small", "full"] | None = None,
    quality: Quality | None = None,
    priors: Sequence[str] = (),
    settings: Sequence[str] = (),
    *,
    without: Sequence[str] = (),
) -> Recipe:
    """The recipe that was typed: a name or a JSON file, then backbone, size, quality, priors, and single values last.

    priors    NAME:option=value,... or FILE.py:CLASS:option=value,...
    settings  KEY=VALUE, as in field.octaves=12
    without   terms that are dropped, once all of the above is there

    UserError for whatever of it does not exist, with a suggestion.
    """
    is_file = name.endswith(".json") or os.sep in name
    chosen = read_recipe(Path(name), import_priors=True) if is_file else method(name)
    if field is not None:
        chosen = with_field(chosen, field)
    if size is not None:
        chosen = with_size(chosen, size)
    if quality is not None:
        chosen = with_quality(chosen, quality)
    chosen = replace(chosen, terms={**chosen.terms, **parse_priors(priors)})
    for setting in settings:
        chosen = set_value(chosen, setting)
    for term in without:
        if term not in chosen.terms:
            raise UserError(f"no term named '{term}' to leave out{did_you_mean(term, chosen.terms)}")
        chosen = replace(chosen, terms={other: kept for other, kept in chosen.terms.items() if other != term})
    return chosen
