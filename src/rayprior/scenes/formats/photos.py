"""Folders of pictures, and one picture: where photos lie, what they are called, how a file becomes an array.

Every format reads pictures by these rules, so that a missing or broken file gives the same message everywhere.
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from rayprior.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MASK_FOLDERS = ("masks", "mask")
# what Pillow raises for files that are cut short, hold something else, or claim an absurd size
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError, Image.DecompressionBombError)


# -- folders and names -------------------------------------------------------------------------------------------------


def photo_folder(root: Path) -> Path:
    """The folder of photos: `images`, else the single `images_N`, `image` or `rgb`. Raises UserError otherwise."""
    if (root / "images").is_dir():
        return root / "images"
    found = [p for p in sorted(root.iterdir()) if p.is_dir() and re.fullmatch(r"images_\d+|image|rgb", p.name)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(p.name for p in found)
        raise UserError(f"{root}: photos could be in any of {names}; rename the one to use to 'images'")
    raise UserError(f"{root}: no folder of photos; expected images, or a single images_N, image or rgb. Add it")


def list_photos(folder: Path) -> list[Path]:
    """All pictures of a folder and the folders in it, by name; hidden files and depth maps left out."""
    files = [
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]
    trunks = {p.with_suffix("") for p in files}
    pictures = [p for p in files if not _is_depth(p, folder, trunks)]
    return sorted(pictures, key=lambda p: p.relative_to(folder).as_posix())


def _is_depth(path: Path, folder: Path, trunks: set[Path]) -> bool:
    """Whether this is a depth map beside a photo: NAME_depth.png of NAME.jpg, or in a folder `depth`."""
    beside = path.stem.endswith("_depth") and path.parent / path.stem.removesuffix("_depth") in trunks
    return beside or "depth" in path.relative_to(folder).parts[:-1]


def names_of(paths: Sequence[str]) -> tuple[str, ...]:
    """Names of frames from their relative paths: stems, or paths without suffix (then with) where those repeat."""
    clean = [os.path.normpath(path).replace("\\", "/") for path in paths]
    trunks = [os.path.splitext(path)[0] for path in clean]
    stems = [trunk.rsplit("/", 1)[-1] for trunk in trunks]
    if len(set(stems)) == len(stems):
        return tuple(stems)
    return tuple(trunks if len(set(trunks)) == len(trunks) else clean)


def inside(root: Path, listed: str | Path, source: Path) -> Path:
    """The file that `source` lists: text relative to the scene's folder, or a Path that starts with it.

    Raises UserError if it leaves that folder. Links that somebody put there are followed; a written path is never
    trusted to climb out.
    """
    text = str(listed)
    if not text.strip() or "\0" in text:
        raise UserError(f"{source}: lists {text!r} where the path of a file is expected; write it relative to {root}")
    path = os.path.normpath(listed if isinstance(listed, Path) else os.path.join(root, text.replace("\\", "/")))
    folder = os.path.normpath(root)
    if os.path.commonpath([os.path.abspath(path), os.path.abspath(folder)]) != os.path.abspath(folder):
        raise UserError(
            f"{source}: {text!r} leaves the scene's folder {root}; files of a scene lie in its folder:"
            " copy them there and list them relative to it"
        )
    return Path(path)


def exists(path: Path) -> bool:
    """Whether there is such a file; names that no file system takes are simply not there."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def photo_listed(root: Path, listed: str, source: Path) -> Path:
    """The photo that a JSON lists, its suffix often left out: as written, else with .png, .jpg, ..."""
    path = inside(root, listed, source)
    if path.suffix.lower() in SUFFIXES or exists(path):
        return path
    tried = [path.parent / (path.name + suffix) for suffix in SUFFIXES]
    return next((p for p in tried if exists(p)), tried[0])


def partners(wanted: Sequence[str], there: Sequence[str]) -> tuple[int | None, ...]:
    """Which of the files `there` belongs to each of `wanted`, by its place in the list; None: none does.

    All are paths, each list relative to its own folder. It is the file of the same path, suffix aside or one suffix
    more (a.png, else a.jpg.png, of a.jpg); else the one of the same name in whatever folder. A name that two files of
    either list share decides nothing, and no file is given to two.
    """
    found: list[int | None] = [None] * len(wanted)
    given: set[int] = set()
    for key, key_there in ((str, str), (_trunk, _trunk), (str, _trunk), (_stem, _stem), (os.path.basename, _stem)):
        asked, offered = Counter(map(key, wanted)), Counter(map(key_there, there))
        place = {key_there(path): i for i, path in enumerate(there)}
        for i, name in enumerate(map(key, wanted)):
            if found[i] is None and asked[name] == offered[name] == 1 and place[name] not in given:
                found[i] = place[name]
                given.add(place[name])
    return tuple(found)


def _trunk(path: str) -> str:
    return os.path.splitext(path)[0]


def _stem(path: str) -> str:
    return os.path.basename(_trunk(path))


def masks_beside(root: Path, photos: Sequence[Path]) -> tuple[tuple[Path | None, ...] | None, tuple[str, ...]]:
    """(mask of each photo or None, notes): `masks/` or `mask/` with a picture of the photo's stem, or name, + .png.

    In the folder of the same name as the photo's own, or by a name that only one mask and one photo have.
    """
    folder = next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        return None, ()
    found = list_photos(folder)
    if not found:
        return None, (f"{folder.name} holds no pictures: no masks",)
    top = Path(os.path.commonpath([photo.parent for photo in photos]))
    places = partners(
        [photo.relative_to(top).as_posix() for photo in photos], [mask.relative_to(folder).as_posix() for mask in found]
    )
    masks = tuple(None if place is None else found[place] for place in places)
    count = sum(mask is not None for mask in masks)
    if count == 0:
        raise UserError(
            f"{folder}: no mask has the name of a photo (expected {photos[0].stem}.png, ...); rename them, or move the"
            " folder away: to use none, or to let `rayprior masks SCENE --from` it sort them"
        )
    without = "" if count == len(masks) else f"; {len(masks) - count} photos have none and are kept whole"
    return masks, (f"{count} masks in {folder.name} (white = keep){without}",)


# -- one picture -------------------------------------------------------------------------------------------------------


def photo_size(path: Path) -> tuple[int, int]:
    """(width, height) as the file's header has it."""
    with _opened(path) as image:
        return image.size


def read_photo(path: Path) -> UInt8[np.ndarray, "h w c"]:
    """One photograph: 3 channels, or 4 with straight alpha. Raises UserError for a missing, empty or broken file."""
    with _opened(path) as image:
        try:
            return np.asarray(as_photograph(image, path))
        except BROKEN as error:
            raise _broken(path, error) from None


def as_photograph(image: Image.Image, path: Path) -> Image.Image:
    """A picture of whatever mode as RGB, or RGBA where it has alpha, 8 bits each. UserError for 32 bits a pixel."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_from_deep_grey(image, path))
    alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    wanted = "RGBA" if alpha else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def read_mask(path: Path | np.ndarray) -> Bool[np.ndarray, "h w"]:
    """True (white) = keep. A mask that holds only 0 and 1 is read as such; one that is no file is as it is."""
    if isinstance(path, np.ndarray):
        return path
    grey = read_grey(path)
    if grey.dtype == np.uint16:
        return grey > 32767
    return grey > (0 if grey.max(initial=0) == 1 else 127)


def read_grey(path: Path) -> np.ndarray:
    """A picture of one channel as it is stored, (h, w) uint8 or uint16; of several channels the luminance."""
    with _opened(path) as image:
        try:
            if image.mode.startswith("I"):
                return np.asarray(image).astype(np.uint16)
            return np.asarray(image if image.mode == "L" else image.convert("RGB").convert("L"))
        except BROKEN as error:
            raise _broken(path, error) from None


def _opened(path: Path) -> Image.Image:
    if not exists(path):
        raise UserError(f"{path}: no such picture; copy it there, or take it out of the description")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (zero bytes); copy it again, or remove the frame")
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        raise UserError(
            f"{path}: not a picture that can be read; expected {', '.join(SUFFIXES)}. Copy it again"
        ) from None
    except BROKEN as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path}: the picture is cut short or broken ({error}); copy it again, or remove the frame")


def _from_deep_grey(image: Image.Image, path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """16-bit grey -> 8 bits in three equal channels."""
    if image.mode == "F" or image.mode == "I":
        raise UserError(f"{path}: a {image.mode} picture (32 bits a pixel) is no photograph; save it with 8 or 16 bits")
    grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
