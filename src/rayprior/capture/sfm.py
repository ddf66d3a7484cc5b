"""Cameras and points from matches: incremental mapping (Schoenberger & Frahm 2016), global mapping (Pan et al. 2024),
triangulation with known poses. A ladder of attempts, each wider than the one before, until most photos have a place.

All of it is pycolmap's work; what is ours is the order in which things are tried, and the words for what came out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rayprior.capture.features import USUAL, WIDE, Effort, Pair, opened, sfm_library
from rayprior.scenes.cameras import Cameras

ENOUGH = 0.95  # share of the photos with which the ladder ends
FEWEST_REGISTERED = 3
FEWEST_POINTS = 5  # a photo
FEWEST_OF_ONE_CAMERA = 10  # photos from which the centre of a camera's pictures can be told
MOST_EXHAUSTIVE = 400  # photos of which every pair is matched
FAR_OVERLAP = 30
LARGEST_ERROR_PX = 4.0
FEWEST_MATCHES_OF_A_PHOTO = 30  # with points that stand already, to be given a place

Mapper = Literal["incremental", "patient", "global"]
Matching = Literal["sequential", "exhaustive", "far"]


@dataclass(frozen=True)
class Attempt:
    """One rung: which pairs are matched, how hard, and how cameras are made of them.

    mapper  incremental: COLMAP's own thresholds; patient: narrower baselines, fewer matches; global: all at once
    """

    matching: Matching
    wide: bool
    mapper: Mapper
    seed: int

    @property
    def effort(self) -> Effort:
        return WIDE if self.wide else USUAL

    def __str__(self) -> str:
        return f"{self.matching}{', wide thresholds' if self.wide else ''}, {self.mapper} mapping, seed {self.seed}"


@dataclass(frozen=True)
class Model:
    """What one mapping made: photos that have a place, points, mean reprojection error."""

    folder: Path
    photos: tuple[str, ...]
    points: int
    error_px: float


def ladder(photos: int, *, ordered: bool, seed: int = 0) -> list[Attempt]:
    """The attempts, in order. ordered: photos follow each other, as frames of a video do."""
    all_pairs: Matching = "exhaustive" if photos <= MOST_EXHAUSTIVE else "far"
    first = [Attempt("sequential", False, "incremental", seed)] if ordered else []
    return [
        *first,
        Attempt(all_pairs, False, "incremental", seed),
        Attempt(all_pairs, False, "patient", seed + 1),
        Attempt(all_pairs, True, "patient", seed + 2),
        Attempt(all_pairs, True, "global", seed + 3),
    ]


def map_photos(
    database: Path,
    images: Path,
    out: Path,
    attempt: Attempt,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Model]:
    """Models in folders of `out`, the largest first; none where nothing could be made.

    What has fewer than 5 points a photo is no model: photos from one spot fit together without any.
    """
    colmap = sfm_library()
    colmap.set_random_seed(attempt.seed)
    if attempt.mapper == "global":
        whole = colmap.GlobalPipelineOptions()
        whole.num_threads, whole.random_seed, whole.min_model_size = threads or -1, attempt.seed, FEWEST_REGISTERED
        whole.mapper.global_positioning.use_gpu = whole.mapper.bundle_adjustment.ceres.use_gpu = False
        colmap.calibrate_view_graph(database)
        made = colmap.global_mapping(database, images, out, whole)
    else:
        options = colmap.IncrementalPipelineOptions()
        options.num_threads, options.random_seed = threads or -1, attempt.seed
        options.min_model_size, options.mapper.random_seed = FEWEST_REGISTERED, attempt.seed
        if attempt.mapper == "patient":
            mapper = options.mapper
            mapper.init_min_tri_angle, mapper.init_min_num_inliers, mapper.filter_min_tri_angle = 4.0, 30, 0.7
            mapper.abs_pose_min_num_inliers, mapper.abs_pose_min_inlier_ratio = 15, 0.15
            options.triangulation.min_angle, options.triangulation.ignore_two_view_tracks = 0.7, False
        total, done = len(names_in(database)), [1]

        def registered() -> None:
            done[0] += 1
            if on_progress is not None:
                on_progress(min(done[0], total), total)

        made = colmap.incremental_mapping(database, images, out, options, next_image_callback=registered)
    models = [_model(out / str(key), reconstruction) for key, reconstruction in made.items()]
    models = [model for model in models if model.points >= FEWEST_POINTS * len(model.photos)]
    return sorted(models, key=lambda model: (-len(model.photos), -model.points))


def refine(model: Path, out: Path, threads: int | None = None) -> Model:
    """Bundle adjustment of everything, principal points too where a camera made at least 10 photos; then points that
    are off by more than 4 px or seen under less than 1.5 degrees are dropped."""
    colmap = sfm_library()
    content = colmap.Reconstruction(model)
    uses = Counter(content.images[key].camera_id for key in content.reg_image_ids())
    few = [camera for camera, count in uses.items() if count < FEWEST_OF_ONE_CAMERA]
    if len(few) < len(uses):
        options, config = colmap.BundleAdjustmentOptions(), colmap.BundleAdjustmentConfig()
        options.refine_principal_point, options.print_summary = True, False
        options.ceres.solver_options.num_threads = threads or -1
        for key in content.reg_image_ids():
            config.add_image(key)
        for camera in few:
            config.set_constant_cam_intrinsics(camera)
        config.fix_gauge(colmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        colmap.create_default_bundle_adjuster(options, config, content).solve()
        colmap.ObservationManager(content).filter_all_points3D(LARGEST_ERROR_PX, 1.5)
    content.update_point_3d_errors()
    content.write_binary(out)
    return _model(out, content)


def triangulate(
    database: Path,
    images: Path,
    cameras: Cameras,
    names: Sequence[str],
    out: Path,
    threads: int | None = None,
) -> Model:
    """Points of matched photos whose cameras are known; poses and lenses stay as they are.

    cameras, names  of the photos, row for row; the database's own cameras must have their lenses
    """
    colmap = sfm_library()
    start = colmap.Reconstruction()
    row = {name: i for i, name in enumerate(names)}
    with opened(database) as content:
        for camera in content.read_all_cameras():
            start.add_camera_with_trivial_rig(camera)
        for image in content.read_all_images():
            c2w = cameras.c2w[row[image.name]].numpy()
            pose = colmap.Rigid3d(np.concatenate([c2w[:, :3].T, -c2w[:, :3].T @ c2w[:, 3:]], axis=1))
            posed = colmap.Image(
                name=image.name, points2D=colmap.Point2DList(), camera_id=image.camera_id, image_id=image.image_id
            )
            start.add_image_with_trivial_frame(posed, pose)
    options = colmap.IncrementalPipelineOptions()
    options.num_threads = threads or -1
    options.triangulation.ignore_two_view_tracks = False
    made = colmap.triangulate_points(start, database, images, out, options=options)
    made.extract_colors_for_all_images(images)
    made.update_point_3d_errors()
    made.write_binary(out)
    return _model(out, made)


def names_in(database: Path) -> list[str]:
    """The photos of a database."""
    with opened(database) as content:
        return [image.name for image in content.read_all_images()]


def undistort(model: Path, images: Path, out: Path, threads: int | None = None) -> None:
    """The registered photos without distortion, in `out/images`, and their pinhole cameras in `out/sparse`."""
    sfm_library().undistort_images(out, model, images, num_threads=threads or -1)


@dataclass(frozen=True)
class PhotoInModel:
    """What a model knows of one photo: points it saw, and their mean reprojection error (None: it saw none)."""

    points: int
    error_px: float | None


def photos_in(model: Path) -> dict[str, PhotoInModel]:
    """Every photo that has a place, by name."""
    content = sfm_library().Reconstruction(model)
    found = {}
    for key in content.reg_image_ids():
        image = content.images[key]
        observed = image.get_observation_points2D()
        world = np.array([content.points3D[point.point3D_id].xyz for point in observed]).reshape(-1, 3)
        seen = np.array([point.xy for point in observed]).reshape(-1, 2)
        local = world @ image.cam_from_world().matrix()[:, :3].T + image.cam_from_world().matrix()[:, 3]
        shown = np.asarray(content.cameras[image.camera_id].img_from_cam(local), dtype=np.float64).reshape(-1, 2)
        error = np.linalg.norm(shown - seen, axis=1)
        error = error[np.isfinite(error)]
        found[image.name] = PhotoInModel(len(observed), round(float(error.mean()), 4) if len(error) else None)
    return found


def kinds_of_pairs(database: Path) -> Counter[str]:
    """How many verified pairs look like what: CALIBRATED, UNCALIBRATED, PLANAR, PANORAMIC, ..."""
    with opened(database) as content:
        _, geometries = content.read_two_view_geometries()
        kinds = [geometry.config for geometry in geometries if len(geometry.inlier_matches)]
        return Counter(sfm_library().TwoViewGeometryConfiguration(int(kind)).name for kind in kinds)


def why_not_registered(
    name: str,
    features: Mapping[str, int],
    matches: Mapping[Pair, int],
    registered: Sequence[str],
    others: Sequence[Model],
) -> str:
    """Why a photo has no place, from what is known of it."""
    if name not in features:
        return "never looked at: it has no camera in --poses, or COLMAP can't read it (then save it as JPEG or PNG)"
    count = features[name]
    if count < FEWEST_MATCHES_OF_A_PHOTO:
        return f"only {count} features: too dark, too blurred, or a smooth surface"
    elsewhere = next((i for i, model in enumerate(others, start=2) if name in model.photos), None)
    if elsewhere is not None:
        return f"in model {elsewhere}, which shares too little with the largest"
    partners = {(b if a == name else a): n for (a, b), n in matches.items() if name in (a, b)}
    if not partners:
        return "matches no other photo: nothing that others show, or from too far away"
    there = {partner: n for partner, n in partners.items() if partner in set(registered)}
    if not there:
        return f"matches {len(partners)} photos, none of which has a place"
    best = max(there, key=lambda partner: there[partner])
    return f"matches {len(there)} photos with a place (best {best}: {there[best]}), too few of them with known points"


def _model(folder: Path, content: Any) -> Model:
    names = sorted(content.images[key].name for key in content.reg_image_ids())
    points = content.num_points3D()
    return Model(folder, tuple(names), points, content.compute_mean_reprojection_error() if points else 0.0)
