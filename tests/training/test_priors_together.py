"""Three priors beside the photographs, as they are typed: one rendering a step, and the same bits when resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayprior.methods import recipe_from
from rayprior.rendering.model import Model
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.fit import fit, go_on
from rayprior.training.loop import Progress
from rayprior.training.run import Run

PRIORS = ("entropy:rays=16", "information_gain:rays=16", "depth:at=keypoints,rays=16")
STEPS = 10


class Stopped(Exception):
    """As a kill in the middle of a run would."""


@pytest.fixture(scope="module")
def scene() -> Scene:
    return synthetic_scene("shapes", size=24, views=5, test_views=1, supersample=1)


@pytest.mark.parametrize("backbone", ["grid", "mlp"])
def test_one_rendering_a_step_and_exact_resume(backbone, scene: Scene, tmp_path: Path, monkeypatch):
    calls = []
    render = Model.render

    def counted(self, rays, generator=None):
        calls.append(len(rays))
        return render(self, rays, generator)

    monkeypatch.setattr(Model, "render", counted)
    recipe = recipe_from("nerf", backbone, "small", None, PRIORS)
    whole = fit(recipe, scene, steps=STEPS, out=tmp_path / "whole", threads=1)
    assert calls == [128 + 3 * 16] * (STEPS + 1)  # and one to warm up

    def stop(now: Progress) -> None:
        if now.step == 7:
            raise Stopped

    with pytest.raises(Stopped):
        fit(recipe, scene, steps=STEPS, out=tmp_path / "cut", threads=1, watch=stop)
    cut = go_on(Run.open(tmp_path / "cut"), scene)
    files = [f"checkpoints/step-{STEPS:06d}/model.safetensors"]
    for file in files:
        assert (cut.path / file).read_bytes() == (whole.path / file).read_bytes()
    losses = [[(row["step"], row["losses"], row["rays"]) for row in run.read_log()] for run in (cut, whole)]
    assert losses[0] == losses[1]
    assert set(losses[0][-1][1]) == {"photometric", "entropy", "information_gain", "depth"} | (
        set(recipe.terms) - {"photometric"}
    )
