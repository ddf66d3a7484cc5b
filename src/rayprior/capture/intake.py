"""Photos as they come: which can be used, upright copies, what EXIF says of the lens, how sharp and bright they are.

Structure from motion wants whole photographs. What can't work is said here, before an hour is spent on it.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import ExifTags, Image, ImageOps

from rayprior.capture.features import Lens
from rayprior.errors import UserError
from rayprior.files import remove, write_atomically
from rayprior.scenes.formats.photos import (
    BROKEN,
    MASK_FOLDERS,
    SUFFIXES,
    as_photograph,
    list_photos,
    partners,
    read_mask,
)

MASK_LIST = "masks.json"  # in each folder of masks that `rayprior masks` made
HEIC = (".heic", ".heif", ".hif", ".avif")
AS_THEY_ARE = ("JPEG", "MPO", "PNG", "BMP", "TIFF")  # formats that COLMAP reads as we do; others become PNG
MODES = ("L", "RGB", "RGBA")
SMALL_PX = 640  # sharpness and brightness are measured at this longest side, so that cameras can be compared
DIAGONAL_OF_FILM_MM = hypot(36, 24)
SAME_SHAPE = 0.02  # difference of longer over shorter side
BLACK = 8  # a channel up to this is black, of 255
CUT_OUT_BORDER, CUT_OUT_SHARE, CUT_OUT_PHOTOS = 0.95, 0.3, 0.8
FEWEST_FOR_TANGENTIAL = 20  # photos of one camera; of fewer, tangential terms take the place of a turned camera
LENSES = {  # COLMAP's models that `scenes` reads: how many focal lengths, how many terms of distortion
    "SIMPLE_PINHOLE": (1, 0),
    "PINHOLE": (2, 0),
    "SIMPLE_RADIAL": (1, 1),
    "RADIAL": (1, 2),
    "OPENCV": (2, 4),
    "SIMPLE_RADIAL_FISHEYE": (1, 1),
    "RADIAL_FISHEYE": (1, 2),
    "OPENCV_FISHEYE": (2, 4),
}
FEWEST_PHOTOS = 3
SHOWN = 5


@dataclass(frozen=True)
class Photo:
    """One photograph, upright.

    name        where it lies in the scene's `images`
    source      the file that it comes from
    size        (width, height), upright
    upright     as it was; False: turned by its EXIF orientation
    camera      make and model by EXIF, or ""
    focal_px    by EXIF, or None
    sharpness   standard deviation of the Laplacian over that of the brightness; of a blurred photo it is small
    brightness  mean, 0 to 1
    clipped     share of pixels that are black or white
    cut_out     its border and much of the rest are black or transparent
    digest      of the file
    thumbnail   digest of a tiny grey version
    """

    name: str
    source: str
    size: tuple[int, int]
    upright: bool
    camera: str
    focal_px: float | None
    sharpness: float
    brightness: float
    clipped: float
    cut_out: bool
    digest: str
    thumbnail: str

    @property
    def given_name(self) -> str:
        """Its name as it came, before it became a PNG."""
        return self.name if Path(self.source).name == Path(self.name).name else self.name.removesuffix(".png")


def belonging(photos: Sequence[Photo], there: Sequence[str]) -> list[int | None]:
    """Which of the files `there` (masks, posed photos) belongs to each photo, by the name that it came with or has."""
    given = partners([photo.given_name for photo in photos], there)
    own = partners([photo.name for photo in photos], there)
    return [now if before is None else before for before, now in zip(given, own)]


def find_photos(folder: Path) -> list[Path]:
    """The photos of a folder and the folders in it, or of its folder `images`; masks and their overlays left out.

    Raises UserError where there are none, with a word on HEIC, and for names that no text can hold.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of photos, or a video")
    root = photo_root(folder)
    photos = [p for p in list_photos(root) if not _is_mask(p, root) and not _is_overlay(p)]
    unread = [p for p in root.rglob("*") if p.suffix.lower() in HEIC]
    if not photos and unread:
        raise UserError(
            f"{folder}: its {len(unread)} photos are {unread[0].suffix[1:].upper()}, which is not read; convert them to"
            " JPEG first (heif-convert, ImageMagick; on an iPhone: Settings > Camera > Formats > Most Compatible)"
        )
    if not photos:
        raise UserError(f"{folder}: no photos here; expected files named {', '.join('*' + s for s in SUFFIXES)}")
    for photo in photos:
        name = os.fsencode(photo).decode("utf-8", "backslashreplace")
        if name != str(photo):
            raise UserError(f"{name}: the name is not UTF-8, and can't be written into the scene; rename it")
    return photos


def _is_mask(picture: Path, root: Path) -> bool:
    folders = [folder for folder in picture.parents if folder != root and folder.is_relative_to(root)]
    return any(folder.name in MASK_FOLDERS or (folder / MASK_LIST).is_file() for folder in folders)


def _is_overlay(picture: Path) -> bool:
    """Whether it is what `rayprior masks` draws beside the folder of masks."""
    return picture.suffix == ".png" and (picture.with_suffix("") / MASK_LIST).is_file()


def unread_kinds(folder: Path) -> list[str]:
    """What lies among the photos and is not read, in words."""
    unread = Counter(p.suffix.lower()[1:].upper() for p in photo_root(folder).rglob("*") if p.suffix.lower() in HEIC)
    return [f"{count} {kind} photos are not read; convert them to JPEG to have them" for kind, count in unread.items()]


def photo_root(folder: Path) -> Path:
    """Where names begin: the folder, or its `images` where that has all the photos."""
    images = folder / "images"
    direct = any(p.suffix.lower() in SUFFIXES and not _is_overlay(p) for p in folder.iterdir() if p.is_file())
    return images if images.is_dir() and not direct else folder


def take_in(
    photos: Sequence[Path],
    root: Path,
    out: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Photo], dict[str, str]]:
    """Upright photos in `out`, and why others were left out (name -> reason).

    A photo that is upright already is linked or copied as it is; one that its EXIF turns is written upright, with the
    rest of its EXIF. Broken files and exact copies are left out.
    """
    taken: list[Photo] = []
    left_out: dict[str, str] = {}
    seen: dict[str, str] = {}
    called = {source.relative_to(root).as_posix() for source in photos}
    for i, source in enumerate(photos):
        name = source.relative_to(root).as_posix()
        try:
            photo, rewritten = _look_at(source, name)
        except (*BROKEN, UserError) as error:
            left_out[name] = f"can't be read: {error}"
        else:
            if photo.digest in seen:
                left_out[name] = f"the same file as {seen[photo.digest]}"
            elif photo.name != name and photo.name in called:
                left_out[name] = f"as a PNG it would be called {photo.name}, as another photo is; rename it"
            else:
                seen[photo.digest] = name
                taken.append(photo)
                if rewritten is None:
                    link_or_copy(source, out / photo.name)
                else:
                    write_atomically(out / photo.name, lambda file, content=rewritten: file.write(content))
        if on_progress is not None:
            on_progress(i + 1, len(photos))
    return taken, left_out


def _look_at(source: Path, name: str) -> tuple[Photo, bytes | None]:
    """What is known of a photo, and its file as it is to be written; None: as it is. Writes nothing: what is raised is
    of the photo."""
    content = source.read_bytes()
    if not content:
        raise OSError("the file is empty")
    with Image.open(source) as image:
        kind, exif = image.format or "", image.getexif()
        turned = exif.get(ExifTags.Base.Orientation, 1) not in (0, 1)
        upright = ImageOps.exif_transpose(image)
        upright.load()
    keep = kind in AS_THEY_ARE and upright.mode in MODES
    rewritten = None
    if turned or not keep:
        name = name if keep or Path(name).suffix.lower() == ".png" else f"{name}.png"
        facts = upright.getexif()
        upright = upright if keep else as_photograph(upright, source)
        form = ("JPEG" if kind == "MPO" else kind) if keep else "PNG"
        options = {"quality": 97, "subsampling": 0} if form == "JPEG" else {}
        file = io.BytesIO()
        upright.save(file, form, exif=facts, **options)
        rewritten = file.getvalue()
    small = upright.copy()
    small.thumbnail((SMALL_PX, SMALL_PX), Image.Resampling.BOX)
    rgba = np.asarray(small.convert("RGBA"))
    grey = np.asarray(small.convert("L"), dtype=np.float64)
    photo = Photo(
        name=name,
        source=str(source),
        size=upright.size,
        upright=not turned,
        camera=_camera_of_exif(exif),
        focal_px=focal_of_exif(exif, upright.size),
        sharpness=round(sharpness(grey), 4),
        brightness=round(float(grey.mean()) / 255, 4),
        clipped=round(float(((grey <= 2) | (grey >= 253)).mean()), 4),
        cut_out=_is_cut_out(rgba),
        digest=hashlib.sha256(content).hexdigest(),
        thumbnail=hashlib.sha256(small.convert("L").resize((16, 16)).tobytes()).hexdigest(),
    )
    return photo, rewritten


def _camera_of_exif(exif: Image.Exif) -> str:
    words = (str(exif.get(tag, "")).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    return " ".join(words).strip()


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where there can't be one. Links of the source are followed, folders made as needed.

    Raises UserError where the target can't be written.
    """
    remove(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source.resolve(), target)
    except OSError:
        with source.open("rb") as content:
            write_atomically(target, lambda file: shutil.copyfileobj(content, file))


def sharpness(grey: Float[np.ndarray, "h w"]) -> float:
    """Standard deviation of the Laplacian over that of the picture; 0 of a picture of one grey."""
    if min(grey.shape) < 3:
        return 0.0
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    deviation = float(grey.std())
    return float((around - 4 * grey[1:-1, 1:-1]).std()) / deviation if deviation > 0 else 0.0


def focal_of_exif(exif: Image.Exif, size: tuple[int, int]) -> float | None:
    """The focal length in pixels that EXIF states, or None.

    By the equivalent on 35 mm film (diagonals compared), else by the focal length and the resolution of the sensor. Not
    believed where the picture's shape is not the one that the camera made: it was cropped.
    """
    details, tags = exif.get_ifd(ExifTags.IFD.Exif), ExifTags.Base
    longer, shorter = max(size), min(size)
    made = [_number(details.get(tag)) for tag in (tags.ExifImageWidth, tags.ExifImageHeight)]
    sides = [side for side in made if side]
    if len(sides) == 2 and abs(max(sides) / min(sides) - longer / shorter) > SAME_SHAPE:
        return None
    equivalent = _number(details.get(tags.FocalLengthIn35mmFilm))
    if equivalent:
        return equivalent * hypot(*size) / DIAGONAL_OF_FILM_MM
    focal, resolution = _number(details.get(tags.FocalLength)), _number(details.get(tags.FocalPlaneXResolution))
    unit_mm = {2: 25.4, 3: 10.0, 4: 1.0}.get(details.get(tags.FocalPlaneResolutionUnit, 2))
    if focal and resolution and unit_mm and len(sides) == 2:
        return focal * resolution / unit_mm * longer / max(sides)
    return None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def _is_cut_out(rgba: np.ndarray) -> bool:
    """Whether nothing but black, or nothing at all, surrounds what is shown."""
    none = (rgba[:, :, :3].max(axis=2) <= BLACK) | (rgba[:, :, 3] == 0)
    border = np.concatenate([none[0], none[-1], none[:, 0], none[:, -1]])
    return bool(border.mean() > CUT_OUT_BORDER and none.mean() > CUT_OUT_SHARE)


# -- what can't work ---------------------------------------------------------------------------------------------------


def refuse_hopeless(
    photos: Sequence[Photo], left_out: Mapping[str, str], folder: Path, *, posed: bool, cut_out: bool
) -> None:
    """Raise UserError for sets that no structure from motion can place.

    posed    poses are known: two photos are enough
    cut_out  objects on black are meant to be so (a turntable)
    """
    fewest = 2 if posed else FEWEST_PHOTOS
    if len(photos) < fewest:
        reasons = "".join(f"; {name}: {why}" for name, why in list(left_out.items())[:SHOWN])
        more = "" if len(left_out) <= SHOWN else f"; and {len(left_out) - SHOWN} more"
        if len(photos) == 1 and len(left_out) > 1 and all(why.startswith("the same") for why in left_out.values()):
            raise UserError(f"{folder}: all {1 + len(left_out)} photos are the same; take some from other places")
        raise UserError(
            f"{folder}: {len(photos)} photos that can be used; expected at least {fewest}, better 20 or more, taken"
            f" from different places around what they show{reasons}{more}"
        )
    if len({(p.thumbnail, p.size) for p in photos}) == 1:
        raise UserError(
            f"{folder}: all {len(photos)} photos show the same picture; take some from other places: depth can be told"
            " from differences alone"
        )
    black = [p.name for p in photos if p.cut_out]
    if not (posed or cut_out) and len(black) >= CUT_OUT_PHOTOS * len(photos):
        raise UserError(
            f"{folder}: {len(black)} of {len(photos)} photos show an object cut out on black ({', '.join(black[:3])},"
            " ...). Cameras are found by what surrounds the object: give the original, whole photographs, and say what"
            " to keep of them with --masks DIR (white = keep). If the object turned before a fixed camera: --turntable"
        )


# -- cameras -----------------------------------------------------------------------------------------------------------


def cameras_of(photos: Sequence[Photo], rule: str, model: str | None) -> list[tuple[Lens, list[str]]]:
    """Which photos share a camera, and what its lens starts from.

    rule   'one': all of one size; 'each': every photo its own; 'auto': those of equal size, make, model and focal
           length by EXIF; without EXIF, those of equal size if there are at most two sizes, else every photo its own
    model  a COLMAP camera model; None: OPENCV for a camera of 20 photos or more, else SIMPLE_RADIAL
    """
    silent = [p for p in photos if not p.camera and p.focal_px is None]
    alike = len({p.size for p in silent}) <= 2
    groups: dict[tuple[Any, ...], list[Photo]] = {}
    for photo in photos:
        key: tuple[Any, ...] = (photo.size,)
        if rule == "each" or (rule == "auto" and photo in silent and not alike):
            key = (photo.size, photo.name)
        elif rule == "auto":
            key = (photo.size, photo.camera, photo.focal_px and round(photo.focal_px, 1))
        groups.setdefault(key, []).append(photo)
    return [(_lens(group, model), [p.name for p in group]) for group in groups.values()]


def _lens(group: Sequence[Photo], model: str | None) -> Lens:
    model = model or ("OPENCV" if len(group) >= FEWEST_FOR_TANGENTIAL else "SIMPLE_RADIAL")
    (width, height), focal = group[0].size, group[0].focal_px
    if focal is None:
        return Lens(model)
    focals, terms = LENSES[model]
    return Lens(model, (*[focal] * focals, width / 2, height / 2, *[0.0] * terms))


# -- masks -------------------------------------------------------------------------------------------------------------


def take_masks(folder: Path, photos: Sequence[Photo], out: Path) -> list[str]:
    """Copy the masks of photos to `out/NAME.png`, upright as the photos are; the names of the photos that have none.

    Masks have the name of their photo, with or without its suffix, and .png, in folders as the photos are: see
    `partners`. Raises UserError where no mask has the name of a photo, and for one of another size.
    """
    if not folder.is_dir():
        raise UserError(f"--masks {folder}: no such folder; expected one with a PNG for each photo (white = keep)")
    found = list_photos(folder)
    names = [mask.relative_to(folder).as_posix() for mask in found]
    without = []
    for photo, place in zip(photos, belonging(photos, names)):
        if place is None:
            without.append(photo.name)
            continue
        mask = found[place]
        keep = Image.fromarray(np.where(read_mask(mask), 255, 0).astype(np.uint8))
        if not photo.upright and keep.size != photo.size:
            with Image.open(photo.source) as image:
                keep.getexif()[ExifTags.Base.Orientation] = image.getexif()[ExifTags.Base.Orientation]
            keep = ImageOps.exif_transpose(keep)
        if keep.size != photo.size:
            wide, high = photo.size
            raise UserError(
                f"{mask}: {keep.size[0]}x{keep.size[1]} px, its photo {photo.name} {wide}x{high}; make the masks from"
                " the whole photographs, at their size"
            )
        target = out / f"{photo.name}.png"
        write_atomically(target, lambda file, keep=keep: keep.save(file, "PNG"))
    if len(without) == len(photos):
        here = ", ".join(name.rpartition(".")[0] for name in names[:3]) or "no picture"
        raise UserError(
            f"--masks {folder}: no mask has the name of a photo (here: {here};"
            f" expected {Path(photos[0].name).stem}.png, ...); rename them"
        )
    return without
