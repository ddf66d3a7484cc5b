"""Masks of photographs, from files or by a colour: checked, written where readers find them, shown over the photos.

White (255) means keep, in every file that is written. A mask is in the pixels of its photo as the reader sees them: as
the file has them in a capture, upright (by EXIF) in a plain folder of photos.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageOps

from rayprior.capture.intake import MASK_LIST, find_photos, photo_root
from rayprior.errors import UserError
from rayprior.files import write_atomically, write_json
from rayprior.plain import Reader, json_text, parse_json, to_plain
from rayprior.scenes.formats import FORMATS
from rayprior.scenes.formats.photos import list_photos, names_of, read_grey, read_mask, read_photo
from rayprior.scenes.inspect import DROPPED
from rayprior.scenes.open import EMBEDDED, describe

FOLDER, FILE = "masks", MASK_LIST
TOLERANCE = 24  # of a colour key, in 8-bit steps
GREY_SHARE = 0.2  # a mask with more of its pixels neither black nor white is none
RIM, MIDDLE = 0.05, 0.5  # border: a ring of this share of the shorter side; centre: a box of this share of both sides
SAVE_SECONDS = 2.0
BEGUN = "not made yet"
SHOWN = 5  # names in a message
TILE, COLUMNS, MOST_TILES = 200, 8, 64  # of the sheet, px
ORIENTATION = 274  # EXIF

Picture = UInt8[np.ndarray, "h w c"]
Mask = Bool[np.ndarray, "h w"]


# -- photos ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photos:
    """The photographs that get masks.

    files   one a photo
    names   of their masks, without '.png': the photos' stems, or their paths where stems repeat
    root    the folder whose `masks` the reader looks into
    scene   they are a capture's; else a plain folder of photos without cameras
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    root: Path
    scene: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """What people call the photos: their names with suffix, and folder where names repeat."""
        return tuple((Path(n).parent / f.name).as_posix() for n, f in zip(self.names, self.files))

    def read(self, index: int) -> Picture:
        """One photo as its reader sees it: upright where there is no capture yet."""
        picture = read_photo(self.files[index])
        if self.scene:
            return picture
        with Image.open(self.files[index]) as image:
            turned = image.getexif().get(ORIENTATION, 1) != 1
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB")) if turned else picture


def photos_of(path: str | Path) -> Photos:
    """The photos of a capture (every format that keeps them as files), or of a plain folder.

    Raises UserError where there are none.
    """
    if str(path).startswith(EMBEDDED):
        raise UserError(f"{path}: an embedded scene has no photo files; its pictures have alpha and need no masks")
    path = Path(path)
    scene = path.is_file() or (path.is_dir() and any(kind.present(path) for kind in FORMATS.values()))
    if scene:
        found, _ = describe(path)
        files = tuple(photo for photo in found.photos if isinstance(photo, Path))
        if not files:
            raise UserError(f"{path}: a capture of format {found.format} holds its pictures itself; it takes no masks")
        root = path.parent if path.is_file() else path
    else:
        files, folder = tuple(find_photos(path)), photo_root(path)
        root = (folder if folder.name not in ("", "..") else folder.resolve()).parent
    return Photos(files, _mask_names(files), root, scene)


def _mask_names(files: Sequence[Path]) -> tuple[str, ...]:
    folder = Path(os.path.commonpath([file.parent for file in files]))
    return names_of([file.relative_to(folder).as_posix() for file in files])


# -- where masks come from ---------------------------------------------------------------------------------------------


class MaskSource(ABC):
    """A way to make masks."""

    @abstractmethod
    def settings(self, index: int) -> Mapping[str, Any]:
        """All that decides the mask of photo `index` beside its pixels, as plain JSON values."""

    @abstractmethod
    def make(self, index: int, picture: Picture) -> tuple[Mask | None, str]:
        """The mask, True = keep, in the picture's size (None: there is none), and in words how it was made."""


@dataclass(frozen=True)
class ColourKey(MaskSource):
    """What differs from a colour by more than `tolerance` (8-bit steps, the largest of the channels) is kept.

    Specks of single pixels are removed by a median of 3x3. Transparent pixels are not kept.
    """

    colour: tuple[int, int, int]
    tolerance: int = TOLERANCE

    def settings(self, index: int) -> Mapping[str, Any]:
        return {"key": _hex(self.colour), "tolerance": self.tolerance}

    def make(self, index: int, picture: Picture) -> tuple[Mask, str]:
        steps = np.abs(picture[:, :, :3].astype(np.int16) - np.array(self.colour, np.int16)).max(axis=2)
        differs = _black_and_white(steps > self.tolerance).filter(ImageFilter.MedianFilter(3))
        mask = np.asarray(differs) > 127
        if picture.shape[2] == 4:
            mask = mask & (picture[:, :, 3] > 127)
        how = f"colour key {_hex(self.colour)}, tolerance {self.tolerance}"
        if mask.all():
            rim = picture[_border(mask)][:, :3]
            how += f": no pixel has it; the border's median colour is {_hex(np.median(rim, axis=0).astype(int))}"
        return mask, how


def colour_of(text: str) -> tuple[int, int, int]:
    """'#00ff00', '00ff00' (a shell takes # for a comment), '#0f0' or a name. Raises UserError."""
    bare = re.fullmatch(r"[0-9a-fA-F]{6}|[0-9a-fA-F]{3}", text)
    try:
        red, green, blue = ImageColor.getrgb(f"#{text}" if bare else text)[:3]
    except ValueError:
        raise UserError(f"--key {text}: no colour; expected '#rrggbb' (in quotes) or a name such as white") from None
    return red, green, blue


@dataclass(frozen=True)
class FromFiles(MaskSource):
    """Masks that somebody made: black and white, or cut-outs with alpha.

    files   one a photo; None: there is none, and the photo stays whole
    invert  black means keep in the files
    notes   what there is to say of the folder
    """

    files: tuple[Path | None, ...]
    invert: bool = False
    notes: tuple[str, ...] = ()

    def settings(self, index: int) -> Mapping[str, Any]:
        file = self.files[index]
        return {"file": None if file is None else digest_of(file), "invert": self.invert}

    def make(self, index: int, picture: Picture) -> tuple[Mask | None, str]:
        file = self.files[index]
        if file is None:
            return None, "no mask has its name"
        mask, how = _read(file)
        if self.invert:
            mask, how = ~mask, f"{how}, inverted"
        size, wanted = mask.shape, picture.shape[:2]
        if size == wanted:
            return mask, how
        if abs(size[0] * wanted[1] / size[1] - wanted[0]) > max(1.0, wanted[1] / size[1]):
            turned = " It seems turned by 90 degrees." if size[::-1] == wanted else ""
            raise UserError(
                f"{file}: the mask is {size[1]}x{size[0]}, its photo {wanted[1]}x{wanted[0]};{turned} Expected one"
                " shape: make the mask from this photo, uncut"
            )
        scaled = _black_and_white(mask).resize((wanted[1], wanted[0]), Image.Resampling.BOX)
        return np.asarray(scaled) > 127, f"{how}, scaled from {size[1]}x{size[0]}"


def masks_in(folder: Path, photos: Photos, invert: bool = False) -> FromFiles:
    """The masks of a folder, by the photo's name with or without its suffix; else with a prefix or an ending that all
    masks share.

    Raises UserError where there are none, or none has the name of a photo.
    """
    if not folder.is_dir():
        raise UserError(f"--from {folder}: no such folder; expected a picture for each photo, white = keep")
    found = list_photos(folder)
    if not found:
        raise UserError(f"--from {folder}: no pictures; expected {photos.names[0]}.png, ..., white = keep")
    by_name = {file.relative_to(folder).with_suffix("").as_posix(): file for file in found}
    if len(by_name) < len(found):
        twice = next(file for file in found if file not in by_name.values())
        raise UserError(f"{twice}: the folder has two masks of this name; keep one of them")
    files = tuple(by_name.get(name, by_name.get(label)) for name, label in zip(photos.names, photos.labels))
    notes = []
    if not any(files):
        affix = _affix(by_name, photos.names)
        if affix is None:
            raise UserError(
                f"--from {folder}: no mask has the name of a photo: masks are called {_some(list(by_name))}, photos"
                f" {_some(photos.labels)}; rename the masks to {photos.names[0]}.png, ..."
            )
        files = tuple(by_name[f"{affix[0]}{name}{affix[1]}"] for name in photos.names)
        notes.append(f"masks are called {affix[0]}NAME{affix[1]}")
    spare = set(found) - set(files)
    if spare:
        notes.append(f"{len(spare)} pictures of {folder} belong to no photo: {_some(sorted(p.name for p in spare))}")
    return FromFiles(files, invert, tuple(notes))


def _affix(stems: Mapping[str, Path], names: Sequence[str]) -> tuple[str, str] | None:
    """(prefix, ending) that turn every photo's name into a mask's; None where no one pair does."""
    halves = [stem.partition(names[0]) for stem in stems]
    tried = {(before, after) for before, found, after in halves if found}
    fitting = [pair for pair in sorted(tried) if all(f"{pair[0]}{name}{pair[1]}" in stems for name in names)]
    return fitting[0] if len(fitting) == 1 else None


def _read(file: Path) -> tuple[Mask, str]:
    """A mask in its own size, and what was read. UserError for a photograph."""
    picture = read_photo(file)
    if picture.shape[2] == 4 and (picture[:, :, 3] < 255).any():
        return picture[:, :, 3] > 127, f"alpha of {file.name}"
    grey = read_grey(file)
    between = float(((grey > 32) & (grey < 224)).mean()) if grey.dtype == np.uint8 and grey.max() > 1 else 0.0
    if between > GREY_SHARE:
        raise UserError(
            f"{file}: {between:.0%} of its pixels are neither black nor white: a photograph, not a mask. Name the"
            " folder of masks (white = keep, black = leave out)"
        )
    return read_mask(file), f"file {file.name}"


# -- making them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskRecord:
    """What is known of one mask. Shares are of pixels: kept, of all; border and centre, kept of those alone.

    mask    the file's name; None: no mask was made, and the photo stays whole
    digest  of the photo and of all that decided the mask; empty: it is being made
    """

    photo: str
    mask: str | None
    size: tuple[int, int]
    kept: float
    border: float
    centre: float
    how: str
    digest: str


@dataclass(frozen=True)
class MaskList:
    """masks.json: what the masks of a folder are, by their names."""

    about: str
    photos: Mapping[str, MaskRecord]


ABOUT = "rayprior masks; white = keep"


def make_masks(
    photos: Photos,
    source: MaskSource,
    out: Path,
    *,
    force: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[MaskRecord, ...]:
    """One 8-bit PNG a photo in `out` (white = keep) and masks.json; what is up to date stays as it is.

    Raises UserError for whatever a source can't use, and where `out` has masks of the same names that were not made
    here, unless `force`; and where `out` is where the photos are.
    """
    known = _known(out)
    _refuse_to_overwrite(photos, out, known, force)
    begun = {n: MaskRecord(p, None, (0, 0), 1.0, 1.0, 1.0, BEGUN, "") for n, p in zip(photos.names, photos.labels)}
    begun |= known
    if begun != known:
        _save(out, photos, begun)  # so that what a kill leaves is known to be made here
    records: dict[str, MaskRecord] = {}
    saved = time.monotonic()
    try:
        for index, name in enumerate(photos.names):
            digest = digest_of(photos.files[index], [source.settings(index), photos.scene])
            old = known.get(name)
            if old is None or old.digest != digest or (old.mask is not None and not (out / old.mask).is_file()):
                records[name] = _make(photos, index, source, out, digest)
            else:
                records[name] = old
            if time.monotonic() - saved > SAVE_SECONDS:
                _save(out, photos, begun | records)
                saved = time.monotonic()
            if on_progress is not None:
                on_progress(index + 1, len(photos.names))
    finally:
        _save(out, photos, known | records)
    return tuple(records.values())


def _make(photos: Photos, index: int, source: MaskSource, out: Path, digest: str) -> MaskRecord:
    picture = photos.read(index)
    mask, how = source.make(index, picture)
    photo, size = photos.labels[index], (picture.shape[1], picture.shape[0])
    file = out / f"{photos.names[index]}.png"
    if mask is None:
        file.unlink(missing_ok=True)
        return MaskRecord(photo, None, size, 1.0, 1.0, 1.0, how, digest)
    write_atomically(file, lambda stream: _black_and_white(mask).save(stream, "PNG"))
    kept, border, centre = (float(part.mean()) for part in (mask, mask[_border(mask)], mask[_centre(mask)]))
    return MaskRecord(photo, file.relative_to(out).as_posix(), size, kept, border, centre, how, digest)


def _known(out: Path) -> dict[str, MaskRecord]:
    file = out / FILE
    if not file.is_file():
        return {}
    try:
        return dict(Reader(str(file)).read(parse_json(file.read_bytes(), str(file)), MaskList).photos)
    except UserError as error:
        raise UserError(f"{error}. Delete the file to make all masks anew") from None


def _save(out: Path, photos: Photos, records: Mapping[str, MaskRecord]) -> None:
    kept = {name: records[name] for name in photos.names if name in records}
    if kept:
        write_json(out / FILE, to_plain(MaskList(ABOUT, kept)))
    else:
        (out / FILE).unlink(missing_ok=True)
        with suppress(OSError):  # other files are there, or the folder is not
            out.rmdir()


def _refuse_to_overwrite(photos: Photos, out: Path, known: Mapping[str, MaskRecord], force: bool) -> None:
    targets = {(out / f"{name}.png").parent.resolve() for name in photos.names}
    inside = targets & {file.parent.resolve() for file in photos.files}
    if inside:
        raise UserError(f"--out {out}: masks would lie among the photos in {inside.pop()}; choose another folder")
    foreign = [name for name in photos.names if name not in known and (out / f"{name}.png").exists()]
    if foreign and not force:
        raise UserError(
            f"{out}: has {len(foreign)} masks that were not made here ({_some(foreign)}); name another folder with"
            " --out, or replace them with --force"
        )


def findings(records: Sequence[MaskRecord]) -> tuple[str, ...]:
    """What looks wrong: no mask, nothing kept, everything kept, more of the border kept than of the centre."""
    made = [record for record in records if record.mask is not None]
    groups = (
        ([r for r in records if r.mask is None], "have no mask and stay whole"),
        ([r for r in made if r.kept == 0], "keep nothing: these photos would teach nothing"),
        ([r for r in made if r.kept == 1], "keep every pixel"),
    )
    said = [f"{len(group)} of {len(records)} {what} ({_told(group)})" for group, what in groups if group]
    inverted = [r for r in made if r.border > r.centre]
    if len(inverted) > len(made) / 2:
        said.append(
            f"{len(inverted)} of {len(made)} masks keep more of the border than of the centre: they look inverted."
            " White must mean keep; if it does not, add --invert"
        )
    elif inverted:
        names = _some([r.photo for r in inverted])
        said.append(f"{len(inverted)} of {len(made)} masks keep more of the border than of the centre: look at {names}")
    return tuple(said)


def refuse_useless(records: Sequence[MaskRecord], out: Path) -> None:
    """Raises UserError where not one mask tells anything: all keep nothing, or all keep everything."""
    if all(r.kept == 1 for r in records) or all(r.kept == 0 for r in records):
        what = "every pixel" if records[0].kept else "nothing"
        raise UserError(
            f"{out}: all {len(records)} masks keep {what} ({records[0].photo}: {records[0].how}); they are of no use:"
            " change what was typed, and run again"
        )


def reading_note(path: str | Path, photos: Photos, out: Path) -> str:
    """What the reader of this capture says of the masks in `out`: asked, not assumed."""
    place = photos.root / FOLDER
    if not photos.scene:
        return f"to take them along: rayprior capture {path} --masks {out}"
    found, _ = describe(path)
    listed = found.mask_files
    there = [(out / f"{name}.png").resolve() for name in photos.names]
    count = sum(mask is not None and mask.resolve() == file for mask, file in zip(listed, there))
    if count:
        return f"found when the capture is read: {count} of {len(listed)} photos have a mask"
    if any(listed):
        first = next(mask for mask in listed if mask is not None)
        return f"NOT read: the capture's masks are those of {first.parent}; to use the new ones, put them there"
    if out.resolve() != place.resolve():
        return f"NOT read from there: to use them, write them to {place}"
    return f"NOT read: the format {found.format} has no masks beside its photos; write a transforms.json to use them"


# -- looking at them ---------------------------------------------------------------------------------------------------


def draw_sheet(photos: Photos, records: Sequence[MaskRecord], out: Path, file: Path) -> int:
    """Photos with what is left out tinted and the mask's edge drawn, as one PNG; returns how many (evenly chosen)."""
    chosen = np.unique(np.linspace(0, len(records) - 1, min(len(records), MOST_TILES)).round().astype(int))
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    bar = 34
    page = Image.new("RGB", (columns * (TILE + 8) + 8, rows * (TILE + bar + 8) + 8), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    for place, index in enumerate(chosen):
        record = records[index]
        tile = _overlay(photos.read(index), None if record.mask is None else read_mask(out / record.mask))
        x, y = 8 + place % columns * (TILE + 8), 8 + place // columns * (TILE + bar + 8)
        page.paste(tile, (x + (TILE - tile.width) // 2, y + TILE - tile.height))
        odd = record.mask is None or record.kept in (0, 1) or record.border > record.centre
        colour = (200, 0, 60) if odd else (30, 30, 30)
        name = record.photo.encode("latin-1", "replace").decode("latin-1")
        while draw.textlength(name) > TILE and len(name) > 4:
            name = "..." + name[4:]
        share = "no mask" if record.mask is None else f"keeps {record.kept:.1%}"
        draw.text((x, y + TILE + 2), f"{name}\n{share}", fill=colour)
    write_atomically(file, lambda stream: page.save(stream, "PNG"))
    return len(chosen)


def _overlay(picture: Picture, mask: Mask | None) -> Image.Image:
    """A tile: what is left out fades into one colour, a yellow line runs along the edge."""
    scale = TILE / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    image = Image.fromarray(np.ascontiguousarray(picture[:, :, :3])).resize(size, Image.Resampling.BOX)
    if mask is None:
        return image
    kept = np.asarray(_black_and_white(mask).resize(size, Image.Resampling.BOX)) > 127
    edge = np.asarray(_black_and_white(kept).filter(ImageFilter.MaxFilter(3))) > 127
    pixels = np.asarray(image).astype(float)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = np.where(kept[:, :, None], pixels, 0.4 * grey + 0.6 * np.array(DROPPED))
    pixels[edge & ~kept] = (255, 225, 0)
    return Image.fromarray(pixels.astype(np.uint8))


# -- pixels and words --------------------------------------------------------------------------------------------------


def _border(mask: Mask) -> Mask:
    rim = max(1, round(RIM * min(mask.shape)))
    border = np.ones_like(mask)
    border[rim:-rim, rim:-rim] = False
    return border


def _centre(mask: Mask) -> Mask:
    top, left = (int(side * (1 - MIDDLE) / 2) for side in mask.shape)
    centre = np.zeros_like(mask)
    centre[top : mask.shape[0] - top, left : mask.shape[1] - left] = True
    return centre


def _black_and_white(mask: Mask) -> Image.Image:
    return Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))


def digest_of(file: Path, settings: Any = None) -> str:
    """SHA-256 of a file, and of plain settings."""
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}); copy it there, or remove it") from None
    digest.update(b"" if settings is None else json_text(to_plain(settings)).encode())
    return digest.hexdigest()


def _hex(colour: Sequence[int] | np.ndarray) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in colour)


def _told(group: Sequence[MaskRecord]) -> str:
    """Names, and how the first was made."""
    return f"{_some([r.photo for r in group])}: {group[0].how}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
