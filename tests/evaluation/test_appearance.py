"""The half-image protocol: codes are fitted to left halves, right halves are scored, and nothing leaks across."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rayprior.evaluation import metrics
from rayprior.evaluation.appearance import fit_code, right_half
from rayprior.evaluation.evaluate import evaluate
from rayprior.fields.codes import Codes
from rayprior.methods import METHODS, with_size
from rayprior.scenes.scene import Pictures, Scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return synthetic_scene("shapes", size=24, views=6, test_views=2, supersample=1)


def trained(scene: Scene, codes: Codes, steps: int = 30):
    recipe = settle(replace(METHODS["grid"], codes=codes), scene)
    task = FitScene(recipe, scene, 0, torch.device("cpu"))
    for step in range(steps):
        losses, _ = task.losses(step, step / steps)
        sum(losses.values(), torch.zeros(())).backward()
        task.step()
    return task.model


def with_right_half_replaced(scene: Scene, view: int) -> Scene:
    pictures = Pictures(scene.pictures.values.clone(), scene.pictures.size)
    half = right_half(scene, view)
    noise = torch.randint(0, 255, pictures[view].shape, generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    pictures[view][half] = noise[half]
    return replace(scene, pictures=pictures)


@pytest.mark.parametrize("codes", [Codes(appearance=3), Codes(affine=True)], ids=["appearance", "affine"])
def test_the_scored_half_does_not_leak_into_the_code(scene, codes):
    """Noise in the right half leaves the fitted code bit-identical (closed forms 7.8)."""
    model, view = trained(scene, codes), scene.split.test[0]
    assert model.codes is not None
    table = model.codes.appearance if codes.appearance else model.codes.affine
    before = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("codes")}
    rows = []
    for given in (scene, with_right_half_replaced(scene, view)):
        fit_code(model, given, view, steps=5)
        rows.append(table[view].clone())
    assert torch.equal(rows[0], rows[1])
    assert rows[0].abs().sum() > 0
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())  # all else is frozen


def test_a_darker_photograph_gets_a_darker_code(scene):
    """A picture at half its brightness: the fit finds the gain, and the right half profits. A training view, since six
    views of 24 pixels say little about any other."""
    view = scene.split.train[0]
    pictures = Pictures(scene.pictures.values.clone(), scene.pictures.size)
    pictures[view][:, :, :3] //= 2
    dark = replace(scene, pictures=pictures)
    model = trained(scene, Codes(affine=True), 150)
    fitted = evaluate(model, dark, [view], lpips="none")
    assert "right half" in fitted.protocol["appearance"]
    plain = evaluate(trained(scene, Codes(), 150), dark, [view], lpips="none", halves=True)
    assert fitted.mean["psnr"] is not None
    assert plain.mean["psnr"] is not None
    assert fitted.mean["psnr"] > plain.mean["psnr"] + 6


def test_whole_views_are_scored_without_codes(scene):
    result = evaluate(trained(scene, Codes()), scene, scene.split.test[:1], lpips="none")
    assert result.protocol["appearance"] == "whole views; no code is fitted to them"


def test_what_was_fitted_to_views_does_not_stay(scene):
    """Neither a later measurement nor a saved model knows of it; training photographs keep their rows."""
    model = trained(scene, Codes(appearance=3))
    assert model.codes is not None
    before = {name: value.clone() for name, value in model.codes.state_dict().items()}
    evaluate(model, scene, [*scene.split.test[:1], *scene.split.train[:1]], lpips="none")
    assert all(torch.equal(value, model.codes.state_dict()[name]) for name, value in before.items())
    assert not model.codes.known.any()


def test_windows_see_the_scored_half_alone():
    """SSIM of halves is that of the cropped pictures, not thinned by a left half that is the same in both."""
    wide = synthetic_scene("shapes", size=40, views=4, test_views=1, supersample=1)
    model, view = trained(wide, Codes(), 5), wide.split.test[0]
    result = evaluate(model, wide, [view], lpips="none", halves=True)
    kept = result.kept[0]
    assert result.mean["ssim"] == pytest.approx(metrics.ssim(kept.picture.rgb[:, 20:], kept.truth[:, 20:]), abs=1e-6)


@pytest.mark.parametrize("name", ["grid", "nerf-a"])
def test_what_was_seen_without_light_is_lit_as_it_is_rendered(scene, name):
    """Geometry once and colour after it give the picture that one rendering gives, for any code."""
    codes = Codes(appearance=3, affine=True)
    recipe = with_size(replace(METHODS[name], codes=codes), "small" if name == "nerf-a" else "full")
    model = FitScene(settle(recipe, scene), scene, 0, torch.device("cpu")).model
    rays = scene.view_rays(scene.split.train[0])
    code = model.codes(rays.camera)
    code = replace(code, appearance=torch.randn_like(code.appearance), affine=0.1 * torch.randn_like(code.affine))
    with torch.no_grad():
        whole, lit = model.render(rays, code=code).rgb, model.unlit(rays).lit(model.field, code)
    assert (whole - lit).abs().max() < 2e-3
    assert whole.std() > 0.01


def test_exchanged_lights_hurt(scene):
    """The control: two views in each other's light score worse where their lights differ."""
    views = list(scene.split.train[:2])
    pictures = Pictures(scene.pictures.values.clone(), scene.pictures.size)
    pictures[views[0]][:, :, :3] //= 3
    two_lights = replace(scene, pictures=pictures)
    model = trained(scene, Codes(affine=True), 60)
    own = evaluate(model, two_lights, views, lpips="none").mean["psnr"]
    other = evaluate(model, two_lights, views, lpips="none", exchanged=True).mean["psnr"]
    assert own is not None
    assert other is not None
    assert own > other + 3
