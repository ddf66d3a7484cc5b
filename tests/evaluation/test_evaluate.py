"""Whole views of a known sphere: the numbers are right, complete, strict JSON, and say how they were made."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log

import pytest
import torch

from rayprior.errors import UserError
from rayprior.evaluation.evaluate import evaluate, strict
from rayprior.scenes.scene import Background, Pictures


def strictly(text: str):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_true_model_is_nearly_perfect(scene, model):
    result = evaluate(model, scene, scene.split.test, lpips="none")
    assert result.mean["psnr"] > 40
    assert result.mean["ssim"] > 0.99
    assert result.mean["distance_delta_1.25"] == 1
    assert result.mean["floater_share"] == 0


def test_distance_errors_are_in_the_captures_unit(scene, make_model):
    """A ball of density d is seen ln 2 / d behind its surface (the median); 4 input units are 1 working unit."""
    centre = (slice(14, 18), slice(18, 22))
    mask = torch.zeros(32, 40, 1, dtype=torch.bool)
    mask[centre] = True
    middle = replace(scene, masks=Pictures.of([mask] * len(scene)))
    result = evaluate(make_model(density=20), middle, [0], lpips="none")
    assert result.mean["distance_mae"] == pytest.approx(4 * log(2) / 20, rel=0.02)
    assert result.mean["distance_abs_rel"] == pytest.approx(log(2) / 20 / 1.62, rel=0.03)


def test_a_colour_error_has_its_closed_form(make_scene, make_model):
    """Pictures that show nothing but the ball are off by .05 in every channel: -20 log10 .05."""
    inside = replace(make_scene(size=(8, 8), focal=12), depth=None)
    result = evaluate(make_model(density=1e6, tint=0.05), inside, [0], lpips="none")
    assert result.mean["psnr"] == pytest.approx(26.0206, abs=0.05)  # photographs have 8 bits
    assert result.mean["ssim"] is None  # smaller than the window
    assert "distance_mae" not in result.mean


def test_fog_is_counted_as_floaters(scene, make_model):
    """Fog of density f from near to .9 D stops 1 - exp(-f (.9 D - near)) of a ray."""
    foggy = evaluate(make_model(fog=0.3), scene, [0], lpips="none")
    distance = scene.depth[0].double()
    near = scene.view_rays(0).near.view_as(distance)
    expected = (1 - torch.exp(-0.3 * (0.9 * distance - near))).nanmean()
    assert foggy.mean["floater_share"] == pytest.approx(float(expected), rel=1e-3)
    assert foggy.mean["floater_share"] > 0.05
    assert foggy.mean["psnr"] < 30


def test_layout_and_names(scene, model, tmp_path):
    result = evaluate(model, scene, scene.split.test, lpips="none", overridden={"near": 0.5})
    result.write(tmp_path / "eval" / "metrics.json")
    layout = strictly((tmp_path / "eval" / "metrics.json").read_text())
    assert list(layout) == ["protocol", "mean", "views"]
    assert [view["name"] for view in layout["views"]] == ["view_0", "view_4"]
    assert {"psnr", "psnr_pooled", "ssim", "lpips", "ssim_reflect", "ms_ssim"} <= set(layout["mean"])
    protocol = layout["protocol"]
    assert protocol["test_views"] == ["view_0", "view_4"]
    assert protocol["train_views"] == ["view_1", "view_2", "view_3", "view_5", "view_6", "view_7"]
    assert (protocol["split"], protocol["format"], protocol["resolution"]) == ("every-4th", "test", ["40x32"])
    assert protocol["near"] == 4.0  # 1 working unit at scale 1/4
    assert protocol["overridden"] == {"near": 0.5}
    assert "white" in protocol["background"]
    assert layout["mean"]["lpips"] is None
    assert "left out" in protocol["lpips"]


def test_mean_is_the_mean_of_views_and_pooled_is_not(scene, make_model):
    result = evaluate(make_model(tint=0.1), scene, [0, 1], lpips="none")
    views = [view["psnr"] for view in result.views]
    assert result.mean["psnr"] == pytest.approx(sum(views) / 2)
    pooled = -10 * torch.tensor([view["mse"] for view in result.views]).mean().log10()
    assert result.mean["psnr_pooled"] == pytest.approx(float(pooled), abs=1e-4)


def test_ignored_pixels_are_not_scored(scene, model, make_model):
    """A mask of what is outside the ball: the ball may have any colour."""
    outside = Pictures(torch.isnan(scene.depth.values), scene.depth.size)
    masked = replace(scene, masks=outside)
    right, wrong = (evaluate(m, masked, [0], lpips="none") for m in (model, make_model(tint=0.4)))
    assert right.mean["psnr"] == pytest.approx(wrong.mean["psnr"])
    assert right.mean["ssim"] == pytest.approx(wrong.mean["ssim"])
    assert evaluate(make_model(tint=0.4), scene, [0], lpips="none").mean["psnr"] < 20
    assert "not scored" in right.protocol["masks"]
    assert right.mean["distance_mae"] is None  # no valid pixel is left
    given = evaluate(make_model(tint=0.4), scene, [0], masks=outside, lpips="none")
    assert given.mean["psnr"] == pytest.approx(right.mean["psnr"])


def test_a_random_background_is_white_at_evaluation(scene, model):
    random = scene.with_background(Background("random"))
    result = evaluate(model, random, [0], lpips="none")
    assert result.mean["psnr"] == pytest.approx(evaluate(model, scene, [0], lpips="none").mean["psnr"])
    assert result.protocol["background"].startswith("white")
    black = evaluate(model, random, [0], background=(0.0, 0.0, 0.0), lpips="none")
    assert black.protocol["background"].startswith("black")
    assert float(black.kept[0].truth[0, 0].max()) == 0
    assert black.mean["psnr"] > 40


def test_lpips_that_is_not_there_is_null_with_a_reason_and_an_error_on_request(scene, model, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("RAYPRIOR_WEIGHTS", str(tmp_path / "weights"))
    result = evaluate(model, scene, [0])
    assert result.mean["lpips"] is None
    assert result.protocol["lpips"].startswith("null: ")
    assert "alexnet" in result.protocol["lpips"]
    with pytest.raises(UserError, match="vgg16"):
        evaluate(model, scene, [0], lpips="vgg")


def test_no_view_to_score_is_an_error_that_says_so(scene, model):
    with pytest.raises(UserError, match=r"'every-4th' has no view to score"):
        evaluate(model, scene, [], lpips="none")


def test_progress_names_every_view_and_few_pictures_are_kept(scene, model):
    seen = []
    result = evaluate(
        model,
        scene,
        range(8),
        lpips="none",
        keep=3,
        on_progress=lambda done, total, view: seen.append((done, total, view.name)),
    )
    assert seen == [(i + 1, 8, f"view_{i}") for i in range(8)]
    assert [view.name for view in result.kept] == ["view_0", "view_2", "view_5"]
    assert result.kept[0].picture.rgb.shape == (32, 40, 3)


def test_json_is_strict():
    value = {"a": float("nan"), "b": [float("inf"), 1, (2.5, None)], "c": True}
    assert strictly(json.dumps(strict(value), allow_nan=False)) == {"a": None, "b": [None, 1, [2.5, None]], "c": True}
