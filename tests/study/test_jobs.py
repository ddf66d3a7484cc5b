"""Jobs of a study: which there are, that each is a row, that a kill costs nothing that had ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rayprior import cli
from rayprior.errors import UserError
from rayprior.study import jobs as room
from rayprior.study.jobs import (
    Job,
    Selection,
    check_scenes,
    choice,
    jobs,
    needs_sweep,
    open_folder,
    rows_of,
    run_job,
    selected_arms,
    study_bill,
    sweep_jobs,
)
from rayprior.study.rows import ROWS, Row, append_row, read_rows
from rayprior.study.spec import Study, read_study
from rayprior.training.budget import Budget
from rayprior.training.fit import fit

TEXT = """
name = "tiny"
steps = 20
seeds = 2
control = "plain"

[scenes.shapes]
path = "synthetic:shapes"
decisive = true
[scenes.checker]
path = "synthetic:checker"

[arms.plain]
recipe = "grid"
size = "small"
set = ["terms.distortion.weight=0"]
[arms.spread]
recipe = "grid"
size = "small"
decisive = true
[arms.wide]
recipe = "grid"
size = "small"
set = ["terms.distortion.weight=1"]
scenes = ["checker"]
"""
SWEEP = '[sweep]\narm = "spread"\nscenes = ["shapes"]\n[sweep.values]\n"terms.distortion.weight" = [0.1, 0.01]\n'
A_ROW = Row("k", "tiny", "plain", "shapes", "none", 0, "test", "done", metrics={"psnr": 20.0, "lpips": None})


def study_of(folder: Path, text: str = TEXT) -> Study:
    (folder / "tiny.toml").write_text(text)
    return read_study(folder / "tiny.toml")


@pytest.fixture
def tiny(quick_house: Path) -> Iterator[Path]:
    """A folder to be in, where embedded scenes are tiny; the scenes that this process keeps are forgotten after."""
    room._load.cache_clear()
    yield quick_house
    room._load.cache_clear()


# -- rows --------------------------------------------------------------------------------------------------------------


def test_rows_come_back(tmp_path: Path):
    row = replace(A_ROW, per_view=({"name": "a", "psnr": 3.5},), curve=((0.5, 3, 12.25), (1.0, 6, None)), rays=7)
    append_row(tmp_path, row)
    append_row(tmp_path, replace(A_ROW, key="other", metrics={"psnr": float("inf")}))
    first, second = read_rows(tmp_path)
    assert first == row
    assert second.metrics == {"psnr": None}  # strict JSON


def test_a_torn_line_is_dropped_and_the_next_row_is_whole(tmp_path: Path):
    append_row(tmp_path, A_ROW)
    with (tmp_path / ROWS).open("a") as file:
        file.write('{"key": "torn", "stu')
    assert read_rows(tmp_path) == (A_ROW,)
    append_row(tmp_path, replace(A_ROW, key="next"))
    assert [row.key for row in read_rows(tmp_path)] == ["k", "next"]


def test_the_latest_row_of_a_job_counts(tmp_path: Path):
    append_row(tmp_path, replace(A_ROW, status="failed", error="no memory"))
    append_row(tmp_path, A_ROW)
    assert read_rows(tmp_path) == (A_ROW,)


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "not valid JSON"), ('{"key": 3}', "'key' is 3"), ('{"kee": 3}', "unknown key 'kee'; did you mean 'key'?")],
)
def test_a_line_that_is_no_row(tmp_path: Path, line: str, said: str):
    append_row(tmp_path, A_ROW)
    with (tmp_path / ROWS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=said) as caught:
        read_rows(tmp_path)
    assert f"{ROWS}, line 2" in str(caught.value)


# -- which jobs --------------------------------------------------------------------------------------------------------


def test_arms_times_scenes_times_seeds(tmp_path: Path):
    study = study_of(tmp_path)
    decisive = jobs(study)
    assert [(job.scene, job.seed, job.arm) for job in decisive] == [
        ("shapes", 0, "plain"), ("shapes", 0, "spread"), ("shapes", 1, "plain"), ("shapes", 1, "spread"),
    ]  # fmt: skip
    everything = jobs(study, Selection(all=True))
    assert len(everything) == len({job.key for job in everything}) == 2 * (2 + 3)
    assert {job.scene for job in everything if job.arm == "wide"} == {"checker"}
    assert decisive[0].budget == Budget(20)
    assert jobs(replace(study, steps=None))[0].budget == Budget(8_000)  # the recipe's own


def test_selections(tmp_path: Path):
    study = study_of(tmp_path)
    assert selected_arms(study, Selection()) == ("plain", "spread")  # the decisive one and its control
    assert selected_arms(study, Selection(only=("wide", "spread"))) == ("spread", "wide")
    with pytest.raises(UserError, match=r"--only wild: study 'tiny' has no such arm; did you mean 'wide'"):
        jobs(study, Selection(only=("wild",)))
    assert {job.scene for job in jobs(study, Selection(all=True, absent=("checker",)))} == {"shapes"}
    with pytest.raises(UserError, match=r"no run is left; .*--data"):
        jobs(study, Selection(absent=("shapes",)))


def test_a_key_is_of_what_decides_the_training(tmp_path: Path):
    """A study's file may grow: what was run stays, what has changed runs again."""
    study = study_of(tmp_path)
    before = {job.key for job in jobs(study)}
    assert {job.key for job in jobs(study_of(tmp_path, TEXT + '[arms.more]\nrecipe = "grid"\n'))} == before
    other = {job.key for job in jobs(study_of(tmp_path, TEXT.replace("weight=0", "weight=0.5")))}
    assert len(other & before) == 2  # of the arm that is the same
    assert not {job.key for job in jobs(replace(study, steps=21))} & before
    assert all(key.replace("-", "").replace("_", "").isalnum() for key in before)


def test_a_degradation_differs_by_seed_and_not_by_arm(tmp_path: Path):
    degradations = "[degradations.dim]\nexposure = 0.1\n[degradations.fixed]\nexposure = 0.1\nseed = 7\n"
    found = jobs(study_of(tmp_path, TEXT + degradations))
    seeds = {(job.degradation, job.seed): job.options["degrade"]["seed"] for job in found}
    assert seeds == {("dim", 0): 0, ("dim", 1): 1, ("fixed", 0): 7, ("fixed", 1): 7}
    assert found[0].options == found[1].options  # two arms of one seed


# -- a sweep -----------------------------------------------------------------------------------------------------------


def test_a_sweep_is_scored_on_validation_views(tmp_path: Path):
    study = study_of(tmp_path, TEXT + SWEEP)
    swept = sweep_jobs(study)
    assert {(job.views, job.scene) for job in swept} == {("val", "shapes")}
    assert len(swept) == 2 * 2
    assert {job.views for job in jobs(study)} == {"test"}
    assert sweep_jobs(study, Selection(all=True)) == swept
    assert needs_sweep(study, Selection())
    assert not needs_sweep(study, Selection(only=("plain",)))


def test_the_best_whole_candidate_is_chosen(tmp_path: Path):
    study = study_of(tmp_path, TEXT + SWEEP)
    swept = sweep_jobs(study)

    def rows(*psnr: float | None) -> list[Row]:
        numbers = zip(swept, psnr)
        return [
            replace(A_ROW, key=j.key, arm=j.arm, views="val", metrics={"psnr": x}, status="done" if x else "failed")
            for j, x in numbers
        ]

    better, worse = ("terms.distortion.weight=0.01",), ("terms.distortion.weight=0.1",)
    assert [job.spec.set for job in swept] == [worse, better, worse, better]
    assert choice(study, swept, rows(20.0, 21.0, 20.0, 21.0)) == better
    assert choice(study, swept, rows(20.0, 50.0, 20.0, None)) == worse  # one of its runs failed
    assert choice(study, swept, rows(20.0, 50.0, 20.0)) == worse  # one is missing
    by_distance = replace(study, metrics=("seconds",))
    timed = [replace(row, seconds=s) for row, s in zip(rows(1.0, 1.0, 1.0, 1.0), (3.0, 2.0, 3.0, 2.0))]
    assert choice(by_distance, swept, timed) == better  # smaller is better
    with pytest.raises(UserError, match=r"no candidate .* has psnr on all its validation views"):
        choice(study, swept, [])


def test_a_scene_without_validation_views_is_answered_before_the_start(tiny: Path):
    text = TEXT.replace('path = "synthetic:shapes"', 'path = "synthetic:shapes"\nsplit = "every-8th"')
    with pytest.raises(UserError, match=r"scene 'shapes': synthetic:shapes: lists no validation views.*add a list"):
        check_scenes(sweep_jobs(study_of(tiny, text + SWEEP)))
    check_scenes(jobs(study_of(tiny, text)))


# -- one job -----------------------------------------------------------------------------------------------------------


def a_job(folder: Path) -> Job:
    return jobs(study_of(folder))[0]


def test_a_job_is_a_row(tiny: Path):
    job = a_job(tiny)
    row = run_job(job, tiny / "s")
    assert (row.status, row.error, row.steps, row.key) == ("done", "", 20, job.key)
    assert row.photo_rays == row.rays == 20 * 128
    assert (row.metrics["psnr"] or 0) > 5
    assert (row.metrics["distance_abs_rel"] or 0) > 0
    assert [view["name"] for view in row.per_view] == ["test-000", "test-001"]
    assert row.protocol["test_views"] == ["test-000", "test-001"]
    assert row.protocol["lpips"] == "null: left out on request"
    assert row.curve[-1][1] == 20
    assert row.peak_mb > 0
    assert row.wall > row.seconds > 0
    assert row.test_curve == ()
    assert set(row.machine) == {"processor", "cores", "threads", "versions"}
    assert {path.name for path in (tiny / "s" / "previews" / job.key).iterdir()} == {
        "rgb.png", "truth.png", "error.png", "distance.npz",
    }  # fmt: skip
    assert (tiny / "s" / row.run / "recipe.json").is_file()
    assert Row.from_json(row.to_json()) == Row.from_json(Row.from_json(row.to_json()).to_json())


def test_a_finished_training_is_only_measured(tiny: Path):
    """A kill after training and before the row: the weights are there."""
    job = a_job(tiny)
    first = run_job(job, tiny)
    at = (tiny / first.run / "latest").stat().st_mtime_ns
    again = run_job(job, tiny)
    assert (tiny / first.run / "latest").stat().st_mtime_ns == at
    assert again.metrics == first.metrics


def test_a_killed_training_goes_on_from_its_checkpoint(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    job = a_job(tiny)
    whole = run_job(job, tiny / "whole")

    def kill(progress: object) -> None:
        if progress.step == 14:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(job.spec.chosen(), room._opened(job), steps=20, out=tiny / "s/runs" / job.key, threads=1, watch=kill)
    anew = []
    monkeypatch.setattr(room, "fit", lambda *a, **k: anew.append(a))
    resumed = run_job(job, tiny / "s")
    assert anew == []
    assert resumed.metrics == whole.metrics
    assert (resumed.steps, resumed.rays) == (20, whole.rays)


def test_a_killed_training_by_seconds_starts_anew(tiny: Path):
    job = replace(a_job(tiny), budget=Budget(seconds=0.3))
    with pytest.raises(KeyboardInterrupt):
        fit(job.spec.chosen(), room._opened(job), seconds=9.0, out=tiny / "runs" / job.key, threads=1, watch=interrupt)
    row = run_job(job, tiny)
    assert row.done, row.error
    assert 0.3 <= row.seconds < 2


def interrupt(progress: object) -> None:
    raise KeyboardInterrupt


def test_validation_views_and_a_test_curve(tiny: Path):
    job = sweep_jobs(study_of(tiny, TEXT + SWEEP))[0]
    row = run_job(replace(job, snapshots=2), tiny)
    assert row.views == "val"
    assert {view["name"][:3] for view in row.per_view} == {"val"}
    assert [share for share, _ in row.test_curve] == [0.25, 1.0]
    assert all((number or 0) > 0 for _, number in row.test_curve)


def test_what_goes_wrong_is_a_row(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    row = run_job(replace(a_job(tiny), source="synthetic:shape"), tiny)
    assert (row.status, row.metrics) == ("failed", {})
    assert row.error == "no synthetic scene named 'shape'; did you mean 'shapes'?"

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(room, "evaluate", broken)
    assert run_job(a_job(tiny), tiny).error.startswith("ZeroDivisionError: by zero (a fault of ours")


# -- the bill and the folder -------------------------------------------------------------------------------------------


def test_the_bill(tiny: Path):
    study = study_of(tiny)
    by_seconds = study_bill(jobs(replace(study, steps=None, seconds=60.0)), (), workers=2)
    assert (by_seconds.runs, by_seconds.seconds) == (4, 4 * (60 + 10) / 2)
    assert "a guess until" in str(by_seconds)
    ended = [replace(A_ROW, arm=arm, seconds=2.0, steps=20, wall=5.0) for arm in ("plain", "spread")]
    by_steps = study_bill(jobs(study), ended, workers=2)
    assert by_steps.seconds == pytest.approx(4 * (20 * 0.1 + 3) / 2)
    assert "2 more are there" in str(by_steps)
    assert study_bill(jobs(study), (), workers=1).seconds > 40  # probed


def test_a_folder_of_something_else_is_refused(tiny: Path):
    study = study_of(tiny)
    (tiny / "mine").mkdir()
    (tiny / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="mine: holds something else than a study"):
        open_folder(tiny / "mine", tiny / "tiny.toml", study)
    open_folder(tiny / "new", tiny / "tiny.toml", replace(study, steps=7))
    assert (tiny / "new" / "study.toml").read_text() == TEXT
    assert json.loads((tiny / "new" / "study.json").read_text())["steps"] == 7


# -- the verb ----------------------------------------------------------------------------------------------------------


def rayprior(*words: str) -> int:
    try:
        cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_bill_alone(tiny: Path, capsys: pytest.CaptureFixture[str]):
    study_of(tiny)
    assert rayprior("study", "tiny.toml", "--seconds", "60", "--workers", "1", "--dry-run") == 0
    assert "runs: 4\ntime: about 5 min with 1 worker" in capsys.readouterr().out
    assert rayprior("study", "tiny.toml", "--seeds", "3", "--seconds", "60", "--workers", "1", "--dry-run") == 0
    assert "runs: 6\n" in capsys.readouterr().out
    assert not (tiny / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workers", "0"), "--workers 0: expected at least 1"),
        (("--seeds", "0"), "--seeds 0: expected at least 1"),
        (("--only", "plan"), "--only plan: study 'tiny' has no such arm; did you mean 'plain'?"),
        (("--steps", "5", "--seconds", "5"), "a budget is in steps or in seconds"),
        (("--out", "my-capture"), "my-capture: holds something else than a study"),
    ],
)
def test_what_is_typed_wrong(tiny: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str):
    study_of(tiny)
    assert rayprior("study", "tiny.toml", *words) == 2
    assert said in capsys.readouterr().err


def test_scenes_that_are_not_here(tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAYPRIOR_DATA", raising=False)
    study_of(tiny, TEXT.replace("synthetic:checker", "checker"))
    words = ("study", "tiny.toml", "--all", "--seconds", "1", "--dry-run")
    assert rayprior(*words) == 0
    said = capsys.readouterr().out
    assert "left out, since they are not here: checker (" in said
    assert "--data DIR" in said
    assert rayprior(*words, "--data", "my-capture") == 2
    assert "my-capture/checker: no such folder or file (scene 'checker')" in capsys.readouterr().err


def test_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A whole study in its own processes; a second time nothing is left to do."""
    monkeypatch.setattr("rayprior.study.report.write_comparison", lambda folder, rows: (None, ""))  # a film takes long
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rayprior.verbs.study.cores", lambda: 2)
    study = study_of(tmp_path, TEXT.replace('"synthetic:shapes"', '"synthetic:shapes"\ndownscale = 4'))
    words = ("study", "tiny.toml", "--out", "s", "--workers", "2")
    assert rayprior(*words) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "s/report.html"
    assert "runs: 4\n" in out
    assert "4/4  shapes, " in out
    rows = read_rows(Path("s"))
    assert {row.key for row in rows} == {job.key for job in jobs(study)}
    assert {row.machine["threads"] for row in rows} == {1}
    before = (tmp_path / "s" / ROWS).read_text()
    assert rows_of(Path("s"), jobs(study)) == rows

    assert rayprior(*words) == 0
    assert "runs: 0, 4 more are there already" in capsys.readouterr().out
    assert (tmp_path / "s" / ROWS).read_text() == before


def test_a_sweep_then_the_arms_and_a_failing_one(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The choice is made before any test view is scored; what fails is named, the rest is there, the status is 1."""

    def here(
        todo: Sequence[Job],
        folder: Path,
        workers: int,
        on_row: Callable[[Row], None],
        do: Callable[[Job, Path], Row],
    ) -> None:
        for job in todo:
            row = do(job, folder)
            append_row(folder, row)
            on_row(row)

    monkeypatch.setattr("rayprior.verbs.study.run_jobs", here)
    monkeypatch.setattr("rayprior.study.report.write_comparison", lambda folder, rows: (None, ""))
    broken = '[arms.broken]\nrecipe = "grid"\nset = ["space.kind=ndc"]\ndecisive = true\n'
    study_of(tiny, TEXT.replace("seeds = 2", "seeds = 1") + broken + SWEEP)
    assert rayprior("study", "tiny.toml", "--out", "s", "--workers", "1") == 1
    out = capsys.readouterr().out
    assert "will fail: broken on shapes: " in out
    assert "1 of 5 runs failed; the same command tries them again" in out
    rows = read_rows(Path("s"))
    assert [row.views for row in rows] == ["val", "val", "test", "test", "test"]
    best = max(rows[:2], key=lambda row: row.metrics["psnr"] or 0)
    setting = best.arm.removeprefix("spread [").removesuffix("]")
    assert f"chosen for 'spread' by psnr on validation views: {setting}" in out
    assert next(row for row in rows if row.arm == "spread").recipe_hash == best.recipe_hash
    assert next(row for row in rows if row.arm == "broken").error.startswith("synthetic:shapes: NDC is for captures")
