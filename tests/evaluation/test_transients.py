"""What the second medium found: areas under known curves, and a medium that is told where the occluders are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rayprior.evaluation.metrics import roc_auc
from rayprior.evaluation.transients import transient_scores
from rayprior.fields.codes import Codes
from rayprior.methods import METHODS, with_field
from rayprior.scenes.degrade import covered, degradation_of
from rayprior.scenes.open import load_scene
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene


@pytest.mark.parametrize(
    ("score", "truth", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([0.1, 0.2], [1, 1], None),
    ],
)
def test_area_under_the_curve(score, truth, expected):
    assert roc_auc(torch.tensor(score), torch.tensor(truth).bool()) == expected


def test_the_square_that_was_painted_is_the_one_that_is_said():
    """Pixels that differ from the clean capture lie in the squares, and the first picture has none."""
    options = {"seed": 3, "occluder": 0.25}
    clean = load_scene("synthetic:shapes", downscale=4)
    scene = load_scene("synthetic:shapes", downscale=4, degrade=options)
    squares = covered(scene, degradation_of(options))
    assert set(squares) == set(scene.split.train[1:])
    for view, square in squares.items():
        changed = (scene.pictures[view] != clean.pictures[view]).any(dim=2)
        assert not changed[~square].any()
        assert changed[square].float().mean() > 0.9


def test_a_medium_that_learned_finds_the_occluders():
    """A few steps of NeRF-U on pictures with squares: better than chance, and the claimed deviation goes with the
    error."""
    options = {"seed": 0, "occluder": 0.25}
    scene = load_scene("synthetic:shapes", downscale=4, degrade=options)
    recipe = METHODS["nerf-u"]
    recipe = with_field(recipe, "grid")
    recipe = settle(replace(recipe, codes=Codes(transient=8, layers=1, hidden=16)), scene)
    task = FitScene(recipe, scene, 0, torch.device("cpu"))
    for step in range(120):
        losses, _ = task.losses(step, step / 120)
        torch.stack(list(losses.values())).sum().backward()
        task.step()
    squares = dict(list(covered(scene, degradation_of(options)).items())[:4])
    found = transient_scores(task.model, scene, squares)
    assert found["transient_auc"] is not None
    assert found["std_residual"] is not None
    assert found["transient_auc"] > 0.6
    assert found["std_residual"] > 0.1
