"""Sources of labels by name, and what is said where a scene does not have one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rayprior.descriptors.correspond import KINDS, CycleChecked, DistanceLabels, FieldLabels
from rayprior.descriptors.rivals import ExactLabels, HomographyLabels, TrackLabels
from rayprior.descriptors.sources import SOURCES, labels_of
from rayprior.descriptors.stereo import StereoLabels
from rayprior.errors import UserError
from rayprior.rendering.model import Model
from rayprior.scenes.synthetic import synthetic_scene
from tiny import tiny_scene


@pytest.fixture(scope="module")
def model() -> Model:
    return torch.nn.Module()  # pyright: ignore[reportReturnType]  # named, and never rendered


def test_every_source_has_labels(model: Model):
    scene = synthetic_scene("shapes", size=8, views=24, test_views=2, supersample=1)
    kinds = dict.fromkeys(KINDS, FieldLabels) | {
        "exact": ExactLabels,
        "depth": DistanceLabels,
        "stereo": StereoLabels,
        "points": TrackLabels,
        "homography": HomographyLabels,
    }
    assert tuple(kinds) == SOURCES
    for name, kind in kinds.items():
        labels = labels_of(name, scene, model)
        assert isinstance(labels, kind)
        checked = labels_of(name, scene, model, cycle_px=1.5)
        if name in ("points", "homography"):
            assert isinstance(checked, kind)  # they lead back by themselves
        else:
            assert isinstance(checked, CycleChecked)
            assert checked.within_px == 1.5


def test_progress_prepares_the_training_views():
    scene = synthetic_scene("shapes", size=8, views=24, test_views=1, supersample=1)
    told = []
    labels = labels_of("stereo", scene, None, on_progress=lambda done, all: told.append((done, all)))
    assert told == [(k, 24) for k in range(1, 25)]
    assert isinstance(labels, StereoLabels)
    assert set(labels.maps) == set(scene.split.train)


def test_exact_matches_of_a_world_that_changes_are_those_of_held_out_views():
    scene = synthetic_scene("fork-bent", size=12, views=2, test_views=3, supersample=1)
    labels = labels_of("exact", scene, None)
    first, second, _ = scene.split.test
    pixels = scene.cameras.pixel_grid(first).double()
    assert labels.match(first, pixels, second).valid.any()
    assert not labels.match(0, pixels, first).valid.any()
    assert not labels.match(0, pixels, 1).valid.any()


def test_what_a_scene_does_not_have_is_refused():
    scene = tiny_scene("shapes")
    with pytest.raises(UserError, match="no source of labels named 'sterio'; did you mean 'stereo'"):
        labels_of("sterio", scene, None)
    with pytest.raises(
        UserError, match=r"labels 'draw' are read from a field, and shapes is a capture without one.*exact"
    ):
        labels_of("draw", scene, None)
    capture = replace(scene, format="colmap", name="cup", depth=None)
    with pytest.raises(
        UserError, match=r"cup: exact matches are known of embedded scenes alone.*: stereo, points, homog"
    ):
        labels_of("exact", capture, None)
    with pytest.raises(UserError, match="cup: no depth maps"):
        labels_of("depth", capture, None)
    with pytest.raises(UserError, match="cup: no sparse points"):
        labels_of("points", replace(capture, points=None), None)
    with pytest.raises(UserError, match="stereo compares each view with two or more training views"):
        labels_of("stereo", replace(scene, split=replace(scene.split, train=(0, 1))), None)
    with pytest.raises(UserError, match="cycle check within 0 px"):
        labels_of("depth", scene, None, cycle_px=0)
