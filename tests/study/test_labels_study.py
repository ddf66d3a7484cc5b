"""Studies of labels: what the file says, which jobs there are, what is done to pairs and pictures, and a tiny one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from rayprior import cli
from rayprior.descriptors.pairs import Pairs
from rayprior.descriptors.sources import labels_of
from rayprior.errors import UserError
from rayprior.scenes.scene import Pictures, Scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.study import labels_work as work
from rayprior.study.jobs import Selection
from rayprior.study.labels import (
    LabelStudy,
    absent_objects,
    descriptor_jobs,
    is_label_study,
    label_jobs,
    read_label_study,
    selected_arms,
    selected_objects,
    shiny,
)
from rayprior.study.labels_claims import AtChance, Errors, GapShrinks, Lower, judge
from rayprior.study.rows import append_row, read_rows

STUDY = Path(__file__).parents[2] / "studies" / "nerf_supervision.toml"
TEXT = """
name = "tiny"
seeds = 2

[fields]
recipe = "grid"
set = ["photo.rays=64"]
steps = 4

[labels]
sources = ["draw+cycle", "raw-mean", "stereo"]
cycle_px = 4.0
pixels = 60
pool = 80

[descriptors]
steps = 3
width = 16
pairs = 40
set = ["pictures=1", "matches=8", "net.width=8"]

[objects.still]
path = "synthetic:still-life"
size = 24
views = 8
test_views = 5
twin = "matte"
decisive = true

[objects.matte]
path = "synthetic:shapes"
size = 24
views = 8
test_views = 5

[objects.other]
path = "synthetic:checker"
size = 24

[arms.draw]
labels = "draw"
decisive = true

[arms.wide]
labels = "draw"
set = ["net.dimension=5"]

[arms.shuffled]
labels = "exact"
shuffled = true
objects = ["still"]
decisive = true

[arms."matte field"]
labels = "exact"
twins = true

[[claims]]
kind = "lower"
text = "labels"
on = "labels"
better = "draw+cycle"
than = "raw-mean"
at_most = 0.9

[[claims]]
kind = "gap_shrinks"
text = "gap"
better = "draw"
than = "wide"

[[claims]]
kind = "at_chance"
text = "chance"
arm = "shuffled"
"""


def study_of(folder: Path, text: str = TEXT) -> LabelStudy:
    (folder / "tiny.toml").write_text(text)
    return read_label_study(folder / "tiny.toml")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return synthetic_scene("still-life", size=24, views=8, test_views=5, supersample=1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In this process, with pictures of one ray a pixel."""
    monkeypatch.setattr("rayprior.verbs.study.run_jobs", _run_here)
    monkeypatch.setattr(work, "synthetic_scene", lambda name, **how: synthetic_scene(name, supersample=1, **how))
    monkeypatch.setattr(work, "KEPT", 4)
    work._load.cache_clear()
    yield
    work._load.cache_clear()


def _run_here(todo: Any, folder: Path, workers: int, on_row: Any, do: Any) -> None:
    for job in todo:
        row = do(job, folder)
        append_row(folder, row)
        on_row(row)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_repositorys_study_reads_and_its_decisive_part_can_be_shown():
    study = read_label_study(STUDY)
    assert is_label_study(STUDY)
    assert len(shiny(study)) == 3
    decisive = selected_arms(study, Selection())
    assert {study.arms[name].labels for name in decisive} >= {"draw+cycle", "raw-mean+cycle", "mean+cycle", "stereo"}
    assert len(selected_objects(study, Selection())) == 6
    assert {type(claim) for claim in study.claims} == {Lower, GapShrinks, AtChance}
    assert len(shiny(study)) * len(study.seeds) >= 5
    assert (study.descriptors.width, study.descriptors.steps) == (64, 1_500)
    head = STUDY.read_text().split("name =")[0]
    assert f"rayprior study studies/{STUDY.name}" in head
    assert "--data DIR" in head
    assert all(len(line) <= 120 for line in STUDY.read_text().splitlines())


def test_its_controls_differ_from_their_arms_in_one_thing():
    study = read_label_study(STUDY)
    draw, shuffled, matte = (study.arms[name] for name in ("draw", "shuffled", "matte field"))
    assert replace(shuffled, shuffled=False, objects=()) == draw
    assert replace(matte, twins=False) == draw
    dimensions = {study.describing(arm).net.dimension for arm in study.arms.values()}
    assert dimensions == {3, 16, 64, 128}


def test_other_studies_are_none_of_labels(tmp_path: Path):
    assert not is_label_study(STUDY.with_name("nerfw.toml"))
    assert not is_label_study(STUDY.with_name("nerf_vae.toml"))
    assert not is_label_study(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = 2", "seeds = [1, 1]", "'seeds'"),
        ('name = "tiny"', 'name = "/"', "a name that a folder can have"),
        ('recipe = "grid"', 'recipe = "gird"', r"\[fields\].*did you mean 'grid'"),
        (
            '"raw-mean", "stereo"',
            '"row-mean", "stereo"',
            "no source of labels named 'row-mean'; did you mean 'raw-mean'",
        ),
        ("draw+cycle", "draw+cicle", r"expected draw, or draw\+cycle"),
        ("pixels = 60", "pixels = 0", "'labels.pixels' is 0; expected a positive number"),
        ("cycle_px = 4.0", "cycle_px = 0.0", "'labels.cycle_px'"),
        ("[descriptors]", '[descriptors]\nrecipe = "describe"', "did you mean 'describer'"),
        ("net.dimension=5", "net.dimensions=5", r"arm 'wide'.*did you mean 'dimension'"),
        ("net.dimension=5", "net.dimension=0", "arm 'wide'"),
        ("synthetic:still-life", "synthetic:still-live", "did you mean 'still-life'"),
        ('twin = "matte"', 'twin = "mate"', "no object named 'mate'; did you mean 'matte'"),
        ('twin = "matte"', 'twin = "still"', "another, photographed alike"),
        ('twin = "matte"', 'twin = "other"', "another, photographed alike"),
        ('path = "synthetic:checker"', 'path = "can"', "only embedded scenes are exact"),
        (
            'path = "synthetic:checker"',
            'path = "can"\ntruth = "points"\noptions = {down = 2}',
            "no option named 'down'",
        ),
        (
            'path = "synthetic:checker"',
            'path = "can"\ntruth = "depth"\nsources = ["depth"]',
            "a truth that is not itself",
        ),
        ('path = "synthetic:checker"', 'path = "synthetic:checker"\noptions = {near = 1}', "they are for captures"),
        ("test_views = 5", "test_views = 1", "'objects.still.test_views' is 1; expected at least 2"),
        ("[arms.wide]", "[arms.labels]", "'labels' is stage A"),
        ('objects = ["still"]', 'objects = ["stil"]', "no object named 'stil'; did you mean 'still'"),
        ("twins = true", 'twins = true\nobjects = ["other"]', "a twin for twins"),
        ('than = "wide"', 'than = "wild"', "claims, the 2..*no arm named 'wild'; did you mean 'wide'"),
        ('than = "raw-mean"', 'than = "raw"', "claims, the 1..*no source named 'raw'"),
        ("at_most = 0.9", "at_most = 1.5", "a share of the error"),
        ('kind = "lower"', 'kind = "lowest"', "did you mean 'lower'"),
        ('twin = "matte"\n', "", "some, since no object has a twin"),
        ("[fields]", "[feilds]", "unknown key 'feilds'; did you mean 'fields'"),
        ("seeds = 2", 'seeds = 2\nroot = "x"', "--data DIR"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, said: str):
    assert old in TEXT
    with pytest.raises(UserError, match=said):
        study_of(tmp_path, TEXT.replace(old, new, 1))


def test_captures_that_are_not_here_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAYPRIOR_DATA", raising=False)
    text = TEXT.replace('path = "synthetic:checker"', 'path = "can"\ntruth = "points"')
    study = study_of(tmp_path, text)
    assert absent_objects(study) == ("other",)
    (tmp_path / "can").mkdir()
    assert absent_objects(study) == ()
    assert "other" not in selected_objects(study, Selection(all=True, absent=("other",)))


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_jobs_are_objects_with_their_twins_times_seeds_times_arms(tmp_path: Path):
    study = study_of(tmp_path)
    assert [(job.scene, job.seed) for job in label_jobs(study)] == [
        ("still", 0), ("still", 1), ("matte", 0), ("matte", 1)
    ]  # fmt: skip
    then = descriptor_jobs(study)
    assert {(job.arm, job.scene) for job in then} == {("draw", "still"), ("draw", "matte"), ("shuffled", "still")}
    every = Selection(all=True)
    assert {job.scene for job in label_jobs(study, every)} == {"still", "matte", "other"}
    assert ("matte field", "still") in {(job.arm, job.scene) for job in descriptor_jobs(study, every)}
    assert ("matte field", "matte") not in {(job.arm, job.scene) for job in descriptor_jobs(study, every)}
    assert descriptor_jobs(study, Selection(only=("labels",))) == ()
    with pytest.raises(UserError, match="no such arm; did you mean 'wide'"):
        descriptor_jobs(study, Selection(only=("wde",)))


def test_pools_are_those_of_arms_and_of_what_twins_lend(tmp_path: Path):
    study = study_of(tmp_path)
    assert study.pooled("still") == ("draw", "exact")
    assert study.pooled("matte") == ("draw", "exact")
    assert study.pooled("other") == ("draw",)
    lent = [job for job in descriptor_jobs(study, Selection(all=True)) if job.arm == "matte field"]
    of_twin = {job.seed: job.key for job in label_jobs(study) if job.scene == "matte"}
    assert {job.seed: job.pool for job in lent} == of_twin


def test_what_is_asked_may_change_without_training_anew(tmp_path: Path):
    study = study_of(tmp_path)
    before, after = (label_jobs(s)[0] for s in (study, replace(study, labels=replace(study.labels, pixels=61))))
    assert before.run == after.run
    assert before.key != after.key
    assert label_jobs(replace(study, fields=replace(study.fields, steps=5)))[0].run != before.run


# -- pairs and pictures ------------------------------------------------------------------------------------------------


def test_smaller_pictures_and_their_pairs_show_the_same(scene: Scene):
    small = work.smaller(scene, 12)
    assert small.pictures.size.tolist() == [[12, 12]] * len(scene)
    assert small.cameras.size.tolist() == [[12, 12]] * len(scene)
    assert work.smaller(scene, 24) is scene
    pixel = torch.tensor([[3.0, 5.0], [20.0, 11.0]], dtype=torch.float64)
    view = torch.tensor([0, 1])
    pairs = work.scaled(Pairs(view, view, pixel, pixel, torch.ones(2)), scene, small)
    assert torch.equal(pairs.pixel_s, pixel / 2)
    assert torch.allclose(scene.cameras.directions(view, pixel), small.cameras.directions(view, pixel / 2))
    bright = [s.picture(0).mean() for s in (scene, small)]
    assert float((bright[0] - bright[1]).abs()) < 0.01


def test_what_is_transparent_gives_no_colour(scene: Scene):
    rgba = torch.zeros(4, 4, 4, dtype=torch.uint8)
    rgba[:, 2:] = torch.tensor([200, 100, 50, 255], dtype=torch.uint8)
    rgba[:, :2, :3] = 255  # white, and transparent
    one = replace(scene, pictures=Pictures.of([rgba] * len(scene)))
    found = work.smaller(one, 2).pictures[0]
    assert found[0, 1, :3].tolist() == pytest.approx([200, 100, 50], abs=2)
    assert int(found[0, 0, 3]) < 60


def test_shuffled_targets_stay_in_their_views_and_on_the_object():
    view = torch.arange(60) % 3
    pixel = torch.rand(60, 2, generator=Generator().manual_seed(0), dtype=torch.float64)
    pairs = Pairs(view, (view + 1) % 3, pixel, pixel, torch.ones(60))
    found = work.shuffled(pairs, Generator().manual_seed(1))
    assert torch.equal(found.pixel_s, pixel)
    assert not torch.equal(found.pixel_t, pixel)
    for v in range(3):
        rows = pairs.view_t == v
        assert torch.equal(found.pixel_t[rows].sort(dim=0).values, pixel[rows].sort(dim=0).values)


def test_exact_labels_have_no_error_and_cover_all(scene: Scene, tmp_path: Path):
    subject = study_of(tmp_path).objects["still"]
    truth = work.true_pairs(scene, subject, scene.split.train, 50)
    assert len(truth) == 50
    assert torch.equal(truth.pixel_s, work.true_pairs(scene, subject, scene.split.train, 50).pixel_s)
    found = work.errors_of(labels_of("exact", scene, None), truth, Generator())
    assert found.coverage == 1.0
    assert float(np.abs(found.error).max()) < 1e-6


def test_without_truth_the_way_back_is_measured(scene: Scene, tmp_path: Path):
    subject = replace(study_of(tmp_path).objects["still"], truth="cycle")
    asked = work.true_pairs(scene, subject, scene.split.train, 50)
    assert bool(asked.pixel_t.isnan().all())
    found = work.errors_of(labels_of("exact", scene, None), asked, Generator())
    assert 0.3 < found.coverage < 1.0
    assert float(np.nanmax(found.error)) < 1e-6


def test_sparse_points_are_a_truth(scene: Scene, tmp_path: Path):
    subject = replace(study_of(tmp_path).objects["still"], truth="points")
    truth = work.true_pairs(scene, subject, scene.split.test, 30)
    assert len(truth) == 30
    found = work.errors_of(labels_of("exact", scene, None), truth, Generator())
    assert float(np.nanmedian(found.error)) < 1e-3


def test_sparse_points_are_asked_for_in_few_pairs_of_views(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    subject = replace(study_of(tmp_path).objects["still"], truth="points")

    def asked(count: int) -> tuple[int, int]:
        truth = work.true_pairs(scene, subject, scene.split.train, count)
        return len(truth), len({(int(s), int(t)) for s, t in zip(truth.view_s, truth.view_t, strict=True)})

    every, views = asked(1_000_000)
    monkeypatch.setattr(work, "PAIRS_OF_VIEWS", 2)
    assert asked(2)[1] <= 2 < views
    assert asked(every // 2)[0] == every // 2
    assert asked(1_000_000) == (every, views)


def test_chance_is_a_pixel_of_the_mask(scene: Scene, tmp_path: Path):
    truth = work.true_pairs(scene, study_of(tmp_path).objects["still"], scene.split.test, 200)
    error = work._chance(scene, truth)
    assert 4 < float(error.mean()) < 16  # of an object that fills most of 24 x 24


def test_a_view_is_rendered_once_for_all_sources(scene: Scene):
    calls = []

    class Counted:
        def render_in_chunks(self, rays: Any, chunk: int) -> Iterator[Any]:
            calls.append(len(rays))
            yield from [replace_rgb(len(rays[i : i + chunk])) for i in range(0, len(rays), chunk)]

    def replace_rgb(count: int) -> Any:
        return type("Seen", (), {"rgb": torch.zeros(count, 3)})()

    model = work.Remembered(Counted(), scene)  # type: ignore[arg-type]
    for _ in range(2):
        assert sum(len(part.rgb) for part in model.render_in_chunks(scene.view_rays(0), 100)) == 576
    list(model.render_in_chunks(scene.view_rays(1), 100))
    list(model.render_in_chunks(scene.view_rays(0)[:7], 100))
    assert calls == [576, 576, 7]


def test_pools_and_errors_come_back_as_they_were(tmp_path: Path):
    pool = Pairs(torch.tensor([1]), torch.tensor([2]), torch.rand(1, 2), torch.rand(1, 2), torch.ones(1))
    work.write_pool(tmp_path / "pools" / "a.npz", pool)
    back = work.read_pool(tmp_path / "pools" / "a.npz")
    assert torch.equal(back.pixel_t, pool.pixel_t)
    with pytest.raises(UserError, match="stage A of its object failed"):
        work.read_pool(tmp_path / "pools" / "b.npz")
    work.write_errors(tmp_path, "key", {"raw-mean+cycle": Errors(np.array([1.0, np.nan]), np.ones(2), np.zeros(0))})
    found = work.read_errors(tmp_path, "key")["raw-mean+cycle"]
    assert found.coverage == 0.5
    assert len(found.chance) == 0
    assert work.read_errors(tmp_path, "none") == {}


# -- a tiny one --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_tiny_study_from_end_to_end(tmp_path: Path, capsys: Any):
    text = TEXT.replace("seeds = 2", "seeds = 1").replace(
        '[objects.other]\npath = "synthetic:checker"\nsize = 24\n', ""
    )
    (tmp_path / "tiny.toml").write_text(text)
    out = tmp_path / "out"
    run(["study", str(tmp_path / "tiny.toml"), "--out", str(out), "--dry-run"])
    assert not out.exists()
    bill = "".join(capsys.readouterr())
    assert "runs: 2 of stage A (field and labels), 3 of stage B (descriptors)" in bill
    run(["study", str(tmp_path / "tiny.toml"), "--out", str(out), "--all"])
    said = capsys.readouterr().out
    assert said.strip().endswith("report.html")
    rows = read_rows(out)
    assert all(row.done for row in rows), [row.error for row in rows]
    assert {row.arm for row in rows} == {"labels", "draw", "wide", "shuffled", "matte field"}
    assert {entry["source"] for entry in rows[0].per_view} == {"draw+cycle", "raw-mean", "stereo"}
    table = (out / "table.md").read_text()
    for words in ("Labels: end-point error", "AEPE px", "raw-mean", "chance", "at equal coverage"):
        assert words in table, words
    summary = json.loads((out / "summary.json").read_text())
    assert [found["verdict"] for found in summary["findings"][:2]] == ["not shown", "not shown"]
    assert "share below an error" in (out / "report.html").read_text()
    run(["study", str(tmp_path / "tiny.toml"), "--out", str(out), "--all"])  # nothing is left to do
    assert len((out / "rows.jsonl").read_text().splitlines()) == len(rows)
    study = study_of(tmp_path, text)
    found = work.evidence_of(out, study, rows)
    assert len(found.descriptors["draw"]["still"][0].error) == 40
    assert judge(study.claims[2], found).said.startswith("shuffled is right for")


@pytest.mark.usefixtures("quick")
def test_a_job_that_fails_says_why(tmp_path: Path):
    study = study_of(tmp_path)
    row = work.run_label_job(descriptor_jobs(study)[0], tmp_path)
    assert not row.done
    assert "no such pool" in row.error
    assert str(work.label_bill(study, (), (), (), 2)) == "runs: 0"


@pytest.mark.parametrize("words", [["--seconds", "3"], ["--seeds", "0"]])
def test_options_that_cannot_be(tmp_path: Path, words: list[str], capsys: Any):
    (tmp_path / "tiny.toml").write_text(TEXT)
    with pytest.raises(SystemExit) as stop:
        cli.main(["study", str(tmp_path / "tiny.toml"), "--dry-run", *words])
    assert stop.value.code
    assert words[0] in capsys.readouterr().err


def test_captures_are_asked_for_by_data(tmp_path: Path, capsys: Any):
    text = TEXT.replace('path = "synthetic:checker"', 'path = "can"\ntruth = "points"\ndecisive = true')
    (tmp_path / "tiny.toml").write_text(text)
    with pytest.raises(SystemExit):
        cli.main(["study", str(tmp_path / "tiny.toml"), "--dry-run", "--data", str(tmp_path)])
    assert "object 'other'" in capsys.readouterr().err


def run(words: list[str]) -> None:
    code = 0
    try:
        cli.main(words)
    except SystemExit as stop:
        code = stop.code or 0
    assert code == 0
