"""Which photos are matched with which, and their matches; how bright the same things are in each photo."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from rayprior.capture.doctor.epipolar import Matches
from rayprior.capture.doctor.findings import Finding, some
from rayprior.capture.doctor.pictures import Look, Progress
from rayprior.capture.features import Effort, extract, feature_counts, match, read_matches

MOST_PHOTOS = 120
BY_POSE, BY_PICTURE = (0, 1, 3), (0, 1)  # which of the nearest others each photo is matched with
SMALLEST_PX = 400  # photos are enlarged to this: at 100 px there are no features to speak of
TAKEN = 48  # matches of a pair that are looked at, spread over all it has
EFFORT = Effort(most=1200)
WINDOW = 2  # px around a match over which brightness is averaged
DARK, BRIGHT = 12, 243  # beyond, a camera's response says little
STOPS_JUMP = 0.7  # difference of exposure between a photo and its partners, median
SHARED = 0.15  # share of a pair's matches that may disagree about it, on one side


def choose_pairs(
    centres: Float[Tensor, "n 3"], forward: Float[Tensor, "n 3"], looks: Sequence[Look]
) -> list[tuple[int, int]]:
    """Neighbours by where cameras stand (and look less than 75 degrees apart), and by how photos look alike, which
    holds where the poses do not. Photos at one place are no pair by pose: nothing can be measured between them."""
    count = len(looks)
    apart = torch.cdist(centres, centres)
    usable = (apart > 1e-6 * float(apart.max())) & (forward @ forward.T > 0.25)
    by_pose = torch.where(usable, apart, torch.inf)
    thumbs = torch.from_numpy(np.stack([look.thumb.ravel() for look in looks]))
    thumbs = thumbs - thumbs.mean(dim=1, keepdim=True)
    thumbs = thumbs / thumbs.norm(dim=1, keepdim=True).clamp_min(1e-9)
    by_picture = 1 - thumbs @ thumbs.T
    by_picture.fill_diagonal_(torch.inf)
    chosen = set()
    for distance, ranks in ((by_pose, BY_POSE), (by_picture, BY_PICTURE)):
        order = distance.argsort(dim=1)
        for rank in (rank for rank in ranks if rank < count - 1):
            for i, j in enumerate(order[:, rank].tolist()):
                if torch.isfinite(distance[i, j]):
                    chosen.add((min(i, j), max(i, j)))
    return sorted(chosen)


def match_photos(
    looks: Sequence[Look], pairs: Sequence[tuple[int, int]], on_progress: Progress | None = None
) -> tuple[Matches, list[int]]:
    """Verified matches of these pairs (those that have any), and the number of features of each photo.

    Raises UserError where pycolmap is missing.
    """
    names = [f"{i:06d}.png" for i in range(len(looks))]
    total = len(looks) + len(pairs)
    with tempfile.TemporaryDirectory() as temporary:
        folder, database = Path(temporary) / "photos", Path(temporary) / "matches.db"
        folder.mkdir()
        for name, look in zip(names, looks):
            _enlarged(look.grey).save(folder / name, compress_level=1)

        def extracted(done: int, of: int) -> None:
            if on_progress is not None:
                on_progress(done, total)

        def matched(done: int, of: int) -> None:
            if on_progress is not None:
                on_progress(len(looks) + done, total)

        extract(database, folder, names, effort=EFFORT, on_progress=extracted)
        match(database, [(names[i], names[j]) for i, j in pairs], effort=EFFORT, on_progress=matched)
        found, features = read_matches(database), feature_counts(database)
    place = {name: i for i, name in enumerate(names)}
    rows = [(place[a], place[b], *pixels) for (a, b), pixels in sorted(found.items())]
    pair = torch.tensor([[a, b] for a, b, _, _ in rows], dtype=torch.long).reshape(-1, 2)
    pixel = [torch.stack([_taken(looks[a], first), _taken(looks[b], second)]) for a, b, first, second in rows]
    stacked = torch.stack(pixel) if pixel else torch.zeros(0, 2, TAKEN, 2, dtype=torch.float64)
    count = torch.tensor([len(first) for _, _, first, _ in rows], dtype=torch.long)
    return Matches(pair, stacked, count), [features.get(name, 0) for name in names]


def _enlarged(grey: np.ndarray) -> Image.Image:
    image = Image.fromarray(grey)
    if max(image.size) >= SMALLEST_PX:
        return image
    factor = SMALLEST_PX / max(image.size)
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def _taken(look: Look, pixel: np.ndarray) -> Float[Tensor, "k 2"]:
    """TAKEN of the matches, evenly over their order, in pixels of the photo as it is."""
    height, width = look.grey.shape
    factor = max(1.0, SMALLEST_PX / max(width, height))
    shown = np.array([round(width * factor), round(height * factor)]) if factor > 1 else np.array([width, height])
    some_of = np.linspace(0, len(pixel) - 1, TAKEN).round().astype(int)
    return torch.from_numpy(pixel[some_of] * (np.array(look.size) / shown))


# -- exposure ----------------------------------------------------------------------------------------------------------


def check_exposure(names: Sequence[str], looks: Sequence[Look], matches: Matches) -> tuple[list[Finding], str]:
    """How bright the same things are in each photo, in stops: matches of pairs tell ratios, least squares the rest.

    What counts as a jump is the change that all but few matches of a pair share: shadows and gloss are local, exposure
    is not. Photos without a match are left out; the median photo is at 0.
    """
    ratio = torch.stack([_stops(looks, matches, side) for side in (0, 1)], dim=1)  # (p, 2, k)
    change = ratio[:, 1] - ratio[:, 0]
    difference = change.nanmedian(dim=1).values.numpy()
    low, high = change.nanquantile(SHARED, dim=1).numpy(), change.nanquantile(1 - SHARED, dim=1).numpy()
    common = np.maximum(np.maximum(low, -high), 0.0)  # all that nearly all matches have in common: shadows are local
    told = np.isfinite(difference)
    pair, difference, common = matches.pair.numpy()[told], difference[told], common[told]
    if len(pair) == 0:
        return [], "not known: no matches"
    table = np.zeros((len(pair), len(looks)))
    table[np.arange(len(pair)), pair[:, 0]], table[np.arange(len(pair)), pair[:, 1]] = -1, 1
    stops = np.linalg.lstsq(table, difference, rcond=None)[0]
    matched = np.unique(pair)
    stops = stops - np.median(stops[matched])
    spread = float(stops[matched].std())
    jumps = worst_first(pair, common, STOPS_JUMP, fewest=1)
    off = tuple(names[i] for i in jumps)
    fact = f"{spread:.2f} stops (standard deviation), at most {float(common.max()):.2f} between two matched photos"
    if not off:
        return [], fact
    largest = max(jumps.values())
    says = f"{len(off)} of {len(matched)} photos are exposed unlike their neighbours, by up to {largest:.1f} stops"
    evidence = {"stops_std": round(spread, 4), "stops_jump": round(largest, 4), "photos": len(off)}
    remedy = "train with appearance codes (recipe wild), or with photos of one exposure and white balance"
    return [Finding("exposure", "doubtful", f"{says}: {some(off)}", remedy, evidence, off)], fact


def worst_first(
    pair: Int[np.ndarray, "p 2"], value: Float[np.ndarray, "p"], limit: float, fewest: int
) -> dict[int, float]:
    """Cameras of whose pairs the median value exceeds a limit, with that median: the worst is taken out first, since
    what it does to its partners goes with it. A camera is judged by at least `fewest` pairs."""
    found: dict[int, float] = {}
    left = np.isfinite(value)
    while left.any():
        medians = {}
        for camera in np.unique(pair[left]).tolist():
            own = value[left & (pair == camera).any(axis=1)]
            medians[camera] = float(np.median(own)) if len(own) >= fewest else 0.0
        camera = max(medians, key=lambda i: medians[i])
        if medians[camera] <= limit:
            break
        found[camera] = medians[camera]
        left &= ~(pair == camera).any(axis=1)
    return found


def _stops(looks: Sequence[Look], matches: Matches, side: int) -> Float[Tensor, "p k"]:
    """log2 of the brightness around each match, linear by the usual gamma; nan where it is too dark or too bright."""
    values = np.empty((len(matches), matches.pixel.shape[2]))
    for row, camera in enumerate(matches.pair[:, side].tolist()):
        look = looks[camera]
        height, width = look.grey.shape
        at = (matches.pixel[row, side].numpy() * (np.array([width, height]) / look.size)).astype(int)
        steps = np.arange(-WINDOW, WINDOW + 1)
        u = np.clip(at[:, 0, None, None] + steps[None, :], 0, width - 1)
        v = np.clip(at[:, 1, None, None] + steps[:, None], 0, height - 1)
        values[row] = look.grey[v, u].mean(axis=(1, 2))
    values = np.where((values > DARK) & (values < BRIGHT), values, np.nan)
    return torch.from_numpy(2.2 * np.log2(values / 255))
