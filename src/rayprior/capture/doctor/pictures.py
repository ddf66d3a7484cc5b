"""Checks of the photos alone: broken or missing files, blur, duplicates, masks. No pose is believed here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rayprior.capture.doctor.findings import Finding, some
from rayprior.errors import UserError
from rayprior.scenes.description import Description
from rayprior.scenes.formats.photos import exists, list_photos, read_mask, read_photo

Progress = Callable[[int, int], None]  # (done, of how many)

SIDE_PX = 640  # of the longer side of what is looked at
THUMB = 32  # side of the thumbnails that are compared with each other
GREY = 128  # behind what is transparent
BLUR_WINDOW = 9  # px of the blur that a blurred photo hardly feels
BLURRED, SPREADS = 0.18, 4.0  # above the set's median of `softness`: at least, and in robust standard deviations
TWINS = 2.0  # root mean square difference, in 8-bit steps, below which two photos are one
DUPLICATES = 0.05  # share of the photos from which on duplicates are more than a note
MISSING = 0.5  # share of listed photos without which the rest is no capture
BORDER, CENTRE = 0.04, 0.1  # of the shorter side: the frame and the middle of a mask
KEPT_LEAST = 0.005  # share of pixels below which a mask keeps nothing


@dataclass(frozen=True, eq=False)
class Look:
    """One photo as the checks see it.

    size    (width, height) of the file
    grey    longer side at most SIDE_PX; transparent parts are mid-grey
    thumb   THUMB x THUMB, area means of grey
    kept    what its mask keeps: shares of all pixels, of the border's, of the middle's; None without mask
    """

    size: tuple[int, int]
    grey: UInt8[np.ndarray, "h w"]
    thumb: Float[np.ndarray, "t t"]
    kept: tuple[float, float, float] | None


def look_at(description: Description, on_progress: Progress | None = None) -> tuple[dict[int, Look], list[Finding]]:
    """The photos that can be read, by their place in the description, and what is said of the others."""
    masks = description.mask_files
    there = [i for i, photo in enumerate(description.photos) if not isinstance(photo, Path) or exists(photo)]

    def look(i: int) -> Look | UserError:
        try:
            return _look(description.photos[i], masks[i])
        except UserError as error:
            return error

    seen: dict[int, Look] = {}
    broken: dict[str, str] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, (i, one) in enumerate(zip(there, pool.map(look, there)), start=1):
            if isinstance(one, Look):
                seen[i] = one
            else:
                broken[description.names[i]] = str(one)
            if on_progress is not None:
                on_progress(done, len(there))
    findings = _missing(description, set(there))
    if broken:
        says = f"{len(broken)} of {len(there)} photos or their masks can't be read: {next(iter(broken.values()))}"
        evidence = {"broken": len(broken), "photos": len(there)}
        findings.append(Finding("files", "unusable", says, "copy them again", evidence, tuple(broken)))
    return seen, findings


def _look(photo: Path | np.ndarray, mask_file: Path | None) -> Look:
    picture = read_photo(photo) if isinstance(photo, Path) else photo
    height, width = picture.shape[:2]
    shrink = min(1.0, SIDE_PX / max(width, height))
    image = Image.fromarray(np.ascontiguousarray(picture))
    if shrink < 1:
        image = image.resize((max(1, round(width * shrink)), max(1, round(height * shrink))), Image.Resampling.BOX)
    if image.mode == "RGBA":
        behind = Image.new("RGBA", image.size, (GREY, GREY, GREY, 255))
        image = Image.alpha_composite(behind, image)
    grey = image.convert("L")
    thumb = np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX), dtype=np.float64)
    return Look((width, height), np.asarray(grey), thumb, None if mask_file is None else _kept(read_mask(mask_file)))


# -- files -------------------------------------------------------------------------------------------------------------


def _missing(description: Description, there: set[int]) -> list[Finding]:
    names, total = description.names, len(description.names)
    missing = tuple(name for i, name in enumerate(names) if i not in there)
    findings = []
    if missing:
        share = len(missing) / total
        findings.append(
            Finding(
                "files",
                "unusable" if share > MISSING or total - len(missing) < 2 else "doubtful",
                f"{len(missing)} of {total} listed photos do not exist: {some(missing)}",
                "add them, or train without them with --skip-missing",
                {"missing": len(missing), "listed": total},
                missing,
            )
        )
    unused = _unregistered(description)
    if unused:
        found = len(unused) + len(there)
        findings.append(
            Finding(
                "registered",
                "doubtful" if len(unused) > found / 2 else "note",
                f"{len(unused)} of {found} photos in the folder have no camera: {some(unused)}",
                "estimate the cameras anew (rayprior capture), or go on with the others",
                {"unregistered": len(unused), "photos": found},
                tuple(unused),
            )
        )
    return findings


def _unregistered(description: Description) -> list[str]:
    """Photos beside the described ones that have no camera, for formats that list their photos one by one."""
    listed = {photo for photo in description.photos if isinstance(photo, Path)}
    if description.format not in ("nerfstudio", "colmap") or not listed:
        return []
    others = {mask for mask in description.mask_files if mask is not None}
    folders = {photo.parent for photo in listed} - {description.path, description.path.parent}
    names = {photo.stem for photo in listed}
    there = [photo for folder in sorted(folders) if folder.is_dir() for photo in list_photos(folder)]
    left = [p for p in there if p not in listed and p not in others and p.parent in folders]
    return [p.name for p in left if p.stem not in names and not _companion(p.stem, names)]


def _companion(stem: str, names: set[str]) -> bool:
    """Whether a picture is a map of a photo: r_0_depth_0001, r_0_normal, r_0.mask."""
    cut = [stem[:at] for at in range(len(stem)) if stem[at] in "_.-"]
    return any(part in names for part in cut) and any(word in stem for word in ("depth", "normal", "mask", "alpha"))


# -- blur --------------------------------------------------------------------------------------------------------------


def softness(grey: UInt8[np.ndarray, "h w"]) -> float:
    """How much of a photo's gradients outlives a further blur, 0 to 1: high where the photo is blurred already.

    After Crete et al. 2007 (The Blur Effect), with the larger of both directions.
    """
    picture = grey.astype(np.float32)
    kept = []
    for axis in (0, 1):
        if picture.shape[axis] <= BLUR_WINDOW:
            return 0.0
        summed = np.cumsum(picture, axis=axis)
        after, before = (np.take(summed, range(*part), axis=axis) for part in _ends(picture.shape[axis]))
        blurred = np.abs(np.diff((after - before) / BLUR_WINDOW, axis=axis)).sum()
        own = np.abs(np.diff(picture, axis=axis)).sum()
        kept.append(float(blurred / own) if own > 0 else 0.0)
    return max(kept)


def _ends(length: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (BLUR_WINDOW, length), (0, length - BLUR_WINDOW)


def check_blur(names: Sequence[str], looks: dict[int, Look]) -> tuple[list[Finding], str]:
    """Photos that are softer than the others of their set."""
    soft = {i: softness(look.grey) for i, look in looks.items()}
    usual = float(np.median(list(soft.values())))
    spread = 1.4826 * float(np.median([abs(value - usual) for value in soft.values()]))
    limit = usual + max(BLURRED, SPREADS * spread)
    blurred = sorted((i for i in soft if soft[i] > limit), key=lambda i: -soft[i])
    fact = f"softness {usual:.2f} (median), {max(soft.values()):.2f} (softest)"
    if not blurred:
        return [], fact
    named = tuple(names[i] for i in blurred)
    finding = Finding(
        "blur",
        "doubtful",
        f"{len(blurred)} of {len(soft)} photos are blurred: {some(named)}; {soft[blurred[0]]:.2f} of the gradients of"
        f" {named[0]} outlive a further blur, {usual:.2f} of a usual photo's",
        "take them out; sharp neighbours tell the same",
        {"blurred": len(blurred), "softest": round(soft[blurred[0]], 4), "median": round(usual, 4)},
        named,
    )
    return [finding], fact


# -- duplicates --------------------------------------------------------------------------------------------------------


def check_duplicates(names: Sequence[str], looks: dict[int, Look]) -> list[Finding]:
    """Photos that are there twice: they add nothing, and on both sides of a split they make tests too easy."""
    order = sorted(looks)
    thumbs = np.stack([looks[i].thumb.ravel() for i in order])
    square = (thumbs**2).mean(axis=1)
    apart = square[:, None] + square[None] - 2 * (thumbs @ thumbs.T) / thumbs.shape[1]
    twin: dict[int, int] = {}
    for a, b in np.argwhere(np.triu(apart < TWINS**2, 1)).tolist():
        first, second = order[a], order[b]
        if second not in twin and _same(looks[first].grey, looks[second].grey):
            twin[second] = twin.get(first, first)
    if not twin:
        return []
    pairs = [f"{names[second]} = {names[first]}" for second, first in twin.items()]
    finding = Finding(
        "duplicates",
        "doubtful" if len(twin) >= max(DUPLICATES * len(looks), 2) else "note",
        f"{len(twin)} of {len(looks)} photos are there twice: {some(pairs)}",
        "keep one of each",
        {"duplicates": len(twin), "photos": len(looks)},
        tuple(names[second] for second in twin),
    )
    return [finding]


def _same(a: UInt8[np.ndarray, "h w"], b: UInt8[np.ndarray, "h w"]) -> bool:
    return a.shape == b.shape and float(np.sqrt(((a.astype(np.float32) - b) ** 2).mean())) < TWINS


# -- masks -------------------------------------------------------------------------------------------------------------


def _kept(mask: np.ndarray) -> tuple[float, float, float]:
    """Shares of True: everywhere, in a frame along the border, in the middle."""
    height, width = mask.shape
    edge, half = max(1, round(BORDER * min(mask.shape))), max(1, round(CENTRE * min(mask.shape)))
    frame = np.ones_like(mask)
    frame[edge : height - edge, edge : width - edge] = False
    middle = mask[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half]
    return float(mask.mean()), float(mask[frame].mean()), float(middle.mean())


def check_masks(names: Sequence[str], looks: dict[int, Look]) -> tuple[list[Finding], str]:
    """Masks that keep nothing, and masks that keep the surroundings instead of what stands in the middle."""
    kept = {i: look.kept for i, look in looks.items() if look.kept is not None}
    if not kept:
        return [], "none"
    whole, border, middle = np.array(list(kept.values())).T
    fact = f"{len(kept)} of {len(looks)} photos, {np.median(whole):.0%} of their pixels kept (white = keep)"
    numbers = {"kept": whole.mean(), "kept_border": border.mean(), "kept_middle": middle.mean()}
    evidence = {key: round(float(value), 4) for key, value in numbers.items()}
    empty = tuple(names[i] for i, shares in kept.items() if shares[0] < KEPT_LEAST)
    if len(empty) > len(kept) / 2:
        says = f"the masks of {len(empty)} of {len(kept)} photos keep less than {KEPT_LEAST:.1%} of their pixels"
        return [Finding("masks", "unusable", says, "white means keep: invert them, or make them anew", evidence)], fact
    if np.median(border) > 0.6 and np.median(middle) < 0.35:
        says = (
            f"the masks look inverted: they keep {np.median(border):.0%} of the photos' borders and"
            f" {np.median(middle):.0%} of their middles (medians); white means keep"
        )
        return [Finding("masks", "unusable", says, "invert them: black and white are swapped", evidence)], fact
    if not empty:
        return [], fact
    says = f"the masks of {len(empty)} of {len(kept)} photos keep nothing: {some(empty)}"
    remedy = "make these masks anew, or take the photos out"
    return [Finding("masks", "doubtful", says, remedy, evidence, empty)], fact
