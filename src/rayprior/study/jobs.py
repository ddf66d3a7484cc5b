"""Jobs: a study taken apart into trainings, run side by side in processes that stay, resumable after a kill."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from itertools import product
from json import dumps, loads
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol, TypeVar

import torch

from rayprior.errors import UserError, did_you_mean
from rayprior.evaluation.evaluate import ALL_MEASURES, evaluate, strict
from rayprior.evaluation.transients import transient_scores
from rayprior.fields.grid import Grid
from rayprior.files import remove, write_json, write_text
from rayprior.kernels.threads import set_threads
from rayprior.plain import to_plain
from rayprior.rendering.model import Model
from rayprior.scenes.degrade import covered, degradation_of
from rayprior.scenes.family import Family
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Scene
from rayprior.study.previews import write_preview
from rayprior.study.rows import DIRECTION, Row, append_row, read_rows
from rayprior.study.second_stage import DEVICE, REFINERS, fit_codes, followed_run, probed, shown
from rayprior.study.spec import NO_DEGRADATION, ArmSpec, Refine, Study
from rayprior.study.statistics import value
from rayprior.training.bill import bill
from rayprior.training.budget import Budget
from rayprior.training.fit import cores, device_named, fit, go_on
from rayprior.training.loop import Task
from rayprior.training.recipe import Recipe
from rayprior.training.recipe_json import read_json, recipe_hash
from rayprior.training.refining import KINDS as REFINER_KINDS
from rayprior.training.refining import Pairs, TrainRefiner, settled
from rayprior.training.run import Run, is_run
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene, scene_for

COPY, RUNS, PREVIEWS = "study.toml", "runs", "previews"
CURVE_VIEWS = 4  # on how many views a test curve is scored
KEPT_SCENES = 4  # opened scenes that a worker keeps
FIRST_GUESS = 10.0  # seconds of a job beside its training, until the first row tells
PROBE_STEPS = 4
ORPHAN_SECONDS = 30.0  # in which a worker without its parent must have saved


class AnyJob(Protocol):
    """All that running jobs side by side asks of one, and showing how it goes."""

    @property
    def key(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def scene(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def threads(self) -> int: ...


J = TypeVar("J", bound=AnyJob)  # a kind of job
_STOPS: list[Event] = []  # of this process, where it is a worker


@dataclass(frozen=True)
class Job:
    """One training and its scores. What decides them is in the key, so that a changed study runs what changed."""

    key: str
    study: str
    arm: str
    spec: ArmSpec
    scene: str
    source: str
    options: Mapping[str, Any]
    degradation: str
    seed: int
    budget: Budget
    threads: int
    views: Literal["test", "val"] = "test"
    snapshots: int = 0
    lpips: bool = False
    halves: bool = False
    measures: tuple[str, ...] = ()
    field: str = ""

    @property
    def run(self) -> str:
        """The folder in which its field is trained: its own, or that of an arm that has the same field."""
        return self.field or self.key


@dataclass(frozen=True)
class Selection:
    """Which part of a study runs. all: also what is not decisive; only: these arms; absent: scenes to leave out."""

    all: bool = False
    only: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def jobs(study: Study, selection: Selection = Selection()) -> tuple[Job, ...]:
    """The jobs that test views are scored in, scene by scene and all arms of a seed together.

    UserError where an arm of `selection.only` is none, or nothing is left.
    """
    arms = {name: study.arms[name] for name in selected_arms(study, selection)}
    found = _product(study, arms, selected_scenes(study, selection), tuple(study.degradations), "test")
    if not found:
        raise UserError(f"study '{study.name}': no run is left; choose other arms, or give --data DIR for its scenes")
    return found


def sweep_jobs(study: Study, selection: Selection = Selection()) -> tuple[Job, ...]:
    """The jobs of a sweep's candidates, scored on validation views: the same ones with and without --all and --only, so
    that the choice is one. None without a sweep."""
    if study.sweep is None:
        return ()
    arm = study.arms[study.sweep.arm]
    chosen = study.sweep.scenes or arm.scenes or selected_scenes(study, Selection())
    scenes = [name for name in chosen if name not in selection.absent]
    few = replace(study, seeds=study.sweep.seeds or study.seeds)
    return _product(few, study.candidates, scenes, tuple(study.degradations)[:1], "val")


def needs_sweep(study: Study, selection: Selection) -> bool:
    """Whether a sweep decides settings of an arm that is to run."""
    return any(study.is_swept(name) for name in selected_arms(study, selection))


def selected_arms(study: Study, selection: Selection) -> tuple[str, ...]:
    """Names of the arms to run: the typed ones; else the decisive ones with what they are compared with; else all."""
    for name in selection.only:
        if name not in study.arms:
            raise UserError(f"--only {name}: study '{study.name}' has no such arm{did_you_mean(name, study.arms)}")
    if selection.only:
        return tuple(name for name in study.arms if name in selection.only)
    decisive = {name for name, arm in study.arms.items() if arm.decisive}
    if selection.all or not decisive:
        return tuple(study.arms)
    controls = {study.control_of(name) for name in decisive}
    return tuple(name for name in study.arms if name in decisive | controls)


def selected_scenes(study: Study, selection: Selection) -> list[str]:
    """Names of the scenes to run on: the decisive ones, or all where none is marked or all are asked for."""
    decisive = [name for name, scene in study.scenes.items() if scene.decisive]
    chosen = decisive if decisive and not selection.all else list(study.scenes)
    return [name for name in chosen if name not in selection.absent]


def _product(
    study: Study,
    arms: Mapping[str, ArmSpec],
    scenes: Sequence[str],
    degradations: Sequence[str],
    views: Literal["test", "val"],
) -> tuple[Job, ...]:
    recipes, halves = {name: arm.chosen() for name, arm in arms.items()}, study.halves
    wanted = {*study.metrics, *(metric for claim in study.claims for metric in claim.named)}
    if study.sweep is not None and study.sweep.metric is not None:
        wanted.add(study.sweep.metric)
    measures = tuple(name for name in ALL_MEASURES if name in wanted)
    first: dict[str, str] = {}  # of all arms with the same field
    for name, arm in study.arms.items():
        first.setdefault(_of_field(arm), name)
    found = []
    for scene, degradation, seed, (name, arm) in product(scenes, degradations, study.seeds, arms.items()):
        if arm.scenes and scene not in arm.scenes:
            continue
        recipe = recipes[name]
        own = study.steps is None and study.seconds is None
        job = Job(
            key="",
            study=study.name,
            arm=name,
            spec=arm,
            scene=scene,
            source=study.scenes[scene].source,
            options=_options(study, scene, degradation, seed, arm),
            degradation=degradation,
            seed=seed,
            budget=Budget(recipe.steps) if own else Budget(study.steps, study.seconds),
            threads=study.threads,
            views=views,
            snapshots=study.snapshots,
            lpips="lpips" in study.metrics,
            halves=halves,
            measures=measures,
        )
        path, digest = study.scenes[scene].path, recipe_hash(recipe)
        bare, owner = replace(arm, refine=None, sharpen=0.0), first.get(_of_field(arm), name)
        if study.sweep is not None and views == "val":  # what is chosen need not be trained again
            owner = study.sweep.arm
        field = (
            ""
            if arm == bare and views == "test"
            else _key(replace(job, spec=bare, arm=owner, views="test"), path, digest)
        )
        found.append(replace(job, key=_key(job, path, digest), field=field))
    return tuple(found)


def _of_field(arm: ArmSpec) -> str:
    """What decides an arm's field, but for scene, seed and budget."""
    return dumps(to_plain([recipe_hash(arm.chosen()), arm.degrade, arm.follow]), sort_keys=True)


def _options(study: Study, scene: str, degradation: str, seed: int, arm: ArmSpec) -> dict[str, Any]:
    """How the scene is opened. A degradation without a seed of its own differs from seed to seed, not between arms but
    for what an arm adds to it."""
    options = dict(study.scenes[scene].options)
    amounts = {**study.degradations[degradation], **arm.degrade}
    return {**options, "degrade": {"seed": seed, **amounts}} if amounts else options


def _key(job: Job, path: str, recipe: str) -> str:
    """A folder's name that people can read, and a digest of all that decides the training and its scores."""
    how = [job.seed, job.budget, job.threads, job.views, job.snapshots, job.lpips, *(["halves"] if job.halves else [])]
    how.extend(job.measures)
    for name, refine in (("refine", job.spec.refine), ("follow", job.spec.follow)):
        how.extend([] if refine is None else [name, to_plain(refine.chosen(), REFINER_KINDS)])
    how.extend(["sharpen", job.spec.sharpen] if job.spec.sharpen else [])
    digest = sha256(dumps(to_plain([recipe, path, job.options, how]), sort_keys=True).encode()).hexdigest()[:8]
    parts = [job.scene, *([job.degradation] if job.degradation != NO_DEGRADATION else []), job.arm, f"seed{job.seed}"]
    return "--".join(map(slug, [*parts, digest]))


def slug(name: str) -> str:
    """A name as a folder can have it."""
    return re.sub(r"[^\w.=-]+", "-", name).strip("-.")


# -- one job -----------------------------------------------------------------------------------------------------------


def run_job(job: Job, folder: Path) -> Row:
    """Train, score, keep a preview. Whatever goes wrong in it is a row that says so: a study goes on without it."""
    row = replace(row_begun(job, job.study), degradation=job.degradation, views=job.views, run=f"{RUNS}/{job.run}")
    return ended(row, lambda row: _trained(job, folder, row))


def row_begun(job: AnyJob, study: str) -> Row:
    """The row of a job that came to nothing yet, on undegraded test views."""
    return Row(
        key=job.key, study=study, arm=job.arm, scene=job.scene, degradation="none", seed=job.seed, views="test",
        status="failed",
    )  # fmt: skip


def ended(row: Row, work: Callable[[Row], Row]) -> Row:
    """The row of a piece of work, with its time and memory; what goes wrong in it is said in the row."""
    begun, started = time.perf_counter(), datetime.now().astimezone().isoformat(timespec="seconds")
    row = replace(row, status="failed", started=started)
    _forget_peak()
    try:
        row = work(row)
    except UserError as error:
        row = replace(row, error=str(error))
    except Exception as error:
        row = replace(row, error=f"{type(error).__name__}: {error} (a fault of ours, not yours; please report it)")
    return replace(row, wall=round(time.perf_counter() - begun, 3), peak_mb=round(_peak_mb(), 1))


def _trained(job: Job, folder: Path, row: Row) -> Row:
    """The row of a job that ended well."""
    scene = _opened(job)
    views = _scored_views(job, scene)
    run = _field(job, folder / row.run, scene)
    scene = scene_for(run.recipe, scene)
    pictures = shown(job.spec, run, scene, folder / REFINERS / job.key)
    if job.halves and pictures.model is not run.model:
        fit_codes(run, scene, views)
    lpips = "auto" if job.lpips else "none"
    scores = evaluate(pictures.model, scene, views, lpips=lpips, halves=job.halves, measures=job.measures, keep=1)
    write_preview(folder / PREVIEWS / job.key, scores.kept[0], scores.unit)
    return replace(
        of_run(row, run),
        status="done",
        metrics=strict(scores.mean | _of_codes(run.model, scene, views, job)),
        per_view=tuple(strict(scores.views)),
        protocol=strict(scores.protocol | pictures.protocol),
        refining=round(pictures.refining, 3),
        samples_per_ray=bill(run.recipe, scene, job.budget).evaluations,
        test_curve=_test_curve(run, scene, views, job.halves),
    )


def _field(job: Job, path: Path, scene: Scene) -> Run:
    if job.spec.follow is not None:
        return followed_run(path, job.spec, scene, job.budget, job.seed, job.threads, job.snapshots)
    return trained_run(path, job.spec.chosen(), scene, job.budget, job.seed, job.threads, snapshots=job.snapshots)


def of_run(row: Row, run: Run) -> Row:
    """The row with what the finished run says of its training."""
    log = run.read_log()
    seconds, steps = log[-1]["seconds"], log[-1]["step"]
    photo, rays = rays_trained(log)
    processor = read_json(run.path / "system.json")["machine"]["processor"]
    threads = run.conditions.threads
    return replace(
        row,
        seconds=seconds,
        steps=steps,
        photo_rays=photo,
        rays=rays,
        rays_per_second=round(rays / max(seconds, 1e-9), 1),
        curve=tuple((line["seconds"], line["step"], line["psnr"]) for line in log),
        recipe_hash=run.recipe_hash,
        machine={"processor": processor, "cores": cores(), "threads": threads, "versions": run.versions},
    )


def _of_codes(model: Model, scene: Scene, views: Sequence[int], job: Job) -> dict[str, float | None]:
    """What only arms with codes of photographs can be asked: PSNR with the test views' lights exchanged, where lights
    were changed; and how well the second medium found the occluders that were painted in."""
    if model.codes is None or "degrade" not in job.options:
        return {}
    how, found = degradation_of(job.options["degrade"]), {}
    if model.codes.config.colours and how.colour and len(views) > 1:
        control = evaluate(model, scene, views, lpips="none", halves=job.halves, exchanged=True, measures=(), keep=0)
        found["psnr_exchanged"] = control.mean["psnr"]
    if model.medium is not None and how.occluder:
        found |= transient_scores(model, scene, covered(scene, how))
    return found


def trained_run(
    path: Path, recipe: Recipe, scene: Scene | Family, budget: Budget, seed: int, threads: int, snapshots: int = 0
) -> Run:
    """The finished run: trained anew, or from where an earlier process left it, if that gives the same result."""
    if is_run(path):
        with suppress(UserError):  # killed before it was whole: it is then started anew
            run = Run.open(path, import_priors=True)
            log = run.read_log()
            at = (log[-1]["step"], log[-1]["seconds"]) if log else (0, 0.0)
            if run.latest is not None and (budget.steps or budget.progress(*at) >= 1):
                return go_on(run, scene)
    remove(path)
    return fit(
        recipe, scene, steps=budget.steps, seconds=budget.seconds, out=path, seed=seed, threads=threads, device=DEVICE,
        snapshots=snapshots,
    )  # fmt: skip


def _opened(job: Job) -> Scene:
    return _load(job.source, dumps(job.options, sort_keys=True))


@lru_cache(maxsize=KEPT_SCENES)
def _load(source: str, options: str) -> Scene:
    return load_scene(source, **loads(options))


def _scored_views(job: Job, scene: Scene) -> tuple[int, ...]:
    if job.views == "test":
        return scene.split.test
    if not scene.split.val:
        raise UserError(
            f"{job.source}: lists no validation views, and a sweep chooses by these, never by test views; "
            "name scenes that have some in [sweep] scenes = [...] (embedded scenes do), or add a list of them to "
            "the capture (transforms_val.json, val_filenames)"
        )
    return scene.split.val


def check_scenes(todo: Sequence[Job]) -> None:
    """Open each scene once, in every degradation, before anything is trained. UserError naming the scene."""
    ways = {(job.scene, job.degradation, job.views, tuple(job.spec.degrade.items())): job for job in todo}
    for job in ways.values():
        try:
            _scored_views(job, _opened(job))
        except UserError as error:
            raise UserError(f"study '{job.study}', scene '{job.scene}': {error}") from None


def _test_curve(run: Run, scene: Scene, views: Sequence[int], halves: bool) -> tuple[tuple[float, float | None], ...]:
    """(share of the steps, PSNR on a few of the views) at each snapshot."""
    some = views[:: max(1, len(views) // CURVE_VIEWS)][:CURVE_VIEWS]
    curve = []
    for step in run.snapshots:
        scores = evaluate(run.snapshot(step), scene, some, lpips="none", halves=halves, measures=(), keep=0)
        curve.append((step / max(run.latest or 0, 1), scores.mean["psnr"]))
    return tuple(strict(curve))


def rays_trained(log: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Photographed rays and all rays that were trained; between two lines of the log as many as the later one says."""
    photo = total = before = 0
    for line in log:
        photo += line["rays"]["photo"] * (line["step"] - before)
        total += sum(line["rays"].values()) * (line["step"] - before)
        before = line["step"]
    return photo, total


def _forget_peak() -> None:
    """Start the process's peak of memory anew, where the system can: a worker has many jobs."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    """The process's peak of memory, 10^6 bytes; 0 where the system does not say."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 / 1e6 if found else 0.0


# -- all jobs ----------------------------------------------------------------------------------------------------------


def run_jobs(
    todo: Sequence[J],
    folder: Path,
    workers: int,
    on_row: Callable[[Row], None] = lambda row: None,
    do: Callable[[J, Path], Row] = run_job,
) -> None:
    """Run jobs in `workers` processes that stay, and append each one's row as it ends. `do` is a module's function.
    Jobs with one field wait for each other: the first trains it.

    KeyboardInterrupt after an interrupt: what trains is saved, what has ended is kept. UserError where a worker was
    killed, by the system for want of memory in most cases.
    """
    if not todo:
        return
    context = multiprocessing.get_context("spawn")
    stop, ended = context.Event(), 0
    with _threads_of_children(todo[0].threads):
        pool = ProcessPoolExecutor(workers, context, _start_worker, (stop, todo[0].threads))
        try:
            waiting: dict[str, list[J]] = {}
            for job in todo:
                waiting.setdefault(getattr(job, "run", job.key), []).append(job)
            running = {pool.submit(_work, do, same.pop(0), folder): same for same in waiting.values()}
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    same, row = running.pop(future), future.result()
                    if same:
                        running[pool.submit(_work, do, same.pop(0), folder)] = same
                    append_row(folder, row)
                    on_row(row)
                    ended += 1
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"with {ended} of {len(todo)} runs done; the same command goes on with the others ({folder})"
            ) from None
        except BrokenProcessPool:
            raise UserError(
                f"{folder}: a worker died, mostly for want of memory, after {ended} of {len(todo)} runs. They stay; "
                f"give the same command again, with fewer --workers than {workers}"
            ) from None
        finally:
            if ended < len(todo):
                stop.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def _threads_of_children(count: int) -> Iterator[None]:
    """OpenMP reads its number of threads once, when a new process first loads it."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _start_worker(stop: Event, count: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and tells
    set_threads(count)
    _STOPS.append(stop)
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()


def _work(do: Callable[[J, Path], Row], job: J, folder: Path) -> Row:
    """A job in a worker, which may have been handed one job more before it was told to stop."""
    if any(stop.is_set() for stop in _STOPS):
        raise KeyboardInterrupt
    return do(job, folder)


def _end_with_parent(stop: Event) -> None:
    """Once the parent stops or is gone: a training saves and stops by SIGTERM; all else may end where it is."""
    parent = multiprocessing.parent_process()
    while not stop.wait(0.5) and (parent is None or parent.is_alive()):
        pass
    stop.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)


# -- the choice of a sweep ---------------------------------------------------------------------------------------------


def choice(study: Study, swept: Sequence[Job], rows: Sequence[Row]) -> tuple[str, ...]:
    """The settings of the candidate that is best in the sweep's metric: the mean over the sweep's jobs, all scored on
    validation views. A candidate with a failed or missing run is not chosen; UserError where none is whole."""
    assert study.sweep is not None
    metric, by_key = study.sweep.metric or study.metrics[0], {row.key: row for row in rows}
    means = {}
    for settings, name in zip(study.sweep.settings(), study.candidates):
        found = [by_key.get(job.key) for job in swept if job.arm == name]
        values = [None if row is None else value(row, metric) for row in found]
        known = [number for number in values if number is not None]
        if known and len(known) == len(values):
            means[settings] = DIRECTION[metric] * fmean(known)
    if not means:
        raise UserError(
            f"study '{study.name}': no candidate of the sweep of '{study.sweep.arm}' has {metric} on all its "
            "validation views, so nothing can be chosen; see the errors above, or name another metric first"
        )
    return max(means, key=lambda settings: means[settings])


# -- the bill ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyBill:
    """What a study will take. seconds: predicted wall time; beside: seconds of a job beside its training.

    troubles: arms that could not take a step.
    """

    runs: int
    there: int
    workers: int
    seconds: float
    beside: float
    measured: bool
    troubles: tuple[str, ...] = ()

    def __str__(self) -> str:
        there = f", {self.there} more are there already" if self.there else ""
        if not self.runs:
            return f"runs: 0{there}"
        how = "measured" if self.measured else "a guess until the first run ends"
        side = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        trouble = "".join(f"\nwill fail: {trouble}" for trouble in self.troubles)
        return (
            f"runs: {self.runs}{there}\n"
            f"time: about {max(1, round(self.seconds / 60))} min with {side}"
            f" (training, and {self.beside:.0f} s a run to load and measure, {how}){trouble}"
        )


def study_bill(todo: Sequence[Job], there: Sequence[Row], workers: int) -> StudyBill:
    """The runs and the predicted time. Budgets in steps need a speed: that of rows, else of a few steps taken now, one
    probe an arm."""
    ended = [row for row in there if row.done]
    own = [row for row in ended if not row.run or row.run == f"{RUNS}/{row.key}"]  # of others the field was there
    alone = [row.wall - row.seconds - row.refining for row in own]
    beside = fmean(max(0.0, each) for each in alone) if alone else FIRST_GUESS
    pace = {row.arm: row.seconds / max(row.steps, 1) for row in ended}
    refining = {row.arm: row.refining for row in ended}
    total, troubles, trained = 0.0, [], {row.run for row in ended}
    for job in todo:
        total += beside
        try:
            if job.arm not in refining:
                refining[job.arm] = sum(
                    seconds_of_refining(job, how) for how in (job.spec.refine, job.spec.follow) if how is not None
                )
            total += refining[job.arm]
            if f"{RUNS}/{job.run}" in trained:  # an arm before it has the same field
                continue
            trained.add(f"{RUNS}/{job.run}")
            if job.budget.seconds is None and job.arm not in pace:
                pace[job.arm] = seconds_a_step(job)
        except UserError as error:  # it will say so in its row; the others go on
            pace[job.arm], refining[job.arm] = 0.0, 0.0
            troubles.append(f"{job.arm} on {job.scene}: {error}")
        total += job.budget.seconds or job.budget.amount * pace[job.arm]
    return StudyBill(len(todo), len(there), workers, total / workers, beside, bool(ended), tuple(troubles))


def seconds_a_step(job: Job) -> float:
    """Measured on a few steps, in this process. UserError where they cannot be taken."""
    scene = _opened(job)
    recipe = settle(probed(job.spec), scene)
    set_threads(job.threads, kernels_only=isinstance(recipe.field, Grid))
    return seconds_of_steps(FitScene(recipe, scene, job.seed, device_named(DEVICE)))


def seconds_of_refining(job: Job, how: Refine) -> float:
    """Of all steps of a refiner, measured on a few. UserError where they cannot be taken."""
    scene = _opened(job)
    refining = settled(how.chosen(), scene)
    set_threads(job.threads)
    photographs = tuple((255 * scene.picture(view)).byte().movedim(2, 0) for view in scene.split.train)
    task = TrainRefiner(refining, Pairs(photographs, photographs), job.seed, device_named(DEVICE))
    return refining.steps * seconds_of_steps(task)


def seconds_of_steps(task: Task) -> float:
    """Of one, measured on a few steps that are taken."""
    begun = 0.0
    for step in range(PROBE_STEPS + 1):
        if step == 1:  # the first one compiles
            begun = time.perf_counter()
        losses, _ = task.losses(step, 0.0)
        torch.stack(list(losses.values())).sum().backward()
        task.step()
    return (time.perf_counter() - begun) / PROBE_STEPS


def rows_of(folder: Path, wanted: Sequence[AnyJob]) -> tuple[Row, ...]:
    """The rows of these jobs that are there and ended well: a failed run is tried again."""
    keys = {job.key for job in wanted}
    return tuple(row for row in read_rows(folder) if row.key in keys and row.done)


def open_folder(folder: Path, file: Path, study: object) -> None:
    """Make a study's folder, or go on in it: study.toml is a copy of the file, study.json what was made of it.

    UserError where the folder holds something else.
    """
    if folder.exists() and not (folder / COPY).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: holds something else than a study; choose another --out, or empty it")
    write_text(folder / COPY, file.read_text(encoding="utf-8"))
    write_json(folder / "study.json", to_plain(study))
