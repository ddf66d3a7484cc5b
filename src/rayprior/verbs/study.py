"""`study` and `compare`: the bill, the runs, the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from rich.live import Live
from rich.table import Table

from rayprior.errors import UserError
from rayprior.evaluation.evaluate import LpipsChoice
from rayprior.kernels.threads import set_threads
from rayprior.study.compare import compare
from rayprior.study.family import arm_jobs, fit_jobs, is_family_study, read_family_study
from rayprior.study.family_report import write_family_study
from rayprior.study.family_work import family_bill, ready_family, run_family_job
from rayprior.study.jobs import (
    AnyJob,
    J,
    Job,
    Selection,
    check_scenes,
    choice,
    jobs,
    needs_sweep,
    open_folder,
    rows_of,
    run_job,
    run_jobs,
    selected_scenes,
    slug,
    study_bill,
    sweep_jobs,
)
from rayprior.study.labels import (
    LabelStudy,
    absent_objects,
    descriptor_jobs,
    is_label_study,
    label_jobs,
    read_label_study,
    selected_objects,
)
from rayprior.study.labels_report import write_label_study
from rayprior.study.labels_work import label_bill, run_label_job
from rayprior.study.rows import Row, read_rows
from rayprior.study.spec import NO_DEGRADATION, Study, absent_scenes, read_study
from rayprior.study.statistics import value
from rayprior.training.budget import Budget
from rayprior.training.fit import cores
from rayprior.training.run import default_path
from rayprior.verbs.terminal import console, counted, duration, number


def study(
    file: Path,
    *,
    selection: Selection,
    out: Path | None,
    data: Path | None,
    workers: int | None,
    seeds: int | None,
    budget: Budget | None,
    dry_run: bool,
) -> None:
    """The bill, the runs that are not there yet, the report, its path last. Exits with 1 where a run failed."""
    if is_family_study(file):
        family_study(
            file, selection=selection, out=out, data=data, workers=workers, seeds=seeds, budget=budget, dry_run=dry_run
        )
        return
    if is_label_study(file):
        label_study(
            file, selection=selection, out=out, data=data, workers=workers, seeds=seeds, budget=budget, dry_run=dry_run
        )
        return
    plan = read_study(file, data)
    if seeds is not None:
        plan = replace(plan, seeds=_first(seeds))
    if budget is not None:
        plan = replace(plan, steps=budget.steps, seconds=budget.seconds)
    selection = replace(selection, absent=_left_out(plan, selection, data))
    folder, side = out or Path("runs") / f"study-{slug(plan.name)}", _workers(workers, plan.threads)
    swept = sweep_jobs(plan, selection)
    decided = len(rows_of(folder, swept)) == len(swept)
    if decided:
        plan = _with_choice(plan, swept, folder)
    first = swept if not decided and needs_sweep(plan, selection) else ()
    wanted = jobs(plan, selection)
    there = rows_of(folder, (*first, *wanted))
    todo = _not_in(there, (*first, *wanted))
    check_scenes(todo)
    console.print(f"study {plan.name}: {plan.about}".rstrip(": "), style="bold")
    console.print(str(study_bill(todo, there, side)))
    if dry_run:
        return
    open_folder(folder, file, plan)
    if first:
        _run_study(_not_in(there, first), there, folder, side, plan.metrics[0])
        plan = _with_choice(plan, swept, folder)
        wanted = jobs(plan, selection)
        there = rows_of(folder, wanted)
    _run_study(_not_in(there, wanted), there, folder, side, plan.metrics[0])
    from rayprior.study.report import write_study

    belongs = *swept, *jobs(plan, replace(selection, all=True, only=()))
    _report(folder, belongs, lambda rows: write_study(folder, plan, rows, say=console.print))


def family_study(
    file: Path,
    *,
    selection: Selection,
    out: Path | None,
    data: Path | None,
    workers: int | None,
    seeds: int | None,
    budget: Budget | None,
    dry_run: bool,
) -> None:
    """The same of a study of families: arms first, then the fits of single scenes, which may start from them."""
    plan = read_family_study(file, data)
    if seeds is not None:
        fits = plan.fits and replace(plan.fits, seeds=min(plan.fits.seeds, seeds))
        plan = replace(plan, seeds=_first(seeds), fits=fits)
    if budget is not None:
        if budget.steps is None:
            raise UserError("--seconds: arms of a study of families are compared after as many steps; use --steps")
        arms = {name: replace(arm, steps=None) for name, arm in plan.arms.items()}
        plan = replace(plan, steps=budget.steps, arms=arms)
    folder, side = out or Path("runs") / f"study-{slug(plan.name)}", _workers(workers, plan.threads)
    trained, fitted = arm_jobs(plan, selection), fit_jobs(plan, selection)
    there = rows_of(folder, [*trained, *fitted])
    arms_to_do, fits_to_do = _not_in(there, trained), _not_in(there, fitted)
    console.print(f"study {plan.name}: {plan.about}".rstrip(": "), style="bold")
    console.print(str(family_bill(plan, arms_to_do, fits_to_do, there, side)))
    if dry_run:
        return
    open_folder(folder, file, plan)
    with counted("making the family", "scenes") as bar:
        ready_family(plan, folder, side, bar)
    _run_study(arms_to_do, there, folder, side, f"psnr@{plan.shift_views}", run_family_job)
    _run_study(fits_to_do, rows_of(folder, [*trained, *fitted]), folder, side, "psnr", run_family_job)
    everything = replace(selection, all=True, only=())
    belongs = *arm_jobs(plan, everything), *fit_jobs(plan, everything)
    _report(folder, belongs, lambda rows: write_family_study(folder, plan, rows, say=console.print))


def label_study(
    file: Path,
    *,
    selection: Selection,
    out: Path | None,
    data: Path | None,
    workers: int | None,
    seeds: int | None,
    budget: Budget | None,
    dry_run: bool,
) -> None:
    """The same of a study of labels: fields and what sources say of them first, then descriptors."""
    plan = read_label_study(file, data)
    if seeds is not None:
        plan = replace(plan, seeds=_first(seeds))
    if budget is not None:
        if budget.steps is None:
            raise UserError("--seconds: arms of a study of labels are compared after as many steps; use --steps")
        plan = replace(
            plan,
            fields=replace(plan.fields, steps=budget.steps),
            descriptors=replace(plan.descriptors, steps=budget.steps),
        )
    selection = replace(selection, absent=_objects_left_out(plan, selection, data))
    folder, side = out or Path("runs") / f"study-{slug(plan.name)}", _workers(workers, plan.threads)
    first, then = label_jobs(plan, selection), descriptor_jobs(plan, selection)
    there = rows_of(folder, [*first, *then])
    labels_to_do, descriptors_to_do = _not_in(there, first), _not_in(there, then)
    console.print(f"study {plan.name}: {plan.about}".rstrip(": "), style="bold")
    console.print(str(label_bill(plan, labels_to_do, descriptors_to_do, there, side)))
    if dry_run:
        return
    open_folder(folder, file, plan)
    _run_study(labels_to_do, there, folder, side, "error_px", run_label_job)
    _run_study(descriptors_to_do, rows_of(folder, [*first, *then]), folder, side, "error_px", run_label_job)
    everything = replace(selection, all=True, only=())
    belongs = *label_jobs(plan, everything), *descriptor_jobs(plan, everything)
    _report(folder, belongs, lambda rows: write_label_study(folder, plan, rows, say=console.print))


def _objects_left_out(plan: LabelStudy, selection: Selection, data: Path | None) -> tuple[str, ...]:
    """Captures that are not here. With --data that is an error; else they are left out, and this is said."""
    absent = absent_objects(plan)
    missed = [name for name in selected_objects(plan, selection) if name in absent]
    if missed and data is not None:
        where = plan.source_of(missed[0])
        raise UserError(f"{where}: no such folder or file (object '{missed[0]}'); expected it in --data {data}")
    if missed:
        places = ", ".join(f"{name} ({plan.source_of(name)})" for name in missed)
        console.print(f"left out, since they are not here: {places}; name the folder that has them with --data DIR")
    return absent


def _report(folder: Path, belongs: Iterable[AnyJob], write: Callable[[Sequence[Row]], Path]) -> None:
    """Report what there is of these jobs, its path last; exit with 1 where one of them failed."""
    keys = {job.key for job in belongs}
    rows = [row for row in read_rows(folder) if row.key in keys]
    report = write(rows)
    failed = [row for row in rows if not row.done]
    if failed:
        console.print(f"{len(failed)} of {len(rows)} runs failed; the same command tries them again")
    print(report)
    if failed:
        raise SystemExit(1)


def _with_choice(plan: Study, swept: Sequence[Job], folder: Path) -> Study:
    """The study with its sweep decided, which is said; without a sweep, as it is."""
    if not swept or plan.sweep is None:
        return plan
    settings, by = choice(plan, swept, read_rows(folder)), plan.sweep.metric or plan.metrics[0]
    console.print(f"chosen for '{plan.sweep.arm}' by {by} on validation views: {', '.join(settings)}")
    return plan.with_choice(settings)


def _not_in(there: Sequence[Row], wanted: Sequence[J]) -> list[J]:
    keys = {row.key for row in there}
    return [job for job in wanted if job.key not in keys]


def _left_out(plan: Study, selection: Selection, data: Path | None) -> tuple[str, ...]:
    """Scenes that are not here. With --data that is an error; else they are left out, and this is said."""
    absent = absent_scenes(plan)
    wanted = {*selected_scenes(plan, selection), *(plan.sweep.scenes if plan.sweep else ())}
    missed = [name for name in absent if name in wanted]
    if missed and data is not None:
        source = plan.scenes[missed[0]].source
        raise UserError(f"{source}: no such folder or file (scene '{missed[0]}'); expected it in --data {data}")
    if missed:
        places = ", ".join(f"{name} ({plan.scenes[name].source})" for name in missed)
        console.print(f"left out, since they are not here: {places}; name the folder that has them with --data DIR")
    return absent


def _first(seeds: int) -> tuple[int, ...]:
    """So many seeds, from 0."""
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: expected at least 1")
    return tuple(range(seeds))


def _workers(asked: int | None, threads: int) -> int:
    if asked is not None and asked < 1:
        raise UserError(f"--workers {asked}: expected at least 1")
    return max(1, min(cores() // threads, asked or cores()))


def _run_study(
    todo: Sequence[J],
    there: Sequence[Row],
    folder: Path,
    workers: int,
    metric: str,
    do: Callable[[J, Path], Row] = run_job,
) -> None:
    """Run with a table that fills; where the output is no terminal, a line a run."""
    rows, new = list(there), []
    total = len(there) + len(todo)

    def shown_now() -> Table:
        table = Table(title=f"{len(rows)} of {total} runs, {_left(new, len(todo), workers)} left; {metric}")
        arms, scenes = (list(dict.fromkeys(getattr(job, part) for job in todo)) for part in ("arm", "scene"))
        table.add_column("arm")
        for scene in scenes:
            table.add_column(scene, justify="right")
        for arm in arms:
            table.add_row(arm, *(_cell(rows, todo, arm, scene, metric) for scene in scenes))
        return table

    with Live(console=console, refresh_per_second=1) if console.is_terminal else nullcontext() as live:

        def on_row(row: Row) -> None:
            rows.append(row)
            new.append(row)
            if live is not None:
                live.update(shown_now())
                return
            place = row.scene if row.degradation == NO_DEGRADATION else f"{row.scene} {row.degradation}"
            said = f"{metric} {number(value(row, metric))}" if row.done else f"failed: {row.error}"
            left = _left(new, len(todo), workers)
            console.print(f"{len(rows)}/{total}  {place}, {row.arm}, seed {row.seed}: {said} ({left} left)")

        if live is not None:
            live.update(shown_now())
        run_jobs(todo, folder, workers, on_row, do)


def _left(new: Sequence[Row], count: int, workers: int) -> str:
    """What the runs to come will take, by those that this process has seen."""
    return duration(sum(row.wall for row in new) / len(new) * (count - len(new)) / workers) if new else "?"


def _cell(rows: Sequence[Row], todo: Sequence[AnyJob], arm: str, scene: str, metric: str) -> str:
    """'3/5  21.34': runs that have ended, and the mean of the headline metric so far."""
    ended = [row for row in rows if (row.arm, row.scene) == (arm, scene)]
    waiting = {job.key for job in todo if (job.arm, job.scene) == (arm, scene)} - {row.key for row in ended}
    values = [known for row in ended if (known := value(row, metric)) is not None]
    failed = sum(not row.done for row in ended)
    mean = number(sum(values) / len(values)) if values else ""
    return f"{len(ended)}/{len(ended) + len(waiting)}  {f'{failed} failed  ' if failed else ''}{mean}"


def compare_runs(paths: Sequence[Path], out: Path | None, lpips: LpipsChoice, threads: int | None) -> None:
    """Compare finished runs with a bar; print the table, and the report's path last."""
    set_threads(threads or cores())
    folder = out or default_path("compare", Path(paths[0]).name if paths else "")
    with counted("measuring", "runs") as bar:
        report = compare(paths, folder, lpips=lpips, say=console.print, on_progress=bar)
    print(report)
