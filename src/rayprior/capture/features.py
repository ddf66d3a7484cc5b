"""Features of photos and their matches between photos, in a COLMAP database: SIFT, brute force, verified by epipolar
geometry (Lowe 2004; Schoenberger 2016). The one door to pycolmap for all that needs matches.

Pixels are COLMAP's, which are ours: the top left corner of a picture is (0, 0), pixel centres are at +0.5.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rayprior.errors import UserError

Progress = Callable[[int, int], None]  # (done, of how many)
Pair = tuple[str, str]
FEWEST_INLIERS = 15  # matches of two photos that agree with one geometry, below which they count as strangers
PHOTOS_A_CALL = 8
PAIRS_A_CALL = 300


@dataclass(frozen=True)
class Lens:
    """What photos of one camera start from.

    model       a COLMAP camera model: SIMPLE_PINHOLE, SIMPLE_RADIAL, OPENCV, OPENCV_FISHEYE, ...
    parameters  in COLMAP's order; None: no distortion, the centre in the middle, focal length 1.2 x the longer side
    """

    model: str = "SIMPLE_RADIAL"
    parameters: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Effort:
    """How hard features are sought and matches believed. `WIDE` is for photos that `USUAL` leaves unconnected.

    most        features a photo, the largest first
    peak        threshold of the difference of Gaussians; lower finds features in smoother places
    ratio       of the distances to the nearest and the second nearest descriptor (Lowe 2004, section 7.1)
    guided      match once more along the epipolar lines of the geometry that was found
    """

    most: int = 4096
    peak: float = 0.02 / 3
    ratio: float = 0.8
    guided: bool = False


USUAL = Effort()
WIDE = Effort(most=8192, peak=0.01 / 3, ratio=0.9, guided=True)


def sfm_library() -> Any:
    """pycolmap, quiet. Raises UserError, with the extra that has it, where it is not installed."""
    try:
        import pycolmap
    except ImportError:
        raise UserError(
            "structure from motion needs pycolmap, which is not installed; pip install 'rayprior[sfm]'"
        ) from None
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    pycolmap.logging.logtostderr = False
    return pycolmap


def extract(
    database: Path,
    folder: Path,
    names: Sequence[str],
    *,
    lens: Lens | None = None,
    largest_side_px: int = 1600,
    effort: Effort = USUAL,
    masks: Path | None = None,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Add photos and their SIFT features to a database, which is made where there is none.

    folder, names    photos are folder/name; the name is what they are called in the database. They must be upright and
                     readable: COLMAP skips what it can't read, and says so to nobody
    lens             all photos are of one camera (they must then have one size); None: a camera each
    largest_side_px  photos are made this small before features are sought; pixels are those of the photo nonetheless
    masks            a folder with `name + .png`; no features where they are black
    """
    colmap = sfm_library()
    reader = colmap.ImageReaderOptions()
    mode = colmap.CameraMode.PER_IMAGE
    if lens is not None:
        mode, reader.camera_model = colmap.CameraMode.SINGLE, lens.model
        reader.camera_params = "" if lens.parameters is None else ",".join(f"{p:.12g}" for p in lens.parameters)
    if masks is not None:
        reader.mask_path = str(masks)
    options = colmap.FeatureExtractionOptions()
    options.use_gpu, options.num_threads, options.max_image_size = False, threads or -1, largest_side_px
    options.sift.max_num_features, options.sift.peak_threshold = effort.most, effort.peak
    shared: int | None = None  # the camera of all, once a photo has made it
    for begin in range(0, len(names), PHOTOS_A_CALL):
        part = list(names[begin : begin + PHOTOS_A_CALL])
        colmap.extract_features(
            database, folder, part, mode, reader_options=reader, extraction_options=options, device=colmap.Device.cpu
        )
        if lens is not None and shared is None:
            shared = _camera_of(database, part)
            if shared is not None:
                reader.existing_camera_id = shared
        if on_progress is not None:
            on_progress(begin + len(part), len(names))


def exhaustive_pairs(names: Sequence[str]) -> list[Pair]:
    """Every photo with every other."""
    return list(combinations(names, 2))


def sequential_pairs(names: Sequence[str], overlap: int = 10) -> list[Pair]:
    """Each photo with the `overlap` that follow, and with those 2, 4, 8, ... times farther: a walk that may come back.

    The powers of two go on to the end of the sequence, so that a closed loop has a chance to be noticed.
    """
    steps = [*range(1, overlap + 1)]
    while steps and steps[-1] * 2 < len(names):
        steps.append(steps[-1] * 2)
    return [(names[i], names[i + step]) for i in range(len(names)) for step in steps if i + step < len(names)]


def match(
    database: Path,
    pairs: Sequence[Pair],
    *,
    effort: Effort = USUAL,
    seed: int = 0,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Match the features of pairs of photos, by name, and keep what a geometry of two views explains."""
    colmap = sfm_library()
    options, geometry = colmap.FeatureMatchingOptions(), colmap.TwoViewGeometryOptions()
    options.use_gpu, options.num_threads, options.guided_matching = False, threads or -1, effort.guided
    options.sift.max_ratio = effort.ratio
    geometry.min_num_inliers, geometry.ransac.random_seed = FEWEST_INLIERS, seed
    with _names_for_lists(database) as called, tempfile.TemporaryDirectory() as folder:
        listed = colmap.ImportedPairingOptions()
        listed.match_list_path = str(Path(folder) / "pairs.txt")
        for begin in range(0, len(pairs), PAIRS_A_CALL):
            part = pairs[begin : begin + PAIRS_A_CALL]
            lines = (f"{called.get(a, a)} {called.get(b, b)}\n" for a, b in part)
            Path(listed.match_list_path).write_text("".join(lines), encoding="utf-8")
            colmap.match_image_pairs(database, options, listed, verification_options=geometry, device=colmap.Device.cpu)
            if on_progress is not None:
                on_progress(begin + len(part), len(pairs))


def read_matches(database: Path) -> dict[Pair, tuple[np.ndarray, np.ndarray]]:
    """The verified matches: (name, later name) -> their pixels, (n, 2) float64 each, row for row.

    Pairs with fewer than 15 are left out.
    """
    with opened(database) as content:
        names = {image.image_id: image.name for image in content.read_all_images()}
        pixels = {key: content.read_keypoints(key)[:, :2].astype(np.float64) for key in names}
        found = {}
        for pair, geometry in zip(*content.read_two_view_geometries()):
            if len(geometry.inlier_matches) >= FEWEST_INLIERS:
                a, b = sfm_library().pair_id_to_image_pair(pair)
                rows = np.asarray(geometry.inlier_matches, dtype=np.int64)
                both = (names[a], pixels[a][rows[:, 0]]), (names[b], pixels[b][rows[:, 1]])
                (first, left), (second, right) = sorted(both, key=lambda one: one[0])  # ids are in no order
                found[first, second] = left, right
        return found


def feature_counts(database: Path) -> dict[str, int]:
    """How many features each photo has, by name."""
    with opened(database) as content:
        return {image.name: content.num_keypoints_for_image(image.image_id) for image in content.read_all_images()}


@contextmanager
def opened(database: Path) -> Iterator[Any]:
    """A COLMAP database, closed at the end."""
    content = sfm_library().Database.open(database)
    try:
        yield content
    finally:
        content.close()


def _camera_of(database: Path, names: Sequence[str]) -> int | None:
    """The camera of the first of these photos that COLMAP could read; None: it read none."""
    with opened(database) as content:
        return next((i.camera_id for i in map(content.read_image_with_name, names) if i is not None), None)


@contextmanager
def _names_for_lists(database: Path) -> Iterator[Mapping[str, str]]:
    """COLMAP's lists of pairs separate names by a blank, and a line that begins with # is none. Such names are numbers
    while the list is read."""
    with opened(database) as content:
        images = content.read_all_images()
    wanted = [i for i in images if i.name.startswith("#") or any(mark.isspace() for mark in i.name)]
    called = {image.name: f"photo-number-{image.image_id}" for image in wanted}
    _rename(database, called)
    try:
        yield called
    finally:
        _rename(database, {number: name for name, number in called.items()})


def _rename(database: Path, called: Mapping[str, str]) -> None:
    if not called:
        return
    with opened(database) as content:
        for name, new in called.items():
            image = content.read_image_with_name(name)
            image.name = new
            content.update_image(image)
