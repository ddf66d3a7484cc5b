"""The bill: what a training will cost, said before it starts, and refused where memory would not do."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path

import torch
from torch import Tensor, nn

from rayprior.errors import UserError
from rayprior.fields.scene_function import SceneFunction
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule, resolve
from rayprior.networks.gqn import COARSE, Gqn
from rayprior.priors.term import Adversary, Term
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.model import Model
from rayprior.rendering.samplers import Uniform
from rayprior.scenes.family import Family
from rayprior.scenes.scene import Scene
from rayprior.training import processes
from rayprior.training.budget import Budget
from rayprior.training.recipe import Recipe
from rayprior.training.settle import samples_a_ray
from rayprior.training.tasks import generator_for, question_of

NUMBER = 4  # bytes of a float32
A_RAY = 64  # samples on which a field of many scenes is counted: what is known of a ray is counted once
A_SAMPLE = 24  # floats a sample beside the layers': edges, position, density, weight, their gradients
LIBRARIES = 100_000_000  # compiled kernels and the buffers of matrix libraries, once the first step has run


@dataclass(frozen=True)
class Bill:
    """What was found out, and its text.

    rays         of a step, by who asks: 'photo' first, then the terms with rays of their own
    evaluations  of a field along one ray
    memory       bytes by part, beside what Python and torch take: model, optimiser, sampler, activations, ...
    seconds      of the whole budget; None where no speed is known
    said         what terms have to say of themselves, by name
    """

    rays: Mapping[str, int]
    evaluations: int
    memory: Mapping[str, int]
    budget: Budget
    seconds: float | None = None
    said: Mapping[str, str] = dataclass_field(default_factory=dict)

    @property
    def peak(self) -> int:
        """Bytes at the height of a step."""
        return sum(self.memory.values())

    @property
    def to_come(self) -> int:
        """The part of the peak that is not there yet: the pixels are read before the bill is made."""
        return self.peak - self.memory["pixels"]

    def __str__(self) -> str:
        rays = " + ".join(f"{name} {count}" for name, count in self.rays.items())
        samples = sum(self.rays.values()) * self.evaluations
        parts = ", ".join(f"{name} {_size(count)}" for name, count in self.memory.items())
        lines = [f"rays/step: {rays}", *(f"{name}: {said}" for name, said in self.said.items())]
        lines.append(f"samples/step: {samples:,} ({self.evaluations} a ray)")
        lines.append(f"memory: about {_size(self.peak)} ({parts})")
        lines.append(
            f"time: {self.budget}" + ("" if self.seconds is None else f", about {rounded_duration(self.seconds)}")
        )
        return "\n".join(lines)


def bill(recipe: Recipe, scene: Scene | Family, budget: Budget, rays_per_second: float | None = None) -> Bill:
    """What a settled recipe costs on this scene. Nothing large is made to find out.

    With n evaluations of the field in a step, in bytes:
      model        4 a parameter, of every field             (counted on a model without storage)
      optimiser    12 a parameter: Adam's two moments and the gradient
      sampler      a density grid's cells and its list of them, and the layers' outputs when all are refreshed at once
      activations  n x (inputs and outputs of all linear layers + 24) x 4: what the backward pass reads, its gradients;
                   of a field of many scenes see `_of_scenes`
      critics      of adversaries: 16 a parameter (two moments, the gradient), and three passes over a step's tiles
      libraries    100 MB: compiled kernels, buffers of matrix products
      pixels       the pictures, masks and depth as read

    Measured on a CPU, beside what the imports take: 1.1 to 1.2 GB where this says 1.5 (MLP, 256 rays), 390 to 460 MB
    for 470 (64 rays), 140 MB for 168 (grid, 1024 rays). nerf-vae on 32 px: 370 MB for 336 (512 rays), 1.5 GB for 1.8
    (2048 rays, one refinement), 420 MB for 326 (2048 rays in 4 parts).
    """
    if isinstance(recipe.field, Gqn):
        assert isinstance(scene, Family)
        return _of_pictures(recipe, recipe.field, scene, budget, rays_per_second)
    rays = _rays(recipe, scene)
    layers, parameters = _field(recipe)
    evaluations, fields = samples_a_ray(recipe.sampler), 1
    if isinstance(recipe.sampler, CoarseField):
        evaluations, fields = evaluations + recipe.sampler.coarse, 2
    if recipe.inference is not None:  # each guess of a latent is judged by a rendering of its own
        evaluations, fields = evaluations * (1 + recipe.inference.refinements), fields
    samples = sum(rays.values()) * evaluations
    if isinstance(recipe.field, SceneFunction):
        activations = _of_scenes(recipe, recipe.field, scene, samples)
    else:
        kept = sum(layer.in_features + layer.out_features for layer in layers) + A_SAMPLE
        activations = samples * kept * NUMBER
    memory = {
        "model": fields * parameters * NUMBER,
        "optimiser": 3 * fields * parameters * NUMBER,
        "sampler": _sampler(recipe, layers),
        "activations": activations,
        **({"critics": critics} if (critics := _critics(recipe, rays)) else {}),
        "libraries": LIBRARIES,
        "pixels": _pixels(scene),
    }
    seconds = budget.seconds
    if budget.steps is not None and rays_per_second:
        seconds = budget.steps * sum(rays.values()) / rays_per_second
    said = {name: text for name, term in recipe.terms.items() if (text := term.said) is not None}
    return Bill(rays, evaluations, memory, budget, seconds, said)


def _of_scenes(recipe: Recipe, field: SceneFunction, scene: Scene | Family, samples: int) -> int:
    """Activations of a field of many scenes, and of the encoder at the most pictures that it may be shown: what the
    backward pass reads, counted on tensors without storage. Of a step in parts, or of several processes, one part's."""
    with torch.device("meta"):
        built = field.build(Space("free"), recipe.codes.appearance, recipe.codes.latent)
        latent = torch.empty(1, recipe.codes.latent) if recipe.codes.latent else None

        def a_ray() -> None:
            _, feature = built.density(torch.empty(1, A_RAY, 3), None, latent)
            built.colour(feature, torch.empty(1, 1, 3).expand(1, A_RAY, 3))

        counted = samples * (_saved(a_ray) // A_RAY + A_SAMPLE * NUMBER)
        if recipe.episodes is None or recipe.inference is None or not isinstance(scene, Family):
            return counted
        episodes, (width, height) = recipe.episodes, scene.size
        encoder = recipe.inference.encoder.build(recipe.codes.latent)
        shown = episodes.scenes * min(episodes.context, scene.views - 1)
        picture = torch.empty(1, height, width, 3)
        counted += shown * _saved(lambda: encoder.look(picture, picture, picture))
    return counted // (episodes.accumulate * processes.started())


def _saved(run: Callable[[], object]) -> int:
    """Bytes that the backward pass would read, but for parameters."""
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(found.values())


def _of_pictures(recipe: Recipe, field: Gqn, family: Family, budget: Budget, rays_per_second: float | None) -> Bill:
    """Of a model that paints: a pixel of a target is counted as a ray. Activations: channels in and out of every
    convolution at a core's resolution, for each picture that is shown, asked for or answered with."""
    assert recipe.episodes is not None
    width, height = family.size
    with torch.device("meta"):
        model = field.build(family.size)
    channels = sum(m.in_channels + m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    asked = recipe.episodes.scenes * min(recipe.episodes.targets, family.views - 1)
    pictures = recipe.episodes.scenes * recipe.episodes.context + 2 * asked
    memory = {
        "model": parameters * NUMBER,
        "optimiser": 3 * parameters * NUMBER,
        "activations": pictures * channels * (width * height // COARSE**2) * NUMBER,
        "libraries": LIBRARIES,
        "pixels": 0,
    }
    pixels = asked * width * height
    seconds = budget.seconds
    if budget.steps is not None and rays_per_second:
        seconds = budget.steps * pixels / rays_per_second
    return Bill({"photo": pixels}, 1, memory, budget, seconds)


def refuse_if_too_large(bill: Bill, available_bytes: int | None) -> None:
    """UserError with advice where the memory that a training still needs is not there; None: nobody knows, go on."""
    if available_bytes is None or bill.to_come <= available_bytes:
        return
    raise UserError(
        f"this training needs about {_size(bill.to_come)} more memory, {_size(available_bytes)} are free "
        f"(rays/step: {', '.join(f'{name} {count}' for name, count in bill.rays.items())}); "
        f"make it smaller with {_advice(bill, available_bytes)}"
    )


def available_memory(device: str | torch.device = "cpu", root: Path = Path("/")) -> int | None:
    """Bytes that a training may still take on this device; None where the system does not say.

    On a CPU the least of what the machine has free and of what each control group around this process leaves.
    `root` is where /proc and /sys are found.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [free for free in (_machine(root), *_control_groups(root)) if free is not None]
    return min(known) if known else None


# -- the parts of the bill ---------------------------------------------------------------------------------------------


def _rays(recipe: Recipe, scene: Scene | Family) -> dict[str, int]:
    """Rays of a step by who asks, found by asking once, each schedule of `rays` at its height; a term that asks
    nothing judges the photographed rays. UserError where a term has no question for this scene."""
    photo = recipe.photo.rays
    if photo is None:
        raise ValueError("a bill is for a settled recipe: photo.rays is None")
    rays = {"photo": photo}
    asked = scene.among(torch.tensor(scene.split.train[:1])) if isinstance(scene, Family) else scene
    for name, term in recipe.terms.items():
        if type(term).query is Term.query:
            continue
        count = getattr(term, "rays", None)
        if isinstance(count, Schedule):
            term = replace(term, rays=round(max(value for _, value in count.points)))
        question = question_of(name, resolve(term, 0, 0.0), asked, generator_for(0, 0, name))
        if question is not None:
            rays[name] = len(question)
    return rays


def _field(recipe: Recipe) -> tuple[list[nn.Linear], int]:
    """The linear layers and the number of parameters of one field, made without storage."""
    assert not isinstance(recipe.field, Gqn)
    with torch.device("meta"):
        model = Model.build(recipe.field, Uniform(), recipe.space, recipe.compositing, recipe.codes, recipe.inference)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear, sum(parameter.numel() for parameter in model.parameters())


def _critics(recipe: Recipe, rays: Mapping[str, int]) -> int:
    """Bytes of all adversaries' critics, their optimisers, and what passes over real and rendered tiles keep; made and
    run without storage."""
    total = 0
    for name, term in recipe.terms.items():
        if not isinstance(term, Adversary):
            continue
        with torch.device("meta"):
            critic = term.critic()
        total += 4 * NUMBER * sum(parameter.numel() for parameter in critic.parameters())
        tile = getattr(term, "tile", None)
        if tile is None:  # of a user's own, whose input nobody knows
            continue
        tiles = rays[name if name in rays else term.judges] // tile**2
        total += 3 * NUMBER * _outputs(critic, torch.empty(tiles, 3, tile, tile, device="meta"))
    return total


def _outputs(network: nn.Module, inputs: Tensor) -> int:
    """How many numbers all modules of a network put out; without storage."""
    kept: list[int] = []
    for module in network.modules():
        module.register_forward_hook(lambda module, given, out: kept.append(out.numel()))
    network(inputs)
    return sum(kept)


def _sampler(recipe: Recipe, layers: list[nn.Linear]) -> int:
    if not isinstance(recipe.sampler, DensityGrid):
        return 0
    cells = recipe.sampler.resolution**3
    widest = max((layer.in_features + layer.out_features for layer in layers), default=0)
    return cells * (NUMBER + 8 + (widest + 6) * NUMBER)  # density, 8 bytes of index; a layer's ends, two positions


def _pixels(scene: Scene | Family) -> int:
    if isinstance(scene, Family):  # mapped: the system holds what fits
        return 0
    pictures = [p for p in (scene.pictures, scene.masks, scene.depth) if p is not None]
    read = sum(p.values.numel() * p.values.element_size() for p in pictures)
    return read + (8 * scene.masks.values.numel() if scene.masks is not None else 0)  # the list of pixels that are kept


def _advice(bill: Bill, available: int) -> str:
    """Commands, the one that helps most first."""
    if bill.memory["activations"] >= max(bill.memory["model"] + bill.memory["optimiser"], bill.memory["sampler"]):
        share = max(available - (bill.to_come - bill.memory["activations"]), 0) / bill.memory["activations"]
        most = max(bill.rays, key=lambda name: bill.rays[name])
        fewer = max(32, 2 ** int(bill.rays[most] * share).bit_length() // 2)
        if most in bill.said:  # it asks for patches, not for rays
            return f"--size small, smaller patches (--set terms.{most}.largest, with tiles that fit) or --downscale 2"
        key = "photo.rays" if most == "photo" else f"terms.{most}.rays"
        return f"--set {key}={min(fewer, max(bill.rays[most] // 2, 1))}, --size small or --downscale 2"
    if bill.memory["sampler"] > bill.memory["model"]:
        return "a smaller --set sampler.resolution=64, or --size small"
    return "--size small, or a smaller field with --set (see `rayprior recipe`)"


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}" if count < 10 * scale else f"{count / scale:.0f} {unit}"
    return f"{count} B"


def rounded_duration(seconds: float) -> str:
    """As a prediction is worth: 95 s, 12 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


# -- what is free ------------------------------------------------------------------------------------------------------


def _machine(root: Path) -> int | None:
    """MemAvailable of /proc/meminfo; elsewhere the free pages that the system counts, where it does."""
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _control_groups(root: Path) -> list[int | None]:
    """What is left in each control group around this process, both versions; pages of files can be dropped."""
    try:
        lines = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    left: list[int | None] = []
    for parts in lines:
        if len(parts) != 3 or parts[1] not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / parts[1]
        limit, usage = ("memory.max", "memory.current") if not parts[1] else _VERSION_1
        folder = Path(parts[2].lstrip("/"))
        inside = [base / folder, *(base / parent for parent in folder.parents)]  # in a container only the last is there
        left += [_left(at / limit, at / usage, at / "memory.stat") for at in inside]
    return left


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _left(limit: Path, usage: Path, stat: Path) -> int | None:
    try:
        allowed, used = limit.read_text().strip(), int(usage.read_text())
        if allowed == "max":
            return None
        lines = dict(line.split()[:2] for line in stat.read_text().splitlines() if len(line.split()) >= 2)
        droppable = int(lines.get("total_inactive_file", lines.get("inactive_file", "0")))
        return max(int(allowed) - used + droppable, 0)
    except (OSError, ValueError):
        return None
