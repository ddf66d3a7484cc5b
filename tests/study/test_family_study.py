"""Studies of families: what the file says, which jobs there are, what rows show, and a tiny one from end to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rayprior import cli
from rayprior.errors import UserError
from rayprior.fields.codes import Posterior
from rayprior.methods import METHODS
from rayprior.rendering.model import Model
from rayprior.scenes.family import Family, open_family
from rayprior.scenes.formats.family import read_index
from rayprior.scenes.synthetic.again import seen_again
from rayprior.scenes.synthetic.making import FamilyPlan, make_family
from rayprior.study import family as spec
from rayprior.study.ascent import ascend, elbo, gaps
from rayprior.study.family import FamilyStudy, arm_jobs, fit_jobs, is_family_study, read_family_study, selected
from rayprior.study.family_claims import (
    FewViews,
    GapClosed,
    Lower,
    SmallerSlope,
    Uncertain,
    Worth,
    judge,
    slopes,
    values,
)
from rayprior.study.family_fits import Fitted, fit_one, recipe_of_one, scene_of, views_for
from rayprior.study.family_work import family_bill, read_pictures, run_family_job, std_of
from rayprior.study.jobs import PREVIEWS, Selection
from rayprior.study.rows import Row, read_rows
from rayprior.training.recipe_json import set_value
from rayprior.training.settle import settle

STUDY = Path(__file__).parents[2] / "studies" / "nerf_vae.toml"
SMALL = [
    "field.width=8", "field.depth=2", "field.octaves=3", "sampler.samples=8", "photo.rays=32",
    "codes.latent=8", "inference.encoder.side=4", "inference.encoder.hidden=16", "inference.rays=8",
]  # fmt: skip
PAINTS = ["field.representation=8", "field.cores=1", "field.hidden=8", "field.kernel=3"]
TEXT = f"""
name = "tiny"
steps = 20
seeds = 2
contexts = [1, 2]
shift_views = 2

[family]
scenes = 8
test = 2
views = 5
size = 16

[shifts.height]
height = [0.4]

[arms.vae]
recipe = "nerf-vae-refined"
set = {SMALL}
decisive = true

[arms.paints]
recipe = "gqn-rays"
set = {PAINTS}
steps = 4

[fits]
of = "vae"
scenes = 1
views = [1, 5]
kinds = ["scratch", "started"]
steps = 4
every = 2

[draws]
samples = 2
scenes = 1
views = [1, 2]

[ascents]
scenes = 1
views = 2
steps = 2
rays = 8
""".replace("'", '"')
CLAIMS = """
[[claims]]
kind = "few_views"
text = "few"
better = "vae"

[[claims]]
kind = "shift"
text = "elsewhere"
better = "vae"
than = "paints"

[[claims]]
kind = "refinement"
text = "refined"
arm = "vae"

[[claims]]
kind = "uncertainty"
text = "unsure"
arm = "vae"

[[claims]]
kind = "worth"
text = "worth"
arm = "vae"

[[claims]]
kind = "lower"
text = "nats"
better = "vae"
than = "paints"
views = 2
"""


def study_of(folder: Path, text: str = TEXT + CLAIMS) -> FamilyStudy:
    (folder / "tiny.toml").write_text(text)
    return read_family_study(folder / "tiny.toml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("made") / "rooms"
    make_family(FamilyPlan("rooms", 8, 5, 16, 0, 2), folder)
    return open_family(folder)


@pytest.fixture(scope="module")
def model(made: Family) -> Model:
    recipe = METHODS["nerf-vae-refined"]
    for setting in SMALL:
        recipe = set_value(recipe, setting)
    settled = settle(recipe, made)
    torch.manual_seed(0)
    parts = settled.space, settled.compositing, settled.codes, settled.inference
    return Model.build(settled.field, settled.sampler, *parts)  # type: ignore[arg-type]


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_repositorys_study_reads_and_its_arms_are_all_made():
    study = read_family_study(STUDY)
    assert is_family_study(STUDY)
    arms = {"nerf-vae", "nerf-vae, depth", "scene-autoencoder", "gqn", "gqn-rays", "nerf-vae-refined"}
    assert arms == set(selected(study, Selection()))
    assert (study.family.size, study.family.scenes - study.family.test, study.family.test) == (32, 4000, 40)
    assert {type(claim) for claim in study.claims} == {FewViews, SmallerSlope, GapClosed, Uncertain, Worth, Lower}
    assert len({std_of(arm.chosen()) for arm in study.arms.values()}) == 1
    head = STUDY.read_text().split("name =")[0]
    assert f"rayprior study studies/{STUDY.name}" in head
    assert "the bill" in head


def test_other_studies_are_not_of_families(tmp_path: Path):
    assert not is_family_study(STUDY.with_name("nerfw.toml"))
    assert not is_family_study(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("size = 16", "size = 4", r"\[family\]: --size 4"),
        ("test = 2\n", "test = 0\n", "family.test at least 1"),
        ("[shifts.height]\nheight", "[shifts.height]\nhight", "no shift named 'hight'; did you mean 'height'"),
        ("height = [0.4]", "height = [0.0]", "other than 0"),
        ("height = [0.4]", "height = [-2.0]", "below the ground"),
        ("height = [0.4]", "height = [0.4]\nyaw = [3.0]", "one of height"),
        ('recipe = "gqn-rays"', 'recipe = "gqn-ray"', r"arm 'paints'.*did you mean 'gqn-rays'"),
        (f'"gqn-rays"\nset = {PAINTS}'.replace("'", '"'), '"grid"', "fits one scene; expected one of families"),
        ("[arms.paints]", "[arms.scratch]", "are kinds of fits"),
        ('of = "vae"', 'of = "vea"', "no arm named 'vea'; did you mean 'vae'"),
        ('of = "vae"', 'of = "paints"', "an arm with a scene function"),
        ("scenes = 1\nviews = [1, 5]", "scenes = 3\nviews = [1, 5]", "'fits.scenes' is 3; expected 1 to 2"),
        ("every = 2", "every = 9", "'fits.every' is 9; expected 1 to 4"),
        ("contexts = [1, 2]", "contexts = [1, 4]", "'contexts'.*numbers from 1 to 3"),
        ("shift_views = 2", "shift_views = 3", "one of the contexts"),
        ("samples = 2", "samples = 1", "at least 2"),
        ('than = "paints"\nviews = 2', 'than = "paints"\nviews = 3', "claims, the 6. views"),
        ('arm = "vae"', 'arm = "paints"', "claims, the 3. arm.*refines"),
        ('kind = "worth"', 'kind = "wort"', "did you mean 'worth'"),
        ("seeds = 2", "seeds = [1, 1]", "'seeds'"),
        ("[draws]", "[drawn]", "unknown key 'drawn'; did you mean 'draws'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, said: str):
    assert old in TEXT + CLAIMS
    with pytest.raises(UserError, match=said):
        study_of(tmp_path, (TEXT + CLAIMS).replace(old, new, 1))


def test_a_family_that_is_there_is_taken_as_it_is(tmp_path: Path, made: Family):
    text = TEXT.replace("scenes = 8\ntest = 2\nviews = 5\nsize = 16", f'path = "{made.path}"')
    study = study_of(tmp_path, text)
    assert (study.family.scenes, study.family.test, study.family.views, study.family.size) == (8, 2, 5, 16)
    with pytest.raises(UserError, match="no family"):
        study_of(tmp_path, text.replace(str(made.path), "nowhere"))


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_jobs_are_arms_times_seeds_and_fits(tmp_path: Path):
    study = study_of(tmp_path)
    assert [(job.arm, job.seed) for job in arm_jobs(study)] == [("vae", 0), ("vae", 1)]
    assert len(arm_jobs(study, Selection(all=True))) == 4
    fits = fit_jobs(study)
    assert {(job.arm, job.number, job.views, job.seed) for job in fits} == {
        (kind, 6, views, 0) for kind in ("scratch", "started") for views in (1, 5)
    }
    assert {job.start for job in fits if job.arm == "started"} == {arm_jobs(study)[0].run}
    assert [job.arm for job in arm_jobs(study, Selection(only=("started",)))] == ["vae", "vae"]
    assert {job.arm for job in fit_jobs(study, Selection(only=("paints",)))} == set()
    with pytest.raises(UserError, match="no such arm; did you mean 'paints'"):
        arm_jobs(study, Selection(only=("pants",)))


def test_what_is_measured_may_change_without_training_anew(tmp_path: Path):
    before, after = arm_jobs(study_of(tmp_path))[0], arm_jobs(replace(study_of(tmp_path), contexts=(1, 2, 3)))[0]
    assert before.run == after.run
    assert before.key != after.key
    assert arm_jobs(replace(study_of(tmp_path), steps=21))[0].run != before.run


# -- the same worlds from elsewhere ------------------------------------------------------------------------------------


def test_unwritten_pictures_are_those_that_would_be_written(made: Family, tmp_path: Path):
    make_family(FamilyPlan("rooms", 8, 5, 16, 0, 2, {"yaw": 20.0}), tmp_path / "yaw")
    there, here = open_family(tmp_path / "yaw"), seen_again(made, {"yaw": 20.0})
    scenes, views = torch.tensor([0, 7]), torch.tensor([4, 1])
    assert (there.pictures(scenes, views) == here.pictures(scenes, views)).all()
    assert torch.equal(there.poses(scenes, views), here.poses(scenes, views))
    assert here.digest == made.digest


def test_more_views_are_more_of_the_same_ring(made: Family):
    more = seen_again(made, {}, 7)
    scenes, views = torch.tensor([6] * 5), torch.arange(5)
    assert (more.pictures(scenes, views) == made.pictures(scenes, views)).all()
    family, shown = views_for(made, 6, 5)
    assert family.views == 7
    assert shown[3:] == [5, 6]
    assert shown[:3] == views_for(made, 6, 3)[1]


def test_captures_cannot_be_photographed_again(made: Family, tmp_path: Path):
    with pytest.raises(UserError, match="cannot be photographed again"):
        seen_again(replace(made, path=tmp_path), {})


def test_exposure_is_the_same_again(tmp_path: Path):
    make_family(FamilyPlan("table-top", 2, 4, 8, 3, 1, {}, 0.3), tmp_path / "f")
    family = open_family(tmp_path / "f")
    assert read_index(tmp_path / "f").exposure == 0.3
    where = torch.tensor([1]), torch.tensor([2])
    assert torch.equal(seen_again(family, {}).pictures(*where), family.pictures(*where))


# -- fits and ascent ---------------------------------------------------------------------------------------------------


def test_a_scene_of_a_family_is_what_it_would_be_opened_as(made: Family):
    mine, theirs = scene_of(made, 6, (3, 1)), made.scene(6, train=(3, 1))
    pixels = torch.tensor([[0.5, 3.5], [15.5, 7.5]])
    a, b = mine.rays(torch.tensor([0, 1]), pixels), theirs.rays(torch.tensor([3, 1]), pixels)
    for part in ("origins", "directions", "near", "far"):
        assert torch.allclose(getattr(a, part), getattr(b, part), atol=1e-6)
    assert torch.equal(mine.pictures[0], theirs.pictures[3][..., :3])
    assert mine.bounds == theirs.bounds


def test_a_fit_of_one_scene_gets_better_and_is_stopped_at_its_best(made: Family):
    recipe = recipe_of_one(METHODS["nerf-vae"], [*SMALL[:5], "optimiser.lr=0.03"])
    assert recipe.episodes is None
    assert recipe.codes.latent == 0
    brief = fit_one(recipe, made, 6, 3, steps=1, every=1, seed=0)
    longer = fit_one(recipe, made, 6, 3, steps=24, every=8, seed=0)
    assert longer["mse"] < 0.8 * brief["mse"]
    assert longer["step"] in (8, 16, 24)
    assert "distance_rmse" in longer


def test_a_fit_that_starts_from_a_family_is_its_unseen_scene(made: Family, model: Model):
    from rayprior.evaluation.family import evaluate_family
    from rayprior.training.tasks import FitScene

    recipe = recipe_of_one(METHODS["nerf-vae"], SMALL[:6], latent=True)
    scene = scene_of(made, 6, (0, 1))
    task = FitScene(settle(recipe, scene), scene, 0, torch.device("cpu"))
    start = model.state_dict()
    task.model.load_state_dict({name: start.get(name, value) for name, value in task.model.state_dict().items()})
    one = evaluate_family(Fitted(task.model), made, [6], (1,), sanity=False).mean["mse@1"]
    unseen = evaluate_family(model, made, [6], (1,)).mean["prior_mean_mse"]
    assert one == pytest.approx(unseen, rel=1e-5)
    assert fit_one(recipe, made, 6, 1, steps=2, every=1, seed=0, start=start)["mse"] > 0


def test_ascent_raises_the_elbo_of_each_scene_by_itself(made: Family, model: Model):
    views = made.shown(torch.tensor([6, 7]), torch.tensor([[0, 1], [2, 3]]))
    with torch.no_grad():
        first = model.infer(views)[0]
    best = ascend(model, views, first, 30, 0.1, 32)
    assert (elbo(model, views, best) > elbo(model, views, first)).all()
    alone = made.shown(torch.tensor([6]), torch.tensor([[0, 1]]))
    mine = Posterior(first.mean[:1], first.log_std[:1])
    assert torch.equal(ascend(model, alone, mine, 0, 0.1, 8).mean, mine.mean)
    found = gaps(model, made, [6, 7], 2, 5, 8)
    assert len(found) == 2
    assert all(gap["elbo_plain"] >= gap["elbo_first"] for gap in found)


# -- claims ------------------------------------------------------------------------------------------------------------


def rows_of(arm: str, entry: Callable[[int, int], list[Mapping[str, Any]]], scenes: int = 6) -> list[Row]:
    """Two seeds, and entries of each scene: entry(scene, seed)."""
    return [
        Row(
            f"{arm}{seed}", "s", arm, "rooms", "none", seed, "test", "done",
            per_view=tuple({"scene": n, **e} for n in range(scenes) for e in entry(n, seed)),
        )
        for seed in (0, 1)
    ]  # fmt: skip


def errors(at: Mapping[int, float], **also: Any) -> Callable[[int, int], list[Mapping[str, Any]]]:
    """The error at each number of views, a little larger for later scenes."""
    return lambda scene, seed: [{"views": n, "mse": mse * (1 + 0.02 * scene), **also} for n, mse in at.items()]


def test_few_views_names_the_crossover():
    rows = rows_of("vae", errors({1: 0.01, 3: 0.008, 8: 0.007}))
    rows += rows_of("scratch", errors({1: 0.03, 3: 0.01, 8: 0.005, 20: 0.001}))
    found = judge(FewViews("t", "vae"), rows)
    assert found.shown
    assert set(found.gains) == {"n = 1", "n = 3"}
    assert "the crossover, from which on the fit is better: n = 8" in found.said.lower()
    never = judge(FewViews("t", "vae"), rows_of("vae", errors({1: 0.01})) + rows_of("scratch", errors({1: 0.03})))
    assert "none up to n = 1" in never.said
    worse = judge(FewViews("t", "vae", at_most=8), rows)
    assert not worse.shown
    assert any("n = 8" in reason for reason in worse.reasons)


def test_seeds_that_the_fits_lack_are_no_pairs():
    rows = rows_of("vae", errors({1: 0.01})) + rows_of("scratch", errors({1: 0.03}))[:1]
    assert judge(FewViews("t", "vae"), rows).gains["n = 1"].pairs == 6


def shifted(here: float, there: Mapping[float, float]) -> Callable[[int, int], list[Mapping[str, Any]]]:
    """Root mean squared errors where cameras stand as in training, and by how far they are shifted."""
    return lambda scene, seed: [
        {"views": 3, "mse": here**2},
        *({"views": 3, "mse": rmse**2, "shift": "yaw", "amount": a} for a, rmse in there.items()),
    ]


def test_the_slope_is_that_of_a_line():
    rows = rows_of("vae", shifted(0.1, {10.0: 0.15, -20.0: 0.2}))
    assert slopes(rows, "vae", "yaw")["0"][0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("ours", "theirs", "shown", "said"),
    [(0.1, 0.1, True, "equal within"), (0.1, 0.12, True, "not equal"), (0.12, 0.1, False, "not equal")],
)
def test_flat_errors_count_where_errors_are_equal(ours: float, theirs: float, shown: bool, said: str):
    rows = rows_of("vae", shifted(ours, {10.0: ours + 0.01, 20.0: ours + 0.02}))
    rows += rows_of("gqn", shifted(theirs, {10.0: theirs + 0.05, 20.0: theirs + 0.1}))
    found = judge(SmallerSlope("t", "vae", "gqn"), rows)
    assert found.shown == shown
    assert said in found.said
    assert found.gains["slope"].mean == pytest.approx(0.08)


def test_refinement_is_a_share_of_the_gap():
    def entry(scene: int, seed: int) -> list[Mapping[str, Any]]:
        first = -100.0 - scene
        elbos = {"first": first, "refined": first + 4, "plain": first + 1 + 0.1 * scene, "best": first + 10}
        return [{"views": 3, **{f"elbo_{name}": value for name, value in elbos.items()}}]

    found = judge(GapClosed("t", "vae", share=0.2), rows_of("vae", entry))
    assert found.shown
    assert "closes 40% of a gap of 10" in found.said
    assert not judge(GapClosed("t", "vae", share=0.5), rows_of("vae", entry)).shown


@pytest.mark.parametrize(("coverage", "shown"), [(0.0, True), (0.2, False)])
def test_uncertainty_wants_all_three(coverage: float, shown: bool):
    def entry(scene: int, seed: int) -> list[Mapping[str, Any]]:
        levels = {f"coverage_{q}": q / 100 - coverage for q in (50, 80, 95)}
        return [
            {"views": n, "deviation": 0.1 / n, "auc_unseen": 0.7 + 0.012 * scene, **levels} for n in (1, 3)
        ]  # fmt: skip

    found = judge(Uncertain("t", "vae"), rows_of("vae", entry))
    assert found.shown == shown
    assert "0.73" in found.said


def test_worth_is_measured_by_the_best_that_needs_no_model():
    sanity = {"nearest_view_mse": 0.03, "prior_mean_mse": 0.02, "mean_picture_mse": 0.04}
    found = judge(Worth("t", "vae"), rows_of("vae", lambda scene, seed: [{"views": 1, "mse": 0.01, **sanity}]))
    assert found.shown
    assert set(found.gains) == {"middle of the prior"}
    assert "50% below" in found.said
    assert "reached" in found.said


def test_lower_and_what_was_not_run():
    rows = rows_of("vae", errors({3: 0.01})) + rows_of("gqn", errors({3: 0.02}))
    assert judge(Lower("t", "vae", "gqn", 3), rows).shown
    assert not judge(Lower("t", "gqn", "vae", 3), rows).shown
    for claim in (
        FewViews("t", "no"), SmallerSlope("t", "no", "gqn"), GapClosed("t", "no"), Uncertain("t", "no"),
        Worth("t", "no"), Lower("t", "no", "gqn", 3),
    ):  # fmt: skip
        found = judge(claim, rows)
        assert not found.shown
        assert "was not run" in found.reasons[0]


def test_too_few_pairs_show_nothing():
    rows = rows_of("vae", errors({3: 0.01}), scenes=2) + rows_of("gqn", errors({3: 0.02}), scenes=2)
    assert "4 pairs, 5 at least" in judge(Lower("t", "vae", "gqn", 3), rows).reasons[0]


# -- a tiny one --------------------------------------------------------------------------------------------------------


def test_a_tiny_study_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """In this process: workers take seconds to start, and tests of other studies have them."""
    monkeypatch.setattr("rayprior.verbs.study.run_jobs", _run_here)
    text = (TEXT + CLAIMS).replace("seeds = 2", "seeds = 1")
    (tmp_path / "tiny.toml").write_text(text)
    out = tmp_path / "out"
    run(["study", str(tmp_path / "tiny.toml"), "--out", str(out), "--dry-run", "--all"])
    assert not out.exists()
    bill = "".join(capsys.readouterr())
    assert "runs: 6" in bill
    assert "each: vae" in bill
    run(["study", str(tmp_path / "tiny.toml"), "--out", str(out), "--all"])
    said = capsys.readouterr().out
    assert said.strip().endswith("report.html")
    rows = read_rows(out)
    assert all(row.done for row in rows), [row.error for row in rows]
    assert {row.arm for row in rows} == {"vae", "paints", "scratch", "started"}
    assert values(rows, "paints", "mse", views=2, shift="height", amount=0.4)
    assert values(rows, "vae", "elbo_best", views=2)
    assert values(rows, "vae", "coverage_80", views=1)
    assert not values(rows, "paints", "coverage_80", views=1)
    assert values(rows, "started", "mse", views=5)
    table = (out / "table.md").read_text()
    for words in ("crossover", "area under ROC", "plain ascent", "nearest view", "From elsewhere"):
        assert words in table, words
    arm = next(row for row in rows if row.arm == "vae")
    pictures = read_pictures(out / PREVIEWS / f"{arm.key}.npz")
    assert {"prior", "truth-0", "2-1", "deviation-1-0", "height=0.4"} <= set(pictures)
    run(["study", str(tmp_path / "tiny.toml"), "--out", str(out), "--all"])  # nothing is left to do
    assert len((out / "rows.jsonl").read_text().splitlines()) == 6


def test_a_job_that_fails_says_why(tmp_path: Path):
    study = study_of(tmp_path)
    row = run_family_job(arm_jobs(study)[0], tmp_path)
    assert not row.done
    assert "no such folder" in row.error
    assert family_bill(study, (), (), (), 2).runs == 0


@pytest.mark.parametrize("words", [["--seconds", "3"], ["--seeds", "0"]])
def test_options_that_cannot_be(tmp_path: Path, words: list[str], capsys: Any):
    (tmp_path / "tiny.toml").write_text(TEXT)
    with pytest.raises(SystemExit) as stop:
        cli.main(["study", str(tmp_path / "tiny.toml"), "--dry-run", *words])
    assert stop.value.code
    assert words[0] in capsys.readouterr().err


def run(words: list[str]) -> None:
    code = 0
    try:
        cli.main(words)
    except SystemExit as stop:
        code = stop.code or 0
    assert code == 0


def _run_here(todo: Any, folder: Path, workers: int, on_row: Any, do: Any) -> None:
    from rayprior.study.rows import append_row

    for job in todo:
        row = do(job, folder)
        append_row(folder, row)
        on_row(row)


def test_names_of_kinds_of_fits_are_the_specs():
    assert set(spec.Fits(of="a").kinds) == set(spec.FIT_KINDS)
