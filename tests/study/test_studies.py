"""The studies of the repository: each reads, says what decides it, and fits its bill; one job of each runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest

from rayprior.errors import UserError
from rayprior.evaluation.appearance import fit_code
from rayprior.scenes.open import load_scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.study.family import is_family_study
from rayprior.study.jobs import Job, Selection, _load, jobs, run_job, selected_arms, sweep_jobs
from rayprior.study.labels import is_label_study
from rayprior.study.spec import Study, absent_scenes, read_study
from rayprior.study.statistics import LEAST_PAIRS
from rayprior.training.budget import Budget

FOLDER = Path(__file__).parents[2] / "studies"
FILES = [p for p in sorted(FOLDER.glob("*.toml")) if not (is_family_study(p) or is_label_study(p))]
NEEDED = {
    "infonerf", "infonerf_mlp", "dsnerf", "depth_strategies", "depth_stress", "depth_sweep", "fewview", "depth",
    "nerfw", "low_quality", "wild", "ganerf",
}  # fmt: skip
STEPS = 0.02  # seconds a step of `grid` at 1024 + 256 rays on one core of a slow laptop
BESIDE = 15.0  # seconds of a run beside its training
SCORED, REFINED = 5.0, 0.15  # of an arm whose field is there; of a refiner's step, eight crops of 64
MOST = 40 * 60.0  # seconds that the decisive part may take on two cores
TABLES = ("object-cost",)  # claim nothing
ANYBODYS = ("blender8", "infonerf_mlp")  # longer: for people who have the data, and a backbone that is slow

pytestmark = pytest.mark.filterwarnings("ignore:an opaque tail")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Embedded scenes with the same cameras and small pictures; codes of held-out views are fitted in two steps."""
    small = cache(lambda name: synthetic_scene(name, size=24, supersample=1))
    monkeypatch.setattr("rayprior.evaluation.evaluate.fit_code", partial(fit_code, steps=2))
    monkeypatch.setattr("rayprior.scenes.open.synthetic_scene", small)
    _load.cache_clear()
    yield
    _load.cache_clear()


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def file(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def study(file: Path, tmp_path: Path) -> Study:
    """As on a machine without any data."""
    return read_study(file, tmp_path)


def test_all_are_there():
    assert NEEDED.issubset(path.stem for path in FILES)


def test_it_says_what_it_decides_how_it_is_run_and_what_it_takes(file: Path, study: Study):
    head = re.match(r"(#.*\n)+", file.read_text())
    assert head is not None
    assert f"rayprior study studies/{file.name}" in head[0]
    assert re.search(r"minutes|hour|the bill", head[0])
    assert ("--data DIR" in head[0]) == bool(absent_scenes(study))
    assert study.name.replace("-", "_") == file.stem
    assert study.threads == 1
    assert all(line.rstrip("\n") == line.rstrip() and len(line) <= 121 for line in file.open())


def test_it_names_what_decides(study: Study):
    decisive = {name for name, arm in study.arms.items() if arm.decisive}
    assert study.control in decisive
    assert len(decisive) > 1
    assert any(scene.decisive for scene in study.scenes.values())
    assert study.claims or study.sweep or study.name in TABLES


def test_decisive_claims_can_be_shown(study: Study):
    """Enough pairs of decisive runs for the rule: five at least."""
    cells: dict[str, set[tuple[str, str, int]]] = {name: set() for name in study.arms}
    for job in jobs(study):
        cells[job.arm].add((job.scene, job.degradation, job.seed))
    pairs = {
        claim.text: [
            (scene, degradation)
            for scene, degradation, _ in cells[claim.better] & cells[claim.than]
            if (not claim.scenes or scene in claim.scenes) and claim.degradation in (None, degradation)
        ]
        for claim in study.claims
    }
    assert study.sweep or study.name in TABLES or any(len(found) >= LEAST_PAIRS for found in pairs.values()), pairs


def test_the_decisive_part_fits_40_minutes(file: Path, study: Study):
    if file.stem in ANYBODYS:
        return
    todo = [*sweep_jobs(study), *jobs(study)]
    fields = {job.run: job.budget for job in todo}  # some are those of several arms
    seconds = sum((budget.seconds or STEPS * (budget.steps or 0)) + BESIDE for budget in fields.values())
    seconds += SCORED * (len(todo) - len(fields))
    seconds += sum(REFINED * how.chosen().steps for job in todo for how in (job.spec.refine, job.spec.follow) if how)
    assert seconds / 2 < MOST


def first_job(study: Study) -> Job | None:
    """Three steps of the first decisive arm that is not the control, on the first scene that is embedded."""
    selection = Selection(absent=absent_scenes(study))
    if len(selection.absent) == len(study.scenes):
        return None
    arm = next(name for name in selected_arms(study, selection) if name != study.control)
    job = next(job for job in jobs(study, selection) if job.arm == arm)
    return replace(job, key=f"{job.key}-brief", budget=Budget(steps=3), snapshots=0)


def test_controls_with_wrong_data_are_paired_with_right_data(tmp_path: Path):
    study = read_study(FOLDER / "dsnerf.toml", tmp_path)
    first = {job.arm: job for job in reversed(jobs(study))}
    right, wrong = first["termination"], first["distances exchanged"]
    assert right.spec.prior == wrong.spec.prior
    assert (right.scene, right.degradation, right.seed) == (wrong.scene, wrong.degradation, wrong.seed)
    assert wrong.options["degrade"] == {**right.options["degrade"], "keypoint_shuffle": "distance"}
    assert right.key != wrong.key


def test_a_mistake_in_what_an_arm_adds_to_a_degradation(tmp_path: Path):
    text = (FOLDER / "dsnerf.toml").read_text().replace("{keypoint_shuffle", "{keypoint_shufle")
    (tmp_path / "dsnerf.toml").write_text(text)
    with pytest.raises(UserError, match=r"arms\.distances exchanged\.degrade.*did you mean 'keypoint_shuffle'"):
        read_study(tmp_path / "dsnerf.toml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("quick")
def test_a_job_of_it_runs(path: Path, tmp_path: Path):
    study = read_study(path, tmp_path)
    job = first_job(study)
    if job is None:
        pytest.skip("no scene of it is embedded")
    row = run_job(job, tmp_path)
    assert row.done, row.error
    assert row.steps == 3
    assert row.metrics["psnr"] is not None


@pytest.mark.usefixtures("quick")
def test_narrow_sets_are_within_30_degrees(tmp_path: Path):
    for path in FILES:
        study = read_study(path, tmp_path)
        for name, spec in study.scenes.items():
            if not name.endswith("-narrow") or name in absent_scenes(study):
                continue
            scene = load_scene(spec.source, **spec.options)
            away = scene.cameras.origins[list(scene.split.train)] - scene.focus
            away = away / away.norm(dim=1, keepdim=True)
            assert len(away) == 4
            assert float((away @ away.T).min()) > 0.866  # cos 30 degrees
