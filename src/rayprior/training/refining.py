"""Refining: a network per scene that turns a run's finished renderings into what its photographs look like.

Stage 2 of GANeRF (Roessle et al., SIGGRAPH Asia 2023): pairs of rendering and photograph of the training views, an
adversarial, a perceptual and an L1 loss, a moving mean of the weights. Nothing flows back to the field, and no test
view is read.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from shlex import join
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor, nn

from rayprior.errors import UserError
from rayprior.files import write_atomically, write_json, write_text
from rayprior.kernels.threads import keep_freed_memory, set_threads
from rayprior.networks.critic import Critic, critic_loss, finite_gradients, opponent_loss, r1
from rayprior.networks.features import distance, features, find_vgg19
from rayprior.networks.refiner import Refiner, Residual, Scale, Synthesis, bicubic, coarse_size
from rayprior.plain import Reader, parse_json, to_plain
from rayprior.rendering.model import Model
from rayprior.rendering.refined import Refined, coarser
from rayprior.scenes.scene import Scene
from rayprior.training.budget import Budget
from rayprior.training.fit import cores, device_named
from rayprior.training.folder import Folder
from rayprior.training.loop import Progress, train
from rayprior.training.one_scene import model_digest
from rayprior.training.recipe_json import FORMAT, checked_format, read_json
from rayprior.training.run import Conditions, Run, versions
from rayprior.training.tasks import generator_for, scene_for

ABOUT = "refiner.json"
KINDS: dict[type, str] = {Residual: "residual", Synthesis: "synthesis"}
LEAST = {"steps": 1, "batch": 1, "crop": 8, "tile": 8, "r1_every": 1} | dict.fromkeys(
    ("adversarial", "l1", "perceptual", "r1", "lr", "momentum", "critic_lr", "ema_images"), 0
)
EMA_RAMP = 0.05  # the mean of the weights never reaches back further than this share of the pictures seen


@dataclass(frozen=True)
class Refining:
    """Everything that decides how a refiner is trained.

    net          the network
    scale        the field renders at 1/scale of the photographs' size; the refiner gives their size
    steps        the default budget
    batch        crops of a step, drawn with replacement: from few pictures some are drawn twice
    crop, tile   sides in pixels of what is refined in training, and of what the critic sees of it; at most: the largest
                 that fit the pictures are taken
    critic       its kind
    adversarial, l1, perceptual   weights of the losses; 0 leaves one out
    features     of the perceptual loss; auto: VGG19 where its weights are on this machine
    r1, r1_every weight of the critic's gradient penalty, per tile; it is paid every so many steps, so many times over
    lr, momentum    of the network's Adam, which has (momentum, 0.99)
    critic_lr       of the critic's, which has (0, 0.99)
    ema_images   pictures after which half of a weight is forgotten by the mean of weights, which is the result
    flips        mirror half of the crops
    shuffled     a control: every rendering is shown the photograph of another view
    """

    net: Residual | Synthesis
    scale: Scale = 1
    steps: int = 2_000
    batch: int = 8
    crop: int = 64
    tile: int = 32
    critic: Literal["small", "residual"] = "small"
    adversarial: float = 0.01
    l1: float = 1.0
    perceptual: float = 0.1
    features: Literal["auto", "random", "vgg19"] = "auto"
    r1: float = 1.0
    r1_every: int = 4
    lr: float = 1e-3
    momentum: float = 0.9
    critic_lr: float = 1e-3
    ema_images: float = 10_000.0
    flips: bool = True
    shuffled: bool = False

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name):g}: expected at least {least}")
        if self.momentum >= 1:
            raise UserError(f"momentum={self.momentum:g}: expected less than 1")
        if self.adversarial == self.l1 == self.perceptual == 0:
            raise UserError("adversarial, l1 and perceptual are all 0: there is nothing to learn from; set one above 0")


# Losses, rates and sizes of GANeRF's repository; 3,000 epochs of some hundred pictures there.
REFINERS: dict[str, Refining] = {
    "refiner": Refining(Residual()),
    "ganerf-refiner": Refining(
        Synthesis(),
        steps=75_000,
        crop=256,
        tile=128,
        critic="residual",
        adversarial=1.0,
        l1=3.0,
        perceptual=1.0,
        r1=3.0,
        r1_every=16,
        lr=1.6e-3,
        momentum=0.0,
        critic_lr=1.88e-3,
    ),
}


def with_value(refining: Refining, assignment: str) -> Refining:
    """`l1=3`, `net.width=24`, `net.kind=synthesis`. UserError names what is not there, with a suggestion."""
    path, equals, text = assignment.partition("=")
    *walked, key = path.strip().split(".")
    if not equals or not key:
        raise UserError(f"--set {assignment}: expected KEY=VALUE, as in --set l1=3")
    plain = to_plain(refining, KINDS)
    part = plain
    for step in walked:
        if not isinstance(part.get(step), dict):
            raise UserError(f"--set {assignment}: '{step}' has no parts; only net has")
        part = part[step]
    if key == "kind":
        part.clear()
    part[key] = _typed(text.strip())
    return Reader(f"--set {assignment}", KINDS, fill=key == "kind").read(plain, Refining)


def settled(refining: Refining, scene: Scene, typed: Sequence[str] = ()) -> Refining:
    """Crop, tile and feature network decided by the training pictures; `typed` are the keys that must stay as they are.

    UserError where there is one training picture, one of less than 8 px, or where what was typed does not fit.
    """
    train = list(scene.split.train)
    where = scene.path or scene.name
    if len(train) < 2:
        raise UserError(
            f"{where}: {len(train)} training view; a refiner learns what renderings of a scene have in common, and one"
            " picture it would learn by heart. Train on two views or more"
        )
    side = int(scene.pictures.size[train].min())
    multiple = refining.net.multiple
    crop = min(refining.crop, max(side - side % multiple, min(side, multiple)))
    tile = min(refining.tile, crop)
    tile = tile - tile % 8 if refining.critic == "small" else 1 << (tile.bit_length() - 1)
    if tile < 8:
        raise UserError(f"{where}: the smallest training picture has {side} px a side; a refiner needs 8 px or more")
    for name, found in (("crop", crop), ("tile", tile)):
        if name in typed and getattr(refining, name) != found:
            raise UserError(
                f"{name}={getattr(refining, name)}: does not fit training pictures whose smallest side is {side} px and"
                f" crops of {crop}; expected {found} or less, or leave it out"
            )
    chosen = refining.features
    if chosen == "auto":
        chosen = "vgg19" if find_vgg19() is not None else "random"
    if refining.perceptual > 0 and crop < features(chosen).smallest_side:
        raise UserError(
            f"{where}: crops of {crop} px are too small for features={chosen}; set features=random, or perceptual=0"
        )
    Critic(refining.critic, tile)
    return replace(refining, crop=crop, tile=tile, features=chosen)


# -- whose refiner it is -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """The run that a refiner belongs to, as it stood: `model` is the SHA-256 of its weights, `sizes` those of the
    scene's pictures, (width, height)."""

    run: str
    recipe: str
    recipe_hash: str
    step: int
    model: str
    scene: str
    views: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]

    @staticmethod
    def of(run: Run, scene: Scene) -> Source:
        """UserError where the run has no checkpoint."""
        step = run.latest
        if step is None:
            raise UserError(
                f"{run.path}: this run has no checkpoint yet; train it first, rayprior train --out {run.path}"
            )
        sizes = tuple(sorted({(width, height) for width, height in scene.pictures.size.tolist()}))
        views = tuple(scene.names[view] for view in scene.split.train)
        about = (run.recipe.name, run.recipe_hash, step, model_digest(run), scene.name, views, sizes)
        return Source(str(run.path.absolute()), *about)

    def check(self, now: Source, path: Path) -> None:
        """UserError naming what is another: the refiner at `path` is asked to refine the renderings of `now`."""
        for what, mine, theirs in (
            ("scene", self.scene, now.scene),
            ("size", _named(self.sizes), _named(now.sizes)),
            ("recipe", f"{self.recipe} ({self.recipe_hash[:12]})", f"{now.recipe} ({now.recipe_hash[:12]})"),
            ("set of training views", _few(self.views), _few(now.views)),
            ("step", f"{self.step:,}", f"{now.step:,}"),
            ("training", f"{self.run} ({self.model[:12]})", f"{now.run} ({now.model[:12]})"),
        ):
            if mine != theirs:
                raise UserError(
                    f"{path}: a refiner of another {what}, {mine}; {now.run} is of {theirs}. Train one for it: rayprior"
                    f" refine {now.run} --out DIR"
                )


def _named(sizes: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{width}x{height}" for width, height in sizes)


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} views ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"


# -- pairs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pairs:
    """Renderings and photographs of the training views, of one size each; what masks leave out of a photograph stands
    in it as it was rendered, so that nobody learns from it."""

    rendered: tuple[UInt8[Tensor, "3 h w"], ...]
    photographs: tuple[UInt8[Tensor, "3 h w"], ...]

    @staticmethod
    def of(
        model: Model,
        scene: Scene,
        scale: Scale,
        folder: Path,
        on_progress: Callable[[int, int], None] = lambda done, count: None,
    ) -> Pairs:
        """Render every training view once, in 8 bits; those that stand in `folder` are read. Photographs with an own
        appearance code are rendered in their own light. UserError where masks keep no pixel of two views."""
        rendered, photographs = [], []
        views = scene.split.train
        for done, view in enumerate(views, start=1):
            width, height = scene.pictures.size[view].tolist()
            coarse = coarse_size((width, height), scale)
            path = folder / f"{view:04d}.npy"
            picture = _read_picture(path, coarse)
            if picture is None:
                rays = coarser(scene.view_rays(view), (width, height), coarse)
                rgb = torch.cat([part.rgb.cpu() for part in model.render_in_chunks(rays, 8192)])
                picture = _bytes(rgb.view(coarse[1], coarse[0], 3).movedim(2, 0))
                write_atomically(path, lambda file, kept=picture: np.save(file, kept.numpy()))
            full = _bytes(bicubic(picture[None] / 255, (width, height))[0])
            photograph = _bytes(scene.picture(view).movedim(2, 0))
            keep = None if scene.masks is None or scene.mask_rule == "score" else scene.masks[view][:, :, 0].bool()
            if keep is None or bool(keep.any()):
                rendered.append(full)
                photographs.append(photograph if keep is None else torch.where(keep, photograph, full))
            on_progress(done, len(views))
        if len(rendered) < 2:
            raise UserError(
                f"{scene.path or scene.name}: masks keep pixels of {len(rendered)} training views; a refiner needs two"
            )
        return Pairs(tuple(rendered), tuple(photographs))

    def __len__(self) -> int:
        return len(self.rendered)

    def crops(
        self, count: int, side: int, generator: Generator, *, flips: bool, shift: int = 0
    ) -> tuple[Float[Tensor, "n 3 s s"], Float[Tensor, "n 3 s s"]]:
        """Random squares of renderings and photographs in [0, 1]; flips: half of them are mirrored.

        shift  the photograph is that of so many views later
        """
        which = torch.randint(len(self), (count,), generator=generator)
        place = torch.rand(count, 2, generator=generator)
        mirror = torch.rand(count, generator=generator) < 0.5
        cut: tuple[list[Tensor], list[Tensor]] = [], []
        for view, (x, y), turned in zip(which.tolist(), place.tolist(), mirror.tolist()):
            both = self.rendered[view], self.photographs[(view + shift) % len(self)]
            height, width = (min(picture.shape[axis] for picture in both) for axis in (1, 2))
            left, top = int(x * (width - side + 1)), int(y * (height - side + 1))
            for picture, into in zip(both, cut):
                part = picture[:, top : top + side, left : left + side]
                into.append(part.flip(2) if flips and turned else part)
        rendered, photographs = (torch.stack(parts).float() / 255 for parts in cut)
        return rendered, photographs


def _read_picture(path: Path, size: tuple[int, int]) -> UInt8[Tensor, "3 h w"] | None:
    """A rendering that was kept; None where there is none, or it is not one of this size."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    right = found.dtype == np.uint8 and found.shape == (3, size[1], size[0])
    return torch.from_numpy(found) if right else None


def _bytes(picture: Float[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


# -- the task ----------------------------------------------------------------------------------------------------------


class TrainRefiner:
    """One step: refine crops of renderings, judge them, step the network, then the critic on the same crops.

    `model` is the mean of the network's weights over its steps, and the result. `rays` counts refined pixels;
    `skipped` the steps of the critic that were not taken, since a gradient was not finite.
    """

    def __init__(self, refining: Refining, pairs: Pairs, seed: int, device: torch.device) -> None:
        self.refining, self.pairs, self.seed, self.device = refining, pairs, seed, device
        torch.manual_seed(seed)
        self.network = refining.net.build().to(device)
        self.model = deepcopy(self.network).requires_grad_(False)
        self.critic = Critic(refining.critic, refining.tile).build().to(device) if refining.adversarial else None
        self.features = deepcopy(features(_network(refining))).to(device) if refining.perceptual else None
        self.optimiser = _adam(self.network, refining.lr, refining.momentum)
        self.critic_optimiser = None if self.critic is None else _adam(self.critic, refining.critic_lr, 0.0)
        self.rays = {"pixels": refining.batch * refining.crop**2}
        self.skipped = 0
        self._step, self._made, self._known = 0, torch.empty(0), torch.empty(0)

    def losses(self, step: int, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """The weighted losses of the network by name, and its mean squared error (detached). UserError where a loss
        is not finite."""
        how = self.refining
        self.optimiser.zero_grad(set_to_none=True)  # a loss may have been asked for without a step
        drawing = generator_for(self.seed, step, "crops")
        shift = 1 + self.seed % (len(self.pairs) - 1) if how.shuffled else 0
        crops = self.pairs.crops(how.batch, how.crop, drawing, flips=how.flips, shift=shift)
        rendered, known = (crop.to(self.device) for crop in crops)
        made = self.network(rendered, generator_for(self.seed, step, "noise"))
        losses: dict[str, Tensor] = {}
        if self.critic is not None:
            self.critic.requires_grad_(False)
            tiles = _tiles(made, how.tile, generator_for(self.seed, step, "judged tiles"))
            losses["adversarial"] = how.adversarial * opponent_loss(self.critic(tiles))
        if how.l1:
            losses["l1"] = how.l1 * (made - known).abs().mean()
        if self.features is not None:
            losses["perceptual"] = how.perceptual * distance(self.features, made, known)
        for name, loss in losses.items():
            if not torch.isfinite(loss.detach()):
                raise UserError(
                    f"step {step}: the refiner's loss '{name}' is {float(loss.detach())}, so training stopped; the last"
                    f" checkpoint stays. Train anew with a smaller --set {name}=... or --set lr=..., and another --out"
                )
        self._step, self._made, self._known = step, made.detach(), known
        return losses, (self._made.clamp(0, 1) - known).square().mean()

    def step(self) -> None:
        """Step the network, its mean, and the critic."""
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        images = (self._step + 1) * self.refining.batch
        reach = min(self.refining.ema_images, EMA_RAMP * images)
        forget = 1 - 0.5 ** (self.refining.batch / reach) if reach > 0 else 1.0
        with torch.no_grad():
            for mean, now in zip(self.model.parameters(), self.network.parameters()):
                mean.lerp_(now, forget)
        if self.critic is not None:
            self._step_critic(self.critic)

    def _step_critic(self, critic: nn.Module) -> None:
        """Tiles of photographs and of what was made of renderings are drawn independently."""
        assert self.critic_optimiser is not None
        how = self.refining
        critic.requires_grad_(True)
        drawing = generator_for(self.seed, self._step, "critic's tiles")
        real, made = (_tiles(pictures, how.tile, drawing) for pictures in (self._known, self._made))
        loss = critic_loss(critic(real), critic(made))
        if how.r1 and self._step % how.r1_every == 0:
            loss = loss + how.r1 * how.r1_every * r1(critic, real)
        loss.backward()
        if finite_gradients(critic):
            self.critic_optimiser.step()
        else:
            self.skipped += 1
        self.critic_optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, object]:
        """All but the mean of the weights: the network, the critic, both optimisers."""
        critic = {}
        if self.critic is not None and self.critic_optimiser is not None:
            critic = {"critic": self.critic.state_dict(), "critic_optimiser": self.critic_optimiser.state_dict()}
        own = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}
        return {**own, **critic, "skipped": self.skipped}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """UserError where it is not of this refiner."""
        try:
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.critic is not None and self.critic_optimiser is not None:
                self.critic.load_state_dict(state["critic"])
                self.critic_optimiser.load_state_dict(state["critic_optimiser"])
            self.skipped = state["skipped"]
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"the checkpoint's state is not that of this refiner ({error})") from None


def _tiles(pictures: Float[Tensor, "n 3 h w"], side: int, generator: Generator) -> Float[Tensor, "n 3 s s"]:
    """One random square of each picture, its pixels scaled to [-1, 1]."""
    count, _, height, width = pictures.shape
    place = torch.rand(count, 2, generator=generator)
    corners = (place * torch.tensor([height - side + 1, width - side + 1])).long().tolist()
    return 2 * torch.stack([p[:, y : y + side, x : x + side] for p, (y, x) in zip(pictures, corners)]) - 1


def _adam(module: nn.Module, lr: float, momentum: float) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=lr, betas=(momentum, 0.99), fused=True)


def _network(refining: Refining) -> Literal["random", "vgg19"]:
    assert refining.features != "auto", "settled before anything is built"
    return refining.features


# -- the run of a refiner ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RefinerRun(Folder):
    """The folder of one refiner's training; it is read beside the run that it belongs to.

    refiner.json   what it is, of which run, under which conditions     pairs/   the renderings that it learned from
    checkpoints/, latest, log.jsonl, command.txt   as in any run's folder
    """

    path: Path
    refining: Refining
    source: Source
    conditions: Conditions
    run: Run

    @staticmethod
    def open(path: Path, run: Run) -> RefinerRun:
        """One that exists, of this run or of another: `check` it. UserError where there is none, or it is broken."""
        about = path / ABOUT
        if not about.is_file():
            found = f"there is no {ABOUT} in it" if path.is_dir() else "no such folder"
            raise UserError(f"{path}: not a refiner, {found}; expected the folder that rayprior refine {run.path} made")
        plain = read_json(about)
        reader = Reader(str(about), KINDS)
        if not isinstance(plain, dict):
            raise reader.error(plain, dict[str, Any], "")
        rest = checked_format(plain, str(about))[1]
        for name in ("refining", "source", "conditions"):
            if name not in rest:
                raise UserError(f"{about}: '{name}' is missing; put the file back, or refine anew with --out")
        return RefinerRun(
            path,
            reader.read(rest["refining"], Refining, "refining"),
            reader.read(rest["source"], Source, "source"),
            reader.read(rest["conditions"], Conditions, "conditions"),
            run,
        )

    def write(self) -> None:
        """refiner.json."""
        parts = {name: to_plain(getattr(self, name), KINDS) for name in ("refining", "source", "conditions")}
        write_json(self.path / ABOUT, {"format": FORMAT, **parts, "versions": versions()})

    @property
    def digest(self) -> str:
        about = json.dumps([to_plain(part, KINDS) for part in (self.refining, self.source)], separators=(",", ":"))
        return hashlib.sha256(about.encode()).hexdigest()

    @property
    def described_in(self) -> str:
        return ABOUT

    @property
    def step(self) -> int:
        """Of its latest checkpoint. UserError where there is none."""
        step = self.latest
        if step is None:
            raise UserError(
                f"{self.path}: this refiner has no checkpoint yet; go on with rayprior refine {self.run.path}"
            )
        return step

    @property
    def budget(self) -> Budget:
        return self.conditions.extended or self.conditions.budget

    def network(self) -> Refiner:
        """The refiner at its latest checkpoint."""
        network = self.refining.net.build().requires_grad_(False)
        self.load_weights(network, self.step)
        return network

    def refined(self, scene: Scene) -> Refined:
        """The run's model with its pictures refined. UserError where the refiner is of another run, or has no
        checkpoint."""
        self.source.check(Source.of(self.run, scene), self.path)
        return Refined(self.run.model, self.network().to(self.run.model.device), self.refining.scale)

    def at_any_size(self, scene: Scene) -> Refined:
        """The same for pictures of any size, as a viewer shows them: on other sizes than the photographs' nothing was
        learned. UserError for a refiner that also enlarges."""
        if self.refining.scale > 1:
            raise UserError(
                f"{self.path}: this refiner enlarges what is rendered at 1/{self.refining.scale} of the photographs'"
                " size, and the viewer shows any size; use one without --scale"
            )
        return self.refined(scene)

    def check_sizes(self, sizes: Sequence[Sequence[int]]) -> None:
        """UserError for pictures of (width, height) that none of the scene's have."""
        for width, height in sizes:
            if (width, height) not in self.source.sizes:
                raise UserError(
                    f"{self.path}: a refiner of another size, {_named(self.source.sizes)}, and pictures of"
                    f" {width}x{height} are asked for; leave --size out, or render without --refiner"
                )

    @property
    def said(self) -> str:
        """For protocols: what refined the pictures, and what it left alone."""
        how = self.refining
        seen = "rendered at full size" if how.scale == 1 else f"rendered at 1/{how.scale} of the size, enlarged bicubic"
        features = f", perceptual loss on {how.features} features" if how.perceptual else ""
        depth = "the field's" if how.scale == 1 else "the field's at that size, the nearest pixel's"
        control = "; a control: trained on shuffled pairs" if how.shuffled else ""
        return (
            f"{KINDS[type(how.net)]} refiner, step {self.step}, of {len(self.source.views)} training views{features};"
            f" pictures {seen}, refined, clipped; depth and opacity {depth}{control}"
        )


def refine(
    run: Run,
    refining: Refining,
    *,
    typed: Sequence[str] = (),
    budget: Budget | None = None,
    out: Path | None = None,
    seed: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    watch: Callable[[Progress], None] = lambda progress: None,
    on_render: Callable[[int, int], None] = lambda done, count: None,
    on_begin: Callable[[RefinerRun, int], None] = lambda begun, pairs: None,
) -> RefinerRun:
    """Train a refiner of a run's renderings, or go on with the one that stands in `out`; the last checkpoint is the
    result.

    typed      keys of `refining` that are refused where they do not fit, instead of made to fit
    budget     None: refining.steps, or that of the refiner that is there; only a larger one may change
    out        None: RUN/refiner
    watch      called after every step; on_render with (done, count) of the training views; on_begin, once these are
               rendered, with what is trained and the number of pairs

    Raises UserError for whatever the user can mend; KeyboardInterrupt after an interrupt, with the state saved.
    """
    scene = scene_for(run.recipe, run.reopen())
    how = settled(refining, scene, typed)
    path = run.path / "refiner" if out is None else out
    of = _begun(path, run, how, Source.of(run, scene), budget, seed, threads, device)
    where = device_named(of.conditions.device)
    set_threads(of.conditions.threads)
    keep_freed_memory()
    pairs = Pairs.of(run.model.to(where), scene, how.scale, path / "pairs", on_render)
    on_begin(of, len(pairs))
    task = TrainRefiner(how, pairs, of.conditions.seed, where)
    try:
        train(task, of, of.conditions.budget, of.budget, watch)
    except KeyboardInterrupt:
        at = f"at step {of.latest or 0:,}; "
        raise KeyboardInterrupt(f"{at}go on with: rayprior refine {run.path} --out {path}") from None
    return of


def _begun(
    path: Path,
    run: Run,
    how: Refining,
    source: Source,
    budget: Budget | None,
    seed: int | None,
    threads: int | None,
    device: str,
) -> RefinerRun:
    """The refiner that stands there, if it is this one; else a new folder."""
    if (path / ABOUT).is_file():
        of = RefinerRun.open(path, run)
        of.source.check(source, path)
        for field in fields(Refining):
            mine, asked = getattr(of.refining, field.name), getattr(how, field.name)
            if mine != asked and field.name != "steps":
                raise UserError(
                    f"{path}: holds a refiner with {field.name}={_shown(mine)}, and {_shown(asked)} is asked for;"
                    " choose another --out, or remove the folder"
                )
        if seed is not None and seed != of.conditions.seed:
            raise UserError(f"{path}: this refiner was begun with --seed {of.conditions.seed}; choose another --out")
        if budget is None or budget == of.budget:
            return of
        if not budget.extends(of.budget):
            raise UserError(
                f"{path}: this refiner's budget is {of.budget}, {budget} was asked for; only a larger one of the same"
                " unit may change. Choose another --out for a shorter training"
            )
        of = replace(of, conditions=replace(of.conditions, extended=budget))
        of.write()
        return of
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: holds something else than a refiner; choose another --out, or empty it")
    conditions = Conditions(budget or Budget(how.steps), seed or 0, threads or cores(), str(device_named(device)))
    of = RefinerRun(path, how, source, conditions, run)
    of.write()
    write_text(path / "command.txt", join(sys.argv) + "\n")
    return of


def _typed(text: str) -> Any:
    """A value as it is typed in a terminal: JSON where it is some, else the text itself."""
    words = {"True": True, "False": False}
    if text in words:
        return words[text]
    try:
        return parse_json(text, "")
    except UserError:
        return text


def _shown(value: Any) -> str:
    return json.dumps(to_plain(value, KINDS))
