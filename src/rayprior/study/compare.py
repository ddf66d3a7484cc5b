"""Compare: finished runs of one scene and the same held-out views, reported as a study is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from rayprior.errors import UserError
from rayprior.evaluation.appearance import PROTOCOL
from rayprior.evaluation.evaluate import LpipsChoice, evaluate, strict
from rayprior.files import write_text
from rayprior.plain import to_plain
from rayprior.study.jobs import rays_trained
from rayprior.study.previews import write_preview
from rayprior.study.report import write_study
from rayprior.study.rows import ROWS, Row
from rayprior.study.spec import NO_DEGRADATION, ArmSpec, SceneSpec, Study
from rayprior.training.recipe_json import read_json, recipe_to_plain
from rayprior.training.run import Run, is_run, load_run
from rayprior.training.tasks import scene_for

METRICS = ("psnr", "ssim", "lpips", "distance_abs_rel", "floater_share")
SAME = {"scene": "scene", "test": "test views", "resolution": "resolution", "masks": "rule for masks"}
DIFFERENCES_SHOWN = 12


def compare(
    paths: Sequence[Path],
    out: Path,
    *,
    lpips: LpipsChoice = "auto",
    say: Callable[[str], None] = print,
    on_progress: Callable[[int, int], None] = lambda done, count: None,
) -> Path:
    """Compare finished runs, the first being the control, and write what `write_study` writes into `out`.

    Runs of one recipe, budget and way of opening the scene that differ in their seeds are one arm. A run without
    metrics of all its test views is measured, and its metrics.json written. Returns the path of report.html.

    Raises:
        UserError: fewer than two runs, one that is not finished, runs of different scenes, test views, resolutions or
            rules for masks (both runs are named), the same training twice, or a folder that is not ours to write to.
    """
    runs = [load_run(path) for path in paths]
    _check(runs, out)
    arms = _arms(runs)
    scene = str(runs[0].opening.protocol["scene"])
    halves = any(run.recipe.codes.colours for run in runs)  # then all are scored so
    rows = []
    for name, members in arms.items():
        for run in members:
            rows.append(_row(run, name, scene, out, lpips, halves))
            on_progress(len(rows), len(runs))
    write_text(out / ROWS, "".join(row.to_json() + "\n" for row in rows))
    return write_study(out, _study(arms, scene, rows), rows, say)


# -- what can be compared ----------------------------------------------------------------------------------------------


def _check(runs: Sequence[Run], out: Path) -> None:
    if len(runs) < 2:
        raise UserError(f"{len(runs)} run to compare; name two at least: rayprior compare RUN RUN")
    if is_run(out) or (out / "study.toml").exists():
        raise UserError(f"{out}: holds a run or a study; choose another --out for the comparison")
    for run in runs:
        log = run.read_log()
        if run.latest is None or not log or run.budget.progress(log[-1]["step"], log[-1]["seconds"]) < 1:
            raise UserError(f"{run.path}: this run is not finished; finish it with: rayprior train --resume {run.path}")
    first = runs[0]
    for other in runs[1:]:
        for key, word in SAME.items():
            ours, theirs = (run.opening.protocol.get(key) for run in (first, other))
            if ours != theirs:
                raise UserError(
                    f"{first.path} and {other.path}: not of the same {word} ({_said(ours)}; {_said(theirs)}); numbers "
                    "of different protocols can't be compared. Train both with one --split, --downscale and --masks"
                )
    known: dict[tuple[str, int], Run] = {}
    for run in runs:
        twin = known.setdefault((_kind(run), run.conditions.seed), run)
        if twin is not run:
            raise UserError(
                f"{twin.path} and {run.path}: the same recipe, budget, views and seed {run.conditions.seed}; "
                "leave one out, or train it with another --seed"
            )


def _said(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"{len(value)}: {', '.join(map(str, value[:4]))}{', ...' if len(value) > 4 else ''}"
    return str(value)


def _kind(run: Run) -> str:
    """What runs that differ only in their seeds share."""
    return repr((run.recipe_hash, str(run.budget), sorted(strict(run.opening.options).items())))


# -- arms --------------------------------------------------------------------------------------------------------------


def _arms(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by arm, as given: named by recipe where that tells them apart, else by their first run's folder."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_kind(run), []).append(run)
    names = [members[0].recipe.name for members in groups.values()]
    folders = [members[0].path.resolve().name for members in groups.values()]
    if len(set(names)) < len(names):
        names = folders if len(set(folders)) == len(folders) else [str(m[0].path) for m in groups.values()]
    return dict(zip(names, groups.values()))


def _study(arms: Mapping[str, Sequence[Run]], scene: str, rows: Sequence[Row]) -> Study:
    """The comparison as a study would say it."""
    first = next(iter(arms.values()))[0]
    budgets = {run.budget for members in arms.values() for run in members}
    budget = budgets.pop() if len(budgets) == 1 else None
    measured = tuple(m for m in METRICS if any(row.metrics.get(m) is not None for row in rows))
    return Study(
        name=f"{' and '.join(arms)} on {scene}" if len(arms) == 2 else f"{len(arms)} recipes on {scene}",
        about=_differences(arms),
        scenes={scene: SceneSpec(first.opening.path, first.opening.path, first.opening.options)},
        arms={name: ArmSpec(recipe=members[0].recipe.name) for name, members in arms.items()},
        steps=budget.steps if budget else None,
        seconds=budget.seconds if budget else None,
        seeds=tuple(sorted({row.seed for row in rows})),
        control=next(iter(arms)),
        metrics=measured or METRICS[:1],
    )


def _differences(arms: Mapping[str, Sequence[Run]]) -> str:
    """In which settings the arms differ, in words."""
    flat = {name: _flat({**recipe_to_plain(m[0].recipe), **_opened(m[0])}) for name, m in arms.items()}
    keys = dict.fromkeys(key for settings in flat.values() for key in settings)
    said = []
    for key in keys:
        values = [_word(settings.get(key, "none")) for settings in flat.values()]
        if key not in ("name", "about") and any(a != b for a, b in pairwise(values)):
            said.append(f"{key}: {' / '.join(values)}")
    more = f"; and {len(said) - DIFFERENCES_SHOWN} more" if len(said) > DIFFERENCES_SHOWN else ""
    return f"What differs ({' / '.join(arms)}): {'; '.join(said[:DIFFERENCES_SHOWN])}{more}." if said else ""


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _opened(run: Run) -> dict[str, Any]:
    return {"scene": strict(run.opening.options), "budget": str(run.budget)}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """{"field": {"octaves": 4}} -> {"field.octaves": 4}."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{path}.{key}" if path else key).items()}


# -- rows --------------------------------------------------------------------------------------------------------------


def _row(run: Run, arm: str, scene: str, out: Path, lpips: LpipsChoice, halves: bool) -> Row:
    """A finished run as a study's row, its preview written."""
    key = f"{arm.replace(os.sep, '-').strip('.-')}-seed-{run.conditions.seed}"
    scores = _scores(run, key, out, lpips, halves)
    log = run.read_log()
    seconds, steps = log[-1]["seconds"], log[-1]["step"]
    photo, rays = rays_trained(log)
    system = run.path / "system.json"
    return Row(
        key=key,
        study="compare",
        arm=arm,
        scene=scene,
        degradation=NO_DEGRADATION,
        seed=run.conditions.seed,
        views="test",
        status="done",
        metrics=scores["mean"],
        per_view=tuple(scores["views"]),
        protocol=scores["protocol"],
        seconds=seconds,
        steps=steps,
        photo_rays=photo,
        rays=rays,
        rays_per_second=round(rays / max(seconds, 1e-9), 1),
        curve=tuple((line["seconds"], line["step"], line["psnr"]) for line in log),
        run=os.path.relpath(run.path, out),
        recipe_hash=run.recipe_hash,
        started=datetime.fromtimestamp(system.stat().st_mtime).astimezone().isoformat(timespec="seconds"),
        machine={
            "processor": read_json(system)["machine"]["processor"],
            "threads": run.conditions.threads,
            "versions": to_plain(run.versions),
        },
    )


def _scores(run: Run, key: str, out: Path, lpips: LpipsChoice, halves: bool) -> Mapping[str, Any]:
    """The run's metrics.json; where it has none of all its test views, they are measured. Writes the preview too."""
    scene = scene_for(run.recipe, run.reopen())
    views = scene.split.test
    path = run.metrics_path
    if halves and not run.recipe.codes.colours:  # its own numbers are of whole views
        path = path.with_name("metrics-halves.json")
    names = [scene.names[view] for view in views]
    found: Any = read_json(path) if path.is_file() else None
    if found is not None and _is_of(found, names, halves):
        scores = evaluate(run.model, scene, views[:1], lpips="none", halves=halves, keep=1)  # for the preview alone
    else:
        scores = evaluate(run.model, scene, views, lpips=lpips, halves=halves, keep=1)
        scores.write(path)
        found = read_json(path)
    write_preview(out / "previews" / key, scores.kept[0], scores.unit)
    return found


def _is_of(found: Any, names: Sequence[str], halves: bool) -> bool:
    """Whether a metrics.json is whole, of exactly these views, and of halves of them or not."""
    if not isinstance(found, dict) or not {"mean", "views", "protocol"} <= set(found):
        return False
    by_halves = found["protocol"].get("appearance") == PROTOCOL
    return by_halves == halves and [view.get("name") for view in found["views"]] == list(names)
