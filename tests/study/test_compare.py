"""`rayprior compare`: finished runs of one scene, grouped by recipe, refused where their numbers can't be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rayprior import cli, methods
from rayprior.errors import UserError
from rayprior.methods import with_size
from rayprior.scenes.open import load_scene
from rayprior.study.compare import compare
from rayprior.study.rows import read_rows
from rayprior.training.fit import fit
from rayprior.training.recipe_json import set_value

STEPS = 10
SMALL = with_size(methods.grid, "small")
OTHER = set_value(SMALL, "terms.distortion.weight=0")


def trained(recipe, out: str, seed: int = 0, steps: int = STEPS, **options) -> Path:
    return fit(recipe, load_scene("synthetic:shapes", **options), steps=steps, out=out, seed=seed, threads=1).path


@pytest.fixture
def quiet(quick_house: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Films of few frames."""
    monkeypatch.setattr("rayprior.study.film.SECONDS", 0.0)
    monkeypatch.setattr("rayprior.study.film.FEWEST_FRAMES", 2)
    return quick_house


def test_two_recipes_with_two_seeds_each(quiet: Path):
    paths = [
        trained(recipe, f"runs/{name}{seed}", seed) for name, recipe in (("a", SMALL), ("b", OTHER)) for seed in (0, 1)
    ]
    said: list[str] = []
    report = compare(paths, Path("out"), lpips="none", say=said.append)
    assert report == Path("out/report.html")
    rows = read_rows(Path("out"))
    assert [(row.arm, row.seed) for row in rows] == [("a0", 0), ("a0", 1), ("b0", 0), ("b0", 1)]
    for row, path in zip(rows, paths):
        metrics = json.loads((path / "eval" / "000010" / "metrics.json").read_text())
        assert row.metrics == metrics["mean"]
        assert len(row.per_view) == 2
        assert row.rays >= row.photo_rays == STEPS * SMALL.photo.rays
        assert (Path("out") / row.run).resolve() == path.resolve()
    page = report.read_text()
    assert "terms.distortion.weight: 0.003 / 0" in page
    assert "a0" in said[0]
    for name in ("comparison.webp", "table.csv", "history.csv", "summary.json"):
        assert (Path("out") / name).is_file()
    assert len(list(Path("out/depth_error_maps").iterdir())) == 4
    assert page.count("data:image/webp") >= 2 + 4 * 2 + 1


def test_metrics_that_are_there_are_taken(quiet: Path):
    paths = [trained(SMALL, "runs/a"), trained(OTHER, "runs/b")]
    compare(paths, Path("out"), lpips="none", say=lambda text: None)
    file = paths[0] / "eval" / "000010" / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["mean"]["psnr"] = 77.0
    file.write_text(json.dumps(metrics))
    compare(paths, Path("again"), lpips="none", say=lambda text: None)
    assert read_rows(Path("again"))[0].metrics["psnr"] == 77.0


def test_the_verb(quiet: Path, capsys: pytest.CaptureFixture[str]):
    for name, recipe in (("a", SMALL), ("b", OTHER)):
        trained(recipe, f"runs/{name}")
    cli.main(["compare", "runs/a", "runs/b", "--out", "out", "--lpips", "none"])
    assert capsys.readouterr().out.splitlines()[-1] == "out/report.html"


def test_what_cannot_be_compared_is_refused(quiet: Path):
    a = trained(SMALL, "runs/a")

    def refused(*others: Path, out: str = "out") -> str:
        with pytest.raises(UserError) as caught:
            compare([a, *others], Path(out), lpips="none", say=lambda text: None)
        return str(caught.value)

    assert "1 run to compare" in refused()
    assert "runs/none: no such folder" in refused(Path("runs/none"))
    message = refused(trained(SMALL, "runs/small", downscale=2))
    assert all(text in message for text in ("runs/a", "runs/small", "resolution", "24x24", "12x12"))
    message = refused(trained(SMALL, "runs/other", fewshot=3, steps=2), Path("runs/a"))
    assert "runs/a and runs/a: the same recipe, budget, views and seed 0" in message
    assert "holds a run" in refused(Path("runs/small"), out="runs/a")
    shutil.copytree("runs/a", "runs/cut")
    text = Path("runs/cut/log.jsonl").read_text().splitlines()
    Path("runs/cut/log.jsonl").write_text("\n".join(text[:3]) + "\n")
    assert "runs/cut: this run is not finished" in refused(Path("runs/cut"))


def test_runs_of_other_test_views_are_refused(quiet: Path):
    a, b = trained(SMALL, "runs/a"), trained(SMALL, "runs/b", seed=1)
    scene = json.loads((b / "scene.json").read_text())
    scene["protocol"]["test"] = scene["protocol"]["test"][:1]
    (b / "scene.json").write_text(json.dumps(scene))
    with pytest.raises(UserError, match=r"runs/a and runs/b: not of the same test views \(2: .*; 1: "):
        compare([a, b], Path("out"), lpips="none", say=lambda text: None)
