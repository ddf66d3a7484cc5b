"""What the jobs of a study of labels do: fit a field and ask every source for known matches, or teach a network and let
it find some; and what all of them will take."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from json import dumps, loads
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from rayprior.descriptors.correspond import KINDS, CycleChecked
from rayprior.descriptors.drawing import draw_pairs, objects_of, some_pairs, view_pairs
from rayprior.descriptors.pairs import Labels, Pairs
from rayprior.descriptors.photographs import Source
from rayprior.descriptors.rivals import track_pairs
from rayprior.descriptors.sources import OWN_PAIRS, labels_of
from rayprior.errors import UserError
from rayprior.evaluation.descriptors import score
from rayprior.evaluation.evaluate import strict
from rayprior.files import remove, write_atomically
from rayprior.kernels.threads import set_threads
from rayprior.rendering.model import Model, Rendering
from rayprior.scenes.open import EMBEDDED, load_scene
from rayprior.scenes.rays import Rays
from rayprior.scenes.scene import Pictures, Scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.study.jobs import DEVICE, RUNS, ended, of_run, row_begun, seconds_of_steps, trained_run
from rayprior.study.labels import CYCLE, DescriptorJob, LabelJob, LabelStudy, Subject
from rayprior.study.labels_claims import DESCRIPTORS, LABELS, Errors, Evidence, numbers
from rayprior.study.rows import Row
from rayprior.training.bill import rounded_duration
from rayprior.training.budget import Budget
from rayprior.training.describer import ABOUT, train_descriptors
from rayprior.training.fit import device_named
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene, scene_for

ERRORS, POOLS = "errors", "pools"  # folders of a study, beside its rows
PAIRS_OF_VIEWS = 200  # among which pixels with a known match are drawn
KEPT = 2  # scenes that a worker keeps
PICTURE, MASK = "picture", "mask"  # where the best match is looked for; the first decides
PROBE_VIEWS, PROBE_STEPS = 2, 8
BESIDE = 90.0  # seconds of a job of stage A beside training and rendering, until the first row tells
BESIDE_DESCRIPTORS = 5.0


def run_label_job(job: LabelJob | DescriptorJob, folder: Path) -> Row:
    """Stage A or B; what goes wrong is said in the row. Of a worker, so it is a module's function."""
    row = row_begun(job, job.study.name)
    if isinstance(job, LabelJob):
        return ended(row, lambda row: _labelled(job, folder, replace(row, run=f"{RUNS}/{job.run}")))
    return ended(row, lambda row: _described(job, folder, replace(row, run=f"{RUNS}/{job.key}")))


# -- stage A -----------------------------------------------------------------------------------------------------------


def _labelled(job: LabelJob, folder: Path, row: Row) -> Row:
    study = job.study
    scene, truth = object_scene(study, job.scene), _truth(study, job.scene, "train", study.labels.pixels)
    run = trained_run(
        folder / row.run, study.fields.chosen(), scene, Budget(study.fields.steps), job.seed, study.threads
    )
    set_threads(study.threads)
    model = Remembered(run.model, scene_for(run.recipe, scene))
    found: dict[str, Errors] = {}
    wanted = list(dict.fromkeys((*study.asked(job.scene), *study.pooled(job.scene))))
    for name, labels in _sources(wanted, scene, model, study.labels.cycle_px):
        if name in study.asked(job.scene):
            found[name] = errors_of(labels, truth, _generator(job.seed, 1))
        if name in study.pooled(job.scene):
            pool = pool_of(labels, scene, study.labels.pool, _generator(job.seed, 2))
            write_pool(_pool(folder, job.key, name), pool)
    write_errors(folder, job.key, found)
    width = int(scene.pictures.size[:, 0].max())
    least = min(errors.coverage for errors in found.values())
    entries = []
    for name, errors in found.items():
        equal = numbers(errors, width, errors.surest(least))
        entries.append({"source": name, **numbers(errors, width), "equal_px": equal.get("error_px")})
    return replace(
        of_run(row, run),
        status="done",
        metrics=strict({"error_px": entries[0].get("error_px"), "coverage": entries[0]["coverage"]}),
        per_view=tuple(strict(entries)),
        protocol=strict(scene.protocol | {"truth": study.objects[job.scene].truth, "pixels": len(truth)}),
    )


def pool_of(labels: Labels, scene: Scene, count: int, generator: Generator) -> Pairs:
    """`count` pairs of training views from a source, many from each of some pairs of views."""
    views = scene.split.train
    if isinstance(labels, OWN_PAIRS):
        return labels.draw(views, count, generator)
    return draw_pairs(labels, scene, views, count, generator, pairs=_views_for(scene, views, generator))


def _sources(names: Sequence[str], scene: Scene, model: Remembered, cycle_px: float) -> Iterator[tuple[str, Labels]]:
    """Sources by their names in the study, 'draw' and 'draw+cycle' of one and the same."""
    of_field: dict[str, Labels] = {}
    for name in names:
        base, _, check = name.partition("+")
        if base not in KINDS:
            labels = _of_scene(base, scene)
        else:
            if base not in of_field:
                of_field[base] = labels_of(base, model.scene, model)  # type: ignore[arg-type]
            labels = of_field[base]
        yield name, CycleChecked(labels, cycle_px) if check == CYCLE else labels


@lru_cache(maxsize=4)
def _of_scene(base: str, scene: Scene) -> Labels:
    """A source that needs no field: alike for all seeds of an object, and stereo takes a minute."""
    return labels_of(base, scene, None)


class Remembered:
    """A model that renders each view once: every source that reads the field asks for the same rays."""

    def __init__(self, model: Model, scene: Scene) -> None:
        self.model, self.scene = model, scene
        self._kept: dict[int, list[Rendering]] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def render_in_chunks(self, rays: Rays, chunk: int) -> Iterator[Rendering]:
        """As the model's. Whole views are kept, by their camera: nothing but their distributions is asked for."""
        view = int(rays.camera[0]) if len(rays) else -1
        if view < 0 or bool((rays.camera != view).any()):
            yield from self.model.render_in_chunks(rays, chunk)
            return
        if view not in self._kept or sum(len(part.rgb) for part in self._kept[view]) != len(rays):
            self._kept[view] = list(self.model.render_in_chunks(rays, chunk))
        yield from self._kept[view]


def errors_of(labels: Labels, truth: Pairs, generator: Generator) -> Errors:
    """What a source says of the pixels whose matches are known, and by how much it is wrong; of those whose match
    nobody knows (nan), how far from the pixel the way back ends."""
    error = torch.full((len(truth),), torch.nan, dtype=torch.float64)
    weight = torch.zeros(len(truth), dtype=torch.float64)
    for rows in _by_views(truth):
        s, t = int(truth.view_s[rows[0]]), int(truth.view_t[rows[0]])
        found = labels.match(s, truth.pixel_s[rows], t, generator)
        off = found.pixel - truth.pixel_t[rows]
        if bool(truth.pixel_t[rows].isnan().all()):
            back = labels.match(t, found.pixel[found.valid], s, generator)
            off[found.valid] = back.pixel - truth.pixel_s[rows][found.valid]
        error[rows] = off.norm(dim=1).where(found.valid, torch.nan).double()
        weight[rows] = found.weight.double()
    return Errors(error.numpy(), weight.numpy(), np.zeros(0))


def _by_views(pairs: Pairs) -> list[Tensor]:
    """Rows of each pair of views."""
    which = torch.stack([pairs.view_s, pairs.view_t], dim=1)
    _, inverse, counts = which.unique(dim=0, return_inverse=True, return_counts=True)
    return list(inverse.argsort(stable=True).split(counts.tolist()))


# -- stage B -----------------------------------------------------------------------------------------------------------


def _described(job: DescriptorJob, folder: Path, row: Row) -> Row:
    study, arm = job.study, job.study.arms[job.arm]
    how = study.describing(arm)
    large = object_scene(study, job.scene)
    scene = smaller(large, study.descriptors.width)
    pool = scaled(read_pool(_pool(folder, job.pool, arm.labels)), large, scene)
    if arm.shuffled:
        pool = shuffled(pool, _generator(job.seed, 3))
    truth = scaled(_truth(study, job.scene, "test", study.descriptors.pairs), large, scene)
    set_threads(study.threads)
    if not (folder / row.run / ABOUT).is_file():
        remove(folder / row.run)  # killed before it was a describer's; else it is gone on with
    begun = time.perf_counter()
    describer = train_descriptors(
        [Source(scene, pool)],
        how,
        folder / row.run,
        budget=Budget(how.steps),
        seed=job.seed,
        threads=study.threads,
        device=DEVICE,
    )
    seconds = time.perf_counter() - begun

    def describe(view: int) -> Float[Tensor, "h w d"]:
        return describer.describe(scene.picture(view))

    scores = {where: score(describe, truth, scene, masked=where == MASK) for where in (PICTURE, MASK)}
    chance = _chance(scene, truth).numpy()
    sure = np.ones(len(truth))
    found = {where: Errors(s.error_px.double().numpy(), sure, chance) for where, s in scores.items()}
    write_errors(folder, job.key, found)
    entries = [{"search": where, **numbers(errors, study.descriptors.width)} for where, errors in found.items()]
    return replace(
        row,
        status="done",
        metrics=strict({"error_px": entries[0]["error_px"], "pck_2px": entries[0]["pck_2px"]}),
        per_view=tuple(strict(entries)),
        protocol=strict(scene.protocol | {"truth": study.objects[job.scene].truth, "pairs": len(truth)}),
        seconds=round(seconds, 3),
        steps=how.steps,
    )


def shuffled(pairs: Pairs, generator: Generator) -> Pairs:
    """The same sources and the same targets, of which each view's are exchanged among its pairs."""
    target = pairs.pixel_t.clone()
    for view in pairs.view_t.unique():
        rows = (pairs.view_t == view).nonzero()[:, 0]
        target[rows] = target[rows[torch.randperm(len(rows), generator=generator)]]
    return replace(pairs, pixel_t=target)


def _chance(scene: Scene, truth: Pairs) -> Float[Tensor, "p"]:
    """How far from the true match a pixel lies that is drawn from the target's mask."""
    generator, error = _generator(0, 4), torch.empty(len(truth), dtype=torch.float64)
    for view in truth.view_t.unique().tolist():
        rows = (truth.view_t == view).nonzero()[:, 0]
        mask = scene.object_mask(view)
        width, height = scene.pictures.size[view].tolist()
        inside = (torch.ones(height, width) if mask is None else mask).nonzero()
        drawn = inside[torch.randint(len(inside), (len(rows),), generator=generator)].flip(1) + 0.5
        error[rows] = (drawn - truth.pixel_t[rows]).norm(dim=1).double()
    return error


# -- objects and their matches -----------------------------------------------------------------------------------------


def object_scene(study: LabelStudy, name: str) -> Scene:
    """The photographs of an object, opened once a worker. UserError where a capture is not as it should be."""
    subject = study.objects[name]
    shape = (subject.size, subject.views, subject.test_views) if subject.embedded else (0, 0, 0)
    return _load(study.source_of(name), *shape, dumps(dict(subject.options), sort_keys=True))


@lru_cache(maxsize=KEPT)
def _load(source: str, size: int, views: int, test_views: int, options: str) -> Scene:
    if source.startswith(EMBEDDED):
        return synthetic_scene(source.removeprefix(EMBEDDED), size=size, views=views, test_views=test_views)
    return load_scene(source, **loads(options))


def _truth(study: LabelStudy, name: str, part: str, count: int) -> Pairs:
    """True matches between training or held-out views of an object: the same for every seed, source and arm."""
    scene = object_scene(study, name)
    return true_pairs(scene, study.objects[name], scene.split.train if part == "train" else scene.split.test, count)


def _views_for(scene: Scene, views: Sequence[int], generator: Generator) -> list[tuple[int, int]]:
    return some_pairs(view_pairs(scene.cameras, views), PAIRS_OF_VIEWS, generator)


def true_pairs(scene: Scene, subject: Subject, views: Sequence[int], count: int) -> Pairs:
    """`count` true matches of pixels of the object; of sparse points no more than there are."""
    generator = _generator(0, 0)
    if subject.truth == "points":
        return _tracked_pairs(track_pairs(scene, views), count, generator)
    chosen = _views_for(scene, views, generator)
    if subject.truth == "cycle":
        return _unknown(scene, views, chosen, count, generator)
    return draw_pairs(labels_of(subject.truth, scene, None), scene, views, count, generator, pairs=chosen)


def _tracked_pairs(pairs: Pairs, count: int, generator: Generator) -> Pairs:
    """`count` of the pairs, of PAIRS_OF_VIEWS pairs of views, or of more where these have too few: a source looks at
    one pair of views at a time, and tracks tie but some pixels of each two."""
    _, which, each = torch.stack([pairs.view_s, pairs.view_t], dim=1).unique(
        dim=0, return_inverse=True, return_counts=True
    )
    order = torch.randperm(len(each), generator=generator)
    enough = int((each[order].cumsum(0) < count).sum()) + 1
    rows = torch.isin(which, order[: max(enough, PAIRS_OF_VIEWS)]).nonzero()[:, 0]
    return pairs[rows[torch.randperm(len(rows), generator=generator)[:count]]]


def _unknown(
    scene: Scene, views: Sequence[int], pairs: Sequence[tuple[int, int]], count: int, generator: Generator
) -> Pairs:
    """Pixels of the object, of which nobody knows the match: nan."""
    objects = objects_of(scene, views)
    pairs = [(s, t) for s, t in pairs if s in objects and t in objects]
    each = -(-count // len(pairs))
    view_s, view_t = torch.tensor(pairs).repeat_interleave(each, dim=0)[:count].unbind(dim=1)
    pixel = torch.cat([objects[s].draw(each, generator) for s, _ in pairs])[:count].double()
    return Pairs(view_s, view_t, pixel, torch.full_like(pixel, torch.nan), torch.ones(count, dtype=torch.float64))


def smaller(scene: Scene, width: int) -> Scene:
    """The scene with pictures of this width: colours by an antialiased bilinear filter, masks where half is kept. Depth
    and sparse points are left out. A scene of this width is itself."""
    if all(w == width for w in scene.pictures.size[:, 0].tolist()):
        return scene
    size = torch.stack([torch.tensor([width, max(1, round(h * width / w))]) for w, h in scene.pictures.size.tolist()])
    pictures, masks = [], []
    for view, (w, h) in enumerate(size.tolist()):
        pictures.append(_resized_colours(scene.pictures[view].float(), (h, w)))
        if scene.masks is not None:
            masks.append(_resized(scene.masks[view].float(), (h, w)) >= 0.5)
    return replace(
        scene,
        cameras=scene.cameras.scaled(size),
        pictures=Pictures.of(pictures),
        masks=Pictures.of(masks) if masks else None,
        depth=None,
        depth_std=None,
        points=None,
    )


def _resized_colours(picture: Float[Tensor, "h w c"], size: tuple[int, int]) -> Tensor:
    """uint8; straight alpha is multiplied in before, and divided out after."""
    if picture.shape[2] == 4:
        alpha = picture[..., 3:] / 255
        mixed = _resized(torch.cat([picture[..., :3] * alpha, picture[..., 3:]], dim=2), size)
        picture = torch.cat([mixed[..., :3] / (mixed[..., 3:] / 255).clamp_min(1 / 255), mixed[..., 3:]], dim=2)
    else:
        picture = _resized(picture, size)
    return picture.round().clamp(0, 255).to(torch.uint8)


def _resized(picture: Float[Tensor, "h w c"], size: tuple[int, int]) -> Float[Tensor, "i j c"]:
    small = F.interpolate(picture.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True, align_corners=False)
    return small[0].permute(1, 2, 0)


def scaled(pairs: Pairs, of: Scene, to: Scene) -> Pairs:
    """Pairs of a scene as pairs of the same scene with pictures of another size."""
    ratio = to.pictures.size.double() / of.pictures.size.double()  # (views, 2)
    return replace(pairs, pixel_s=pairs.pixel_s * ratio[pairs.view_s], pixel_t=pairs.pixel_t * ratio[pairs.view_t])


def _generator(seed: int, purpose: int) -> Generator:
    return Generator().manual_seed(8 * seed + purpose)


# -- what is kept beside the rows --------------------------------------------------------------------------------------


def _pool(folder: Path, key: str, source: str) -> Path:
    return folder / POOLS / f"{key}--{source}.npz"


def write_pool(path: Path, pool: Pairs) -> None:
    """A pool of pairs as arrays."""
    arrays = {field.name: getattr(pool, field.name).numpy() for field in fields(Pairs)}
    write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def read_pool(path: Path) -> Pairs:
    """What `write_pool` wrote. UserError where stage A left none."""
    if not path.is_file():
        raise UserError(f"{path}: no such pool of pairs: stage A of its object failed, or was run elsewhere")
    with np.load(path, allow_pickle=False) as arrays:
        return Pairs(*(torch.from_numpy(arrays[field.name]) for field in fields(Pairs)))


def write_errors(folder: Path, key: str, found: Mapping[str, Errors]) -> None:
    """The errors of a row's sources or searches, in one .npz."""
    arrays = {
        f"{name}.{field.name}": getattr(errors, field.name).astype(np.float32)
        for name, errors in found.items()
        for field in fields(Errors)
    }
    path = folder / ERRORS / f"{key}.npz"
    write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def read_errors(folder: Path, key: str) -> dict[str, Errors]:
    """What `write_errors` wrote; nothing where there is no such file."""
    path = folder / ERRORS / f"{key}.npz"
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        names = dict.fromkeys(name.rpartition(".")[0] for name in arrays.files)
        return {n: Errors(*(arrays[f"{n}.{field.name}"].astype(float) for field in fields(Errors))) for n in names}


def evidence_of(folder: Path, study: LabelStudy, rows: Sequence[Row]) -> Evidence:
    """The errors behind the rows that ended well."""
    labels: dict[str, dict[str, dict[int, Errors]]] = {}
    descriptors: dict[str, dict[str, dict[int, Errors]]] = {}
    for row in rows:
        if not row.done:
            continue
        for name, errors in read_errors(folder, row.key).items():
            if row.arm == LABELS:
                labels.setdefault(name, {}).setdefault(row.scene, {})[row.seed] = errors
            elif name == PICTURE:
                descriptors.setdefault(row.arm, {}).setdefault(row.scene, {})[row.seed] = errors
    twins = {name: subject.twin for name, subject in study.objects.items() if subject.twin is not None}
    within_px = {LABELS: study.labels.within_px, DESCRIPTORS: study.descriptors.within_px}
    return Evidence(labels, descriptors, twins, within_px)


# -- the bill ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelBill:
    """What a study will take. seconds: predicted wall time; each: of a job of stage A, and of one of B."""

    stages: tuple[int, int]
    there: int
    workers: int
    each: tuple[float, float]
    measured: bool
    troubles: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Stage A, then B; a stage takes no less than one of its jobs."""
        return sum(max(count * each / self.workers, each * (count > 0)) for count, each in zip(self.stages, self.each))

    def __str__(self) -> str:
        there = f", {self.there} more are there already" if self.there else ""
        if not sum(self.stages):
            return f"runs: 0{there}"
        how = "of runs that have ended" if self.measured else "of a few steps, and a guess of what comes beside them"
        side = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        trouble = "".join(f"\nwill fail: {trouble}" for trouble in self.troubles)
        a, b = (rounded_duration(seconds) for seconds in self.each)
        return (
            f"runs: {self.stages[0]} of stage A (field and labels), {self.stages[1]} of stage B (descriptors){there}\n"
            f"each: A {a}, B {b} (by the time {how})\n"
            f"time: about {rounded_duration(self.seconds)} with {side}{trouble}"
        )


def label_bill(
    study: LabelStudy, first: Sequence[LabelJob], then: Sequence[DescriptorJob], there: Sequence[Row], workers: int
) -> LabelBill:
    """The runs and the predicted time: by rows that are there, else by a few steps on pictures of the first embedded
    object, of which few are made."""
    ended = [row for row in there if row.done]
    known = [[row.wall for row in ended if (row.arm == LABELS) == (stage == 0)] for stage in (0, 1)]
    each, troubles = [fmean(walls) if walls else 0.0 for walls in known], []
    missing = [bool(jobs) and not walls for jobs, walls in zip((first, then), known)]
    subject = next((study.objects[name] for name in study.objects if study.objects[name].embedded), None)
    if any(missing) and subject is not None:
        try:
            scene = _load(f"{EMBEDDED}{subject.path.removeprefix(EMBEDDED)}", subject.size, PROBE_VIEWS, 2, "{}")
            if missing[0]:
                each[0] = _seconds_of_labels(study, scene, subject.views)
            if missing[1]:
                each[1] = _seconds_of_descriptors(study, smaller(scene, study.descriptors.width))
        except UserError as error:
            troubles.append(str(error))
    return LabelBill(
        (len(first), len(then)), len(there), workers, (each[0], each[1]), not any(missing), tuple(troubles)
    )


def _seconds_of_labels(study: LabelStudy, scene: Scene, views: int) -> float:
    """A field's steps, and all views rendered once."""
    set_threads(study.threads)
    task = FitScene(settle(study.fields.chosen(), scene), scene, 0, device_named(DEVICE))
    a_step = seconds_of_steps(task)
    begun = time.perf_counter()
    with torch.no_grad():
        list(task.model.render_in_chunks(scene.view_rays(0), 8192))
    return study.fields.steps * a_step + views * (time.perf_counter() - begun) + BESIDE


def _seconds_of_descriptors(study: LabelStudy, scene: Scene) -> float:
    """Steps of the first arm, on pairs that mean nothing."""
    arm = next(iter(study.arms.values()))
    how = study.describing(arm)
    pixel = torch.rand(256, 2, generator=_generator(0, 5), dtype=torch.float64) * scene.pictures.size[0]
    first, second = (torch.full((256,), view) for view in scene.split.train[:2])
    pairs = Pairs(first, second, pixel, pixel, torch.ones(256, dtype=torch.float64))
    took = []
    for steps in (PROBE_STEPS, 2 * PROBE_STEPS):  # the difference is without what comes once
        with tempfile.TemporaryDirectory() as out:
            begun = time.perf_counter()
            train_descriptors(
                [Source(scene, pairs)], replace(how, steps=steps), Path(out) / "probe", budget=Budget(steps), seed=0,
                threads=study.threads, device=DEVICE,
            )  # fmt: skip
            took.append(time.perf_counter() - begun)
    return how.steps * max(took[1] - took[0], 0.0) / PROBE_STEPS + BESIDE_DESCRIPTORS
