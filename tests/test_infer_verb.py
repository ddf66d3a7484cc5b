"""A family at a terminal: `train` and `eval` of one, `infer` and what its result can be used for, and every mistake."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.trained_family import family_folder, family_run, tiny

from rayprior.evaluation.export import read_picture
from rayprior.evaluation.predicted import Rendered
from rayprior.scenes.family import open_family
from rayprior.scenes.open import load_scene
from rayprior.scenes.shown import shown_of
from rayprior.training.one_scene import Inferred, of_one_scene
from rayprior.training.recipe_json import recipe_to_plain
from rayprior.training.run import Run

Cli = Callable[..., tuple[int, str, str]]
ONE = ("--threads", "1")
RUN, ROOMS = "trained", "rooms"


@pytest.fixture
def house(rayprior: Cli) -> Cli:
    """`rayprior(...)` in a folder with a family, `rooms`, and a run of it, `trained`."""
    shutil.copytree(family_folder(), ROOMS)
    shutil.copytree(family_run(), RUN)
    of_run = json.loads(Path(RUN, "scene.json").read_text())
    Path(RUN, "scene.json").write_text(json.dumps(of_run | {"path": str(Path(ROOMS).absolute())}))
    Path("tiny.json").write_text(json.dumps(recipe_to_plain(tiny())))
    return rayprior


def last(result: tuple[int, str, str]) -> str:
    assert result[0] == 0, result[2]
    return result[1].splitlines()[-1]


# -- training one ------------------------------------------------------------------------------------------------------


def test_train_and_eval(house: Cli):
    status, out, err = house("train", "tiny.json", ROOMS, "--out", "r", "--snapshots", "2", *ONE)
    assert (status, err) == (0, "")
    assert "nerf-vae on rooms: 7 training and 3 test scenes, split last 3 of 10, 5 views of each at 16x16" in out
    assert "rays/step: photo 16" in out
    assert "PSNR, dB" in out
    page = Path("r/report.html").read_text()
    for words in ("From so many views", "Held-out scenes", "Deviation", "As it learned", "rooms/7"):
        assert words in page
    path = last(house("eval", "r", *ONE))
    assert path == "r/eval/000004/metrics.json"
    metrics = json.loads(Path(path).read_text())
    assert [row["name"] for row in metrics["scenes"]] == ["rooms/7", "rooms/8", "rooms/9"]
    for key in ("psnr@1", "psnr@3", "distance_abs_rel@2", "nats@1", "bits@3", "kl@1", "active_units@1"):
        assert isinstance(metrics["mean"][key], float)
    assert isinstance(metrics["scenes"][0]["nearest_view_psnr@3"], float)
    assert "psnr@5" not in metrics["mean"]  # five views, of which two are asked for
    assert metrics["protocol"]["views"].startswith("family: last 2 of each")


def test_resume(house: Cli):
    house("train", "tiny.json", ROOMS, "--out", "r", *ONE)
    status, out, err = house("train", "--resume", "r", "--steps", "6")
    assert (status, err) == (0, "")
    assert "resuming r from step 4 of 6 steps" in out
    assert Run.open(Path("r")).latest == 6


@pytest.mark.parametrize(
    ("key", "wrong"), [("digest.near", 0.5), ("views", 9), ("test", "8-9"), ("kind", "table-top"), ("scenes", 12)]
)
def test_another_family_is_refused_by_name(house: Cli, key: str, wrong: object):
    file = Path(RUN, "scene.json")
    scene = json.loads(file.read_text())
    first, _, rest = key.partition(".")
    scene["protocol"][first] = {**scene["protocol"][first], rest: wrong} if rest else wrong
    file.write_text(json.dumps(scene))
    for words in (("train", "--resume", RUN), ("eval", RUN, *ONE)):
        status, _, err = house(*words)
        assert status == 2
        assert f"its {key} is" in err
        assert f"was {json.dumps(wrong)}" in err


# -- one scene of it ---------------------------------------------------------------------------------------------------


def test_what_infer_writes_is_a_run(house: Cli):
    status, out, err = house("infer", RUN, f"{ROOMS}/8", "--views", "0,3", "--samples", "3", "--out", "found", *ONE)
    assert (status, err) == (0, "")
    assert "from 2 views (000, 003) in " in out
    assert last((status, out, err)) == "found"
    run, found = Run.open(Path("found")), Inferred.read(Path("found"))
    assert found.views == ("000", "003")
    assert len(found.mean) == len(found.std) == 8
    assert (run.recipe.episodes, run.recipe.inference, run.latest) == (None, None, 0)
    scene = run.reopen()
    assert (scene.split.train, scene.split.test) == ((0, 3), (1, 2, 4))

    whole = Run.open(Path(RUN)).model
    family = open_family(ROOMS)
    shown, asked = (family.shown(torch.tensor([8]), torch.tensor([views])) for views in ([0, 3], [1]))
    mean = Rendered(whole).predict(shown, asked)
    assert mean.posterior is not None
    torch.testing.assert_close(mean.posterior.mean[0], torch.tensor(found.mean))
    alone = torch.cat([part.rgb for part in run.model.render_in_chunks(scene.view_rays(1))])
    torch.testing.assert_close(alone.view(16, 16, 3).clamp(0, 1), mean.rgb[0, 0], rtol=0, atol=1e-5)

    assert sorted(p.name for p in Path("found/samples").iterdir()) == ["000.png", "001.png", "002.png", "deviation.png"]
    assert read_picture(Path("found/samples/000.png")).shape == (16, 16, 3)
    assert Path("found/inferred.png").is_file()


def test_the_result_is_taken_like_any_run(house: Cli):
    house("infer", RUN, f"{ROOMS}/8", "--views", "1", "--samples", "0", "--out", "found", *ONE)
    assert not Path("found/samples").exists()
    metrics = json.loads(Path(last(house("eval", "found", "--lpips", "none", *ONE))).read_text())
    assert [view["name"] for view in metrics["views"]] == ["000", "002", "003", "004"]
    assert Path(last(house("render", "found", "--frames", "2", *ONE))).is_file()
    assert Path(last(house("export", "found", "poses", *ONE))).is_file()
    assert Path(last(house("export", "found", "depth", "--path", "test", "--frames", "1", *ONE))).is_dir()
    status, _, err = house("train", "--resume", "found")
    assert (status, err) == (0, "")
    assert Run.open(Path("found")).latest == 4


def test_the_same_views_give_the_same_scene(house: Cli):
    """Named either way, in any order; other views another."""
    a, b, c = (
        ("infer", RUN, f"{ROOMS}/8", "--views", "0,3"),
        ("infer", RUN, f"{ROOMS}/8@3,0"),
        ("infer", RUN, f"{ROOMS}/8", "--views", "1"),
    )
    means = []
    for number, words in enumerate((a, b, c)):
        last(house(*words, "--samples", "0", "--out", str(number), *ONE))
        means.append(torch.tensor(Inferred.read(Path(str(number))).mean))
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=1e-5)
    assert not torch.allclose(means[0], means[2])


def test_refinements_are_told(house: Cli):
    shutil.copytree(family_run(refinements=1), "refined")
    for asked, told in (((), 1), (("--refinements", "0"), 0), (("--refinements", "2"), 2)):
        out = house("infer", "refined", f"{ROOMS}/8@0", "--samples", "0", *asked, "--out", f"k{told}", *ONE)
        assert f"{told} refinements" in out[1], out[2]
        assert Inferred.read(Path(f"k{told}")).refinements == told
    assert Inferred.read(Path("k0")).mean != Inferred.read(Path("k1")).mean


def test_larger_pictures_are_made_as_small_as_the_familys():
    """The mean over what each pixel covers, and the same rays: pictures of a flat colour stay, and so do directions."""
    scene = load_scene(f"{family_folder()}/8@0,3")
    same, small = (shown_of(scene, (0, 3), size) for size in ((16, 16), (8, 8)))
    torch.testing.assert_close(same.rgb[0, 0], scene.picture(0))
    family = open_family(family_folder()).shown(torch.tensor([8]), torch.tensor([[0, 3]]))
    for part in ("rgb", "origins", "directions", "poses", "reach", "background"):
        torch.testing.assert_close(getattr(same, part), getattr(family, part), rtol=0, atol=1e-5)
    assert small.rgb.shape == (1, 2, 8, 8, 3)
    torch.testing.assert_close(small.rgb.mean(), same.rgb.mean(), rtol=0, atol=0.02)
    torch.testing.assert_close(
        small.directions[0, 0].mean(dim=(0, 1)), same.directions[0, 0].mean(dim=(0, 1)), rtol=0, atol=0.02
    )


# -- a fit that begins there -------------------------------------------------------------------------------------------


def test_a_fit_begins_at_the_inferred_scene(house: Cli):
    """At its weights, with its views where no scene is named; and it learns."""
    house("infer", RUN, f"{ROOMS}/8", "--views", "0,3", "--samples", "0", "--out", "found", *ONE)
    status, out, err = house("train", "--start-from", "found", "--steps", "3", "--out", "fit", *ONE)
    assert (status, err) == (0, "")
    assert "begins at found, step 0" in out
    fitted, found = Run.open(Path("fit")), Run.open(Path("found"))
    assert fitted.latest == 3
    assert fitted.reopen().split.train == (0, 3)
    a, b = fitted.model.state_dict(), found.model.state_dict()
    assert a.keys() == b.keys()
    assert not all(torch.equal(a[name], b[name]) for name in a)
    assert max(float((a[name] - b[name]).abs().max()) for name in a if a[name].is_floating_point()) < 0.01


def test_a_fit_may_begin_at_a_family_and_have_other_priors(house: Cli):
    words = ("train", "--start-from", RUN, f"{ROOMS}/8@0,1", "--prior", "distortion", "--set", "optimiser.lr=1e-9")
    status, out, err = house(*words, "--steps", "2", "--out", "fit", *ONE)
    assert (status, err) == (0, "")
    assert "distortion" in out
    fitted, family = Run.open(Path("fit")), Run.open(Path(RUN))
    assert set(fitted.recipe.terms) == {"photometric", "distortion"}
    for name, value in fitted.model.field.state_dict().items():
        torch.testing.assert_close(value, family.model.field.state_dict()[name], rtol=0, atol=1e-6)
    assert fitted.model.codes is not None
    assert fitted.model.codes.latent is not None
    assert float(fitted.model.codes.latent.detach().abs().max()) < 1e-6


def test_the_recipe_of_one_scene_is_itself():
    run = Run.open(family_run())
    one = of_one_scene(run)
    assert one.field == run.recipe.field
    assert one.codes.latent == run.recipe.codes.latent
    assert set(one.terms) == {"photometric"}


# -- mistakes ----------------------------------------------------------------------------------------------------------


MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "options of one scene": (
        "train tiny.json rooms --views 1 --near 0.2",
        ("rooms", "--views, --near", "one scene's views", "family make --test"),
    ),
    "a scene to a recipe of many": ("train tiny.json rooms/1", ("one scene of a family", "expected the family's")),
    "a family to a recipe of one": ("train grid rooms", ("a family of 10 scenes", "rooms/0 to rooms/9")),
    "a page of a family": ("train tiny.json rooms --out w --watch", ("--watch", "a family", "rayprior infer")),
    "render of a family": ("render trained", ("holds none of them", "rayprior infer trained")),
    "view of a family": ("view trained", ("holds none of them", "rayprior infer trained")),
    "export of a family": ("export trained poses", ("holds none of them", "rayprior infer trained")),
    "depth maps of a family": ("depth make rooms/1 --from trained --out d", ("holds none of them", "infer")),
    "lpips of a family": ("eval trained --lpips alex", ("--lpips", "of a family")),
    "more views than the scene has": ("infer trained rooms/8 --views 0,1,2,3,4,5", ("view 5", "views 0 to 4")),
    "no view left": ("infer trained rooms/8 --views 0,1,2,3,4", ("no test view of 5",)),
    "a view that does not exist": ("infer trained rooms/8 --views 0,7", ("view 7: no such view", "0 to 4")),
    "a view twice": ("infer trained rooms/8 --views 1,1", ("view 1: named twice",)),
    "a view that is no number": ("infer trained rooms/8 --views left", ("--views left", "have numbers")),
    "views twice": ("infer trained rooms/8@0 --views 1", ("both name the views", "leave one out")),
    "no views": ("infer trained rooms/8", ("which views are shown?", "--views 0,3")),
    "no such scene": ("infer trained rooms/12 --views 1", ("no scene 12", "0 to 9")),
    "target among the context": (
        "infer trained synthetic:shapes --views test-000",
        ("--views test-000", "held out for testing"),
    ),
    "another scale": (
        "infer trained my-capture --views 1,2",
        ("one of its units is", "one of the family's 1;", "inspect"),
    ),
    "another range": ("infer trained synthetic:shapes", ("its near is 1.34", "that of the family 0.23")),
    "negative samples": ("infer trained rooms/8@0 --samples -1", ("--samples -1", "expected 0 or more")),
    "negative refinements": ("infer trained rooms/8@0 --refinements -1", ("--refinements -1", "0 or more")),
    "refinements that were not learned": ("infer trained rooms/8@0 --refinements 2", ("learned no refinement",)),
    "to begin at a run and have a recipe": ("train grid rooms/8 --start-from trained", ("a recipe", "SCENE alone")),
    "to begin at a family": ("train --start-from trained", ("which of its scenes", "Name one")),
    "to begin elsewhere": ("train --start-from trained synthetic:shapes", ("its near is",)),
    "to begin with another field": (
        "train --start-from trained rooms/8@0 --set field.width=8",
        ("of another field", "leave --set"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(house: Cli, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("rayprior.verbs.infer.DEMO_FOLDER", tmp_path / "nowhere")
    command, words = MISTAKES[name]
    status, _, err = house(*command.split())
    assert status == 2, err
    for word in words:
        assert word in err


def test_a_run_of_one_scene_infers_none(house: Cli):
    house("train", "grid", f"{ROOMS}/8@0,1", "--steps", "2", "--out", "one", *ONE)
    status, _, err = house("infer", "one", f"{ROOMS}/8@0")
    assert status == 2
    assert "recipe 'grid' fits one scene and infers none; expected a run of nerf-vae" in err


@pytest.mark.parametrize(
    ("key", "wrong", "words"),
    [
        ("axes", "opengl", "its camera axes are opencv, those of the family are opengl"),
        ("scale", 2.0, "one of its units is 1 working units, one of the family's 2"),
        ("far", 9.0, "its far is 6, that of the family 9"),
        ("size", [24, 16], "is 16x16, and pictures of the family are 24x16, of another shape"),
    ],
)
def test_a_scene_that_is_placed_otherwise_is_refused(house: Cli, key: str, wrong: object, words: str):
    file = Path(RUN, "scene.json")
    scene = json.loads(file.read_text())
    scene["protocol"]["digest"][key] = wrong
    file.write_text(json.dumps(scene))
    status, _, err = house("infer", RUN, f"{ROOMS}/8@0", *ONE)
    assert status == 2
    assert words in err


def test_weights_of_another_scene_function_are_refused(house: Cli):
    file = Path(RUN, "recipe.json")
    recipe = json.loads(file.read_text())
    recipe["field"]["width"] = 24
    file.write_text(json.dumps(recipe))
    status, _, err = house("infer", RUN, f"{ROOMS}/8@0", *ONE)
    assert status == 2
    assert "a checkpoint of another recipe" in err


def test_the_demo_comes_with_the_package(house: Cli):
    """It is of pictures of 32 x 32, and takes others at that size."""
    assert last(house("infer", "demo", f"{ROOMS}/8@0", "--samples", "0", "--out", "found", *ONE)) == "found"


def test_an_installation_without_the_demo(house: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rayprior.verbs.infer.DEMO_FOLDER", Path("nowhere"))
    status, _, err = house("infer", "demo", f"{ROOMS}/8@0", "--out", "found", *ONE)
    assert status == 2
    for word in ("demo", "not in this installation", "rayprior train nerf-vae"):
        assert word in err
