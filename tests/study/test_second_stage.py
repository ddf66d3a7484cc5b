"""Arms with a second stage: refined, sharpened, followed. One field for all that share it; what is scored, and when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rayprior.errors import UserError
from rayprior.study import jobs as room
from rayprior.study.jobs import Job, Selection, choice, jobs, run_job, run_jobs, study_bill, sweep_jobs
from rayprior.study.rows import Row, append_row, read_rows
from rayprior.study.spec import Study, read_study
from rayprior.study.tables import summarise
from rayprior.training.run import Run

TEXT = """
name = "two"
steps = 6
seeds = 2
control = "plain"
metrics = ["psnr", "swd"]
[scenes.shapes]
path = "synthetic:shapes"
[arms.plain]
recipe = "grid"
size = "small"
[arms.sharp]
recipe = "grid"
size = "small"
sharpen = 0.5
[arms.refined]
recipe = "grid"
size = "small"
refine = {steps = 3, set = ["batch=2", "crop=16", "tile=8", "net.width=4"]}
[arms.shuffled]
recipe = "grid"
size = "small"
refine = {steps = 3, shuffled = true, set = ["batch=2", "crop=16", "tile=8", "net.width=4"]}
[arms.follow]
recipe = "grid"
size = "small"
prior = ["patches:patch=16", "follow:of=patches,weight=0.5"]
follow = {steps = 3, set = ["batch=2", "crop=16", "tile=8", "net.width=4"]}
"""
SWEEP = (
    '[sweep]\narm = "plain"\nmetric = "swd"\nseeds = [1]\nalso = ["sharp"]\n'
    '[sweep.values]\n"terms.distortion.weight" = [0.1, 0.01]\n'
)


@pytest.fixture
def house(quick_house: Path) -> Iterator[Path]:
    room._load.cache_clear()
    yield quick_house
    room._load.cache_clear()


def study_of(folder: Path, text: str = TEXT) -> Study:
    (folder / "two.toml").write_text(text)
    return read_study(folder / "two.toml")


def by_arm(study: Study, seed: int = 0) -> dict[str, Job]:
    return {job.arm: job for job in jobs(study) if job.seed == seed}


# -- which jobs --------------------------------------------------------------------------------------------------------


def test_arms_that_differ_in_their_second_stage_share_a_field(tmp_path: Path):
    found = by_arm(study_of(tmp_path))
    assert len({job.key for job in found.values()}) == 5
    assert {found[arm].run for arm in ("plain", "sharp", "refined", "shuffled")} == {found["plain"].key}
    assert found["follow"].run == found["follow"].key
    other = by_arm(study_of(tmp_path), seed=1)
    assert other["sharp"].run == other["plain"].key != found["plain"].key


def test_keys_know_the_second_stage_and_others_stay(tmp_path: Path):
    found = by_arm(study_of(tmp_path))
    text = TEXT.replace("sharpen = 0.5", "sharpen = 0.6").replace("steps = 3,", "steps = 4,")
    changed = by_arm(study_of(tmp_path, text))
    assert {arm for arm in found if found[arm].key != changed[arm].key} == {"sharp", "refined", "shuffled", "follow"}
    without = study_of(tmp_path, TEXT[: TEXT.index("[arms.sharp]")])
    assert by_arm(without)["plain"].key == found["plain"].key


def test_what_a_sweep_chose_is_not_trained_again(tmp_path: Path):
    study = study_of(tmp_path, TEXT + SWEEP)
    swept = sweep_jobs(study)
    assert {job.seed for job in swept} == {1}
    rows = [
        Row(job.key, "two", job.arm, "shapes", "none", 1, "val", "done", metrics={"psnr": psnr, "swd": swd})
        for job, psnr, swd in zip(swept, (30.0, 29.0), (0.5, 0.4), strict=True)
    ]
    settings = choice(study, swept, rows)
    assert settings == ("terms.distortion.weight=0.01",)  # by swd, of which less is better
    found = by_arm(study.with_choice(settings), seed=1)
    assert found["plain"].run == found["sharp"].run == swept[1].run
    assert found["refined"].run != found["plain"].run  # it is not among `also`
    assert swept[0].key not in {job.run for job in swept}


# -- running -----------------------------------------------------------------------------------------------------------


def test_each_arm_is_a_row_and_the_field_is_trained_once(house: Path):
    found = by_arm(study_of(house))
    rows = {arm: run_job(job, house) for arm, job in found.items()}
    assert all(row.done for row in rows.values()), [row.error for row in rows.values()]
    assert len(list((house / "runs").iterdir())) == 2
    assert {arm for arm, row in rows.items() if row.refining > 0} == {"refined", "shuffled", "follow"}
    psnr = {arm: row.metrics["psnr"] for arm, row in rows.items()}
    assert len({psnr[arm] for arm in ("plain", "sharp", "refined", "shuffled")}) == 4
    assert rows["refined"].protocol["refiner"].startswith("residual refiner, step 3, of 8 training views")
    assert "shuffled pairs" in rows["shuffled"].protocol["refiner"]
    assert rows["sharp"].protocol["sharpened"] == "unsharp mask, amount 0.5, Gaussian of 1 px; clipped"
    assert "refiner" not in rows["plain"].protocol
    for arm in ("refined", "follow"):  # what is there is scored again, to the same numbers
        again = run_job(found[arm], house)
        assert (again.metrics, again.refining) == (rows[arm].metrics, rows[arm].refining)


def test_a_refiner_is_followed_from_half_way_on(house: Path):
    job = by_arm(study_of(house))["follow"]
    row = run_job(job, house)
    assert row.done, row.error
    log = Run.open(house / row.run).read_log()
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    pulled = [line["losses"]["follow"] > 0 for line in log]
    assert pulled[:3] == [False] * 3
    assert pulled[-1]
    assert row.rays == 6 * sum(log[0]["rays"].values())  # as many as of any other arm with patches
    about = json.loads((house / row.run / "followed" / "refiner.json").read_text())
    assert about["source"]["step"] == 3


def test_a_followed_field_goes_on_after_a_stop(house: Path, monkeypatch: pytest.MonkeyPatch):
    job = by_arm(study_of(house))["follow"]
    whole = run_job(job, house / "whole")
    with monkeypatch.context() as stopped:
        stopped.setattr("rayprior.study.second_stage.refine", lambda *a, **k: (_ for _ in ()).throw(UserError("stop")))
        assert run_job(job, house / "cut").error == "stop"
    assert run_job(job, house / "cut").metrics == whole.metrics


def test_jobs_of_one_field_wait_for_each_other(house: Path):
    """With two workers: the field that four arms share is trained by one, and nobody fails."""
    found = by_arm(study_of(house))
    rows: list[Row] = []
    todo = [replace(found[arm], threads=1) for arm in ("plain", "sharp")]
    run_jobs(todo, house, 2, rows.append, _pretended)
    assert [row.arm for row in rows] == ["plain", "sharp"]
    assert read_rows(house) == tuple(rows)


def _pretended(job: Job, folder: Path) -> Row:
    """A job that fails where its field is not trained yet, unless it is the one that trains it."""
    path = folder / "runs" / job.run
    if job.arm != "plain":
        assert (path / "trained").is_file()
    path.mkdir(parents=True, exist_ok=True)
    (path / "trained").write_text("")
    return Row(job.key, job.study, job.arm, job.scene, job.degradation, job.seed, job.views, "done")


def test_the_bill_counts_a_shared_field_once(house: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "seconds_a_step", lambda job: 10.0)
    monkeypatch.setattr(room, "seconds_of_refining", lambda job, how: 7.0)
    todo = jobs(study_of(house))
    bill = study_bill(todo, (), 1)
    assert bill.seconds == 2 * (5 * bill.beside + 2 * 6 * 10 + 3 * 7)
    row = Row(todo[0].key, "two", "plain", "shapes", "none", 0, "test", "done", seconds=6.0, steps=6, wall=8.0,
              run=f"runs/{todo[0].run}")  # fmt: skip
    rest = study_bill(todo[1:5], (row,), 1)
    assert rest.beside == 2.0
    assert rest.seconds == 4 * 2 + 60 + 3 * 7  # only `follow` has a field to train


def test_seconds_of_a_refined_arm_are_all_of_its_training(house: Path):
    study = study_of(house)
    for job in jobs(study):
        seconds = 6.0 if job.arm == "refined" else 0.0
        append_row(house, Row(job.key, "two", job.arm, "shapes", "none", job.seed, "test", "done", seconds=10.0,
                              refining=seconds, metrics={"psnr": 20.0, "swd": 0.1}))  # fmt: skip
    lines = {line.arm: line.seconds for line in summarise(study, read_rows(house)).lines}
    assert (lines["plain"], lines["refined"]) == (10.0, 16.0)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("refine = {steps = 3", "refine = {steps = 0", r"'arms\.refined\.refine\.steps' is 0; expected at least 1"),
        ("sharpen = 0.5", "sharpen = -1.0", r"'arms\.sharp\.sharpen' is -1\.0; expected 0 or more"),
        ("sharpen = 0.5", "sharpen = 0.5\nrefine = {}", "expected 0 where pictures are refined"),
        ("sharpen = 0.5", 'refine = {recipe = "refinr"}', "no refiner named 'refinr'; did you mean 'refiner'"),
        ("sharpen = 0.5", 'refine = {set = ["l2=3"]}', r"arm 'sharp': --set l2=3: unknown key 'l2'"),
        ("sharpen = 0.5", "refine = {step = 3}", r"unknown key 'arms\.sharp\.refine\.step'; did you mean 'steps'"),
        ("sharpen = 0.5", "follow = {steps = 3}", r"'sharp': to follow .* add prior = \[\"follow\"\]"),
        ("sharpen = 0.5", 'prior = ["follow"]', r"two things; add follow = \{steps = 400\}"),
        ("steps = 6", "seconds = 6.0", "'seconds' is 6.0; expected a budget in steps, of which arm 'follow'"),
    ],
)  # fmt: skip
def test_mistakes_are_said_before_anything_is_trained(tmp_path: Path, before: str, after: str, said: str):
    with pytest.raises(UserError, match=said):
        study_of(tmp_path, TEXT.replace(before, after, 1))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("seeds = [1]", "seeds = [5]", r"'sweep\.seeds' is \[5\]; expected some of the study's seeds, 0, 1"),
        ('also = ["sharp"]', 'also = ["sharpp"]', r"'sweep\.also': no arm named 'sharpp'; did you mean 'sharp'"),
        ('metric = "swd"', 'metric = "swdd"', r"'sweep\.metric': no metric named 'swdd'"),
        ('"terms.distortion.weight" = ', '"terms.patches.weight" = ', "arm 'plain"),
    ],
)  # fmt: skip
def test_mistakes_in_a_sweep(tmp_path: Path, before: str, after: str, said: str):
    with pytest.raises(UserError, match=said):
        study_of(tmp_path, TEXT + SWEEP.replace(before, after))


def test_one_step_cannot_be_halved(house: Path):
    row = run_job(by_arm(study_of(house, TEXT.replace("steps = 6", "steps = 1")))["follow"], house)
    assert "an arm that follows its refiner needs one of two steps or more" in row.error


def test_only_arms_of_a_selection(tmp_path: Path):
    found = jobs(study_of(tmp_path), Selection(only=("refined",)))
    assert {job.run for job in found} == {job.run for job in jobs(study_of(tmp_path)) if job.arm == "plain"}
