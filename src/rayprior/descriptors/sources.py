"""Sources of labels by name: what `--labels` says, and what a study compares."""

from __future__ import annotations

from collections.abc import Callable

from rayprior.descriptors.correspond import KINDS, CycleChecked, FieldLabels
from rayprior.descriptors.pairs import Labels
from rayprior.descriptors.rivals import ExactLabels, HomographyLabels, TrackLabels, sensor_labels
from rayprior.descriptors.stereo import StereoLabels
from rayprior.errors import UserError, did_you_mean
from rayprior.rendering.model import Model
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import synthetic_world
from rayprior.scenes.synthetic.catalogue import STAGES

SOURCES: tuple[str, ...] = (*KINDS, "exact", "depth", "stereo", "points", "homography")
OWN_PAIRS = (TrackLabels, HomographyLabels)  # they have a `draw` of their own: random pixels would miss what they know


def labels_of(
    name: str,
    scene: Scene,
    model: Model | None,
    *,
    cycle_px: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Labels:
    """A source of labels by its name, one of `SOURCES`.

    raw-mean, mean, median, mode, draw, draw-left, distribution  `FieldLabels`: of `model`, a field of this scene
    exact       `ExactLabels`: of an embedded scene
    depth       `sensor_labels`: the scene's own depth maps
    stereo      `StereoLabels`: plane sweep over the training views
    points      `TrackLabels`: the tracks of a COLMAP model's points
    homography  `HomographyLabels`: each picture and itself, moved

    cycle_px     keep what leads back to within so many pixels (`CycleChecked`). Matches of points and homographies
                 lead back by themselves
    on_progress  given, a field's and stereo's labels of the training views are prepared at once, and it is called with
                 (views done, views in all); else each view is when it is first asked for

    UserError for another name, a field's labels without a field, and what the scene does not have.
    """
    if name not in SOURCES:
        raise UserError(f"no source of labels named '{name}'{did_you_mean(name, SOURCES)}")
    labels = _labels_of(name, scene, model, on_progress)
    if on_progress is not None and isinstance(labels, FieldLabels | StereoLabels):
        labels.prepare(list(scene.split.train))
    return labels if cycle_px is None or isinstance(labels, OWN_PAIRS) else CycleChecked(labels, cycle_px)


def _labels_of(name: str, scene: Scene, model: Model | None, on_progress: Callable[[int, int], None] | None) -> Labels:
    if name == "exact":
        return _exact(scene)
    if name == "depth":
        return sensor_labels(scene)
    if name == "stereo":
        return StereoLabels(scene, on_progress=on_progress)
    if name == "points":
        return TrackLabels(scene)
    if name == "homography":
        return HomographyLabels(scene)
    if model is None:
        raise UserError(
            f"labels '{name}' are read from a field, and {scene.path or scene.name} is a capture without one; name a"
            f" run that was trained on it, or take labels that need none: {', '.join(_without_field(scene))}"
        )
    return FieldLabels(model, scene, name, on_progress=on_progress)


def _exact(scene: Scene) -> ExactLabels:
    if scene.format != "synthetic" or scene.name not in STAGES:
        raise UserError(
            f"{scene.path or scene.name}: exact matches are known of embedded scenes alone (synthetic:NAME); this"
            f" capture has labels of: {', '.join(_without_field(scene))}"
        )
    changes = STAGES[scene.name]().moved is not None  # held-out views then all see one and the same world
    return ExactLabels(synthetic_world(scene.name), scene.cameras, scene.split.test if changes else None)


def _without_field(scene: Scene) -> list[str]:
    """The sources that a scene has by itself."""
    points = scene.points
    there = {
        "exact": scene.format == "synthetic",
        "depth": scene.depth is not None,
        "points": points is not None and len(points.track_point) > 0,
    }
    return [name for name in SOURCES if there.get(name, name not in KINDS)]
