"""`masks`: masks of a capture's photos from files, by a colour, or by a segmenter."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rayprior.capture.masks import (
    FOLDER,
    TOLERANCE,
    ColourKey,
    FromFiles,
    MaskSource,
    Photos,
    colour_of,
    draw_sheet,
    findings,
    make_masks,
    masks_in,
    photos_of,
    reading_note,
    refuse_useless,
)
from rayprior.capture.segment import Sam, prompts_of, read_prompts, sam_files
from rayprior.errors import UserError
from rayprior.verbs.terminal import console, counted


def masks(
    path: str,
    folder: Path | None,
    key: str | None,
    sam: Path | None,
    out: Path | None,
    *,
    invert: bool,
    tolerance: int | None,
    points: str | None,
    boxes: str | None,
    prompts: Path | None,
    automatic: bool,
    force: bool,
) -> None:
    """Makes the masks with a bar, says what they keep and what looks wrong; prints their folder last."""
    typed = {"--from": folder, "--key": key, "--sam": sam}
    ways = [name for name, value in typed.items() if value is not None]
    if len(ways) != 1:
        given = " and ".join(ways) or "none of them"
        raise UserError(f"masks {path}: expected one of --from DIR, --key '#rrggbb', --sam DIR; found {given}")
    belongs = {
        "--invert": ("--from", invert),
        "--tolerance": ("--key", tolerance is not None),
        "--points": ("--sam", points is not None),
        "--boxes": ("--sam", boxes is not None),
        "--prompts": ("--sam", prompts is not None),
        "--automatic": ("--sam", automatic),
    }
    for option, (way, given) in belongs.items():
        if given and way != ways[0]:
            raise UserError(f"{option} goes with {way}, not with {ways[0]}; leave it out")
    photos = photos_of(path)
    out = out or photos.root / FOLDER
    out = out if out.name not in ("", "..") else out.resolve()
    source: MaskSource
    if folder is not None:
        source = _from_files(photos, folder, out, invert)
    elif key is not None:
        source = _colour_key(key, tolerance)
    else:
        assert sam is not None
        own = {} if prompts is None else read_prompts(prompts, photos)
        source = Sam(sam_files(sam), photos.names, own, prompts_of(points, boxes), automatic)
    console.print(f"masks of {len(photos.files)} photos of {path}", style="bold")
    with counted("making masks", "photos") as bar:
        records = make_masks(photos, source, out, force=force, on_progress=bar)
    kept = [100 * record.kept for record in records if record.mask is not None]
    if kept:
        low, middle, high = min(kept), float(np.median(kept)), max(kept)
        console.print(f"{len(kept)} masks keep {low:.1f} / {middle:.1f} / {high:.1f} % (min, median, max)")
    notes = source.notes if isinstance(source, FromFiles) else ()
    for note in (*notes, *findings(records)):
        console.print(f"note: {note}")
    sheet = out.with_name(f"{out.name}.png")
    shown = draw_sheet(photos, records, out, sheet)
    console.print(f"overlay: {sheet}" + ("" if shown == len(records) else f" ({shown} of {len(records)} photos)"))
    refuse_useless(records, out)
    console.print(reading_note(path, photos, out))
    print(out)


def _from_files(photos: Photos, folder: Path, out: Path, invert: bool) -> FromFiles:
    if folder.resolve() == out.resolve():
        raise UserError(
            f"--from {folder}: these masks are where they would be written; `rayprior inspect` shows them. Name"
            " another --out to write checked copies"
        )
    return masks_in(folder, photos, invert)


def _colour_key(key: str, tolerance: int | None) -> ColourKey:
    if tolerance is not None and not 0 <= tolerance <= 255:
        raise UserError(f"--tolerance {tolerance}: expected 0 to 255, the largest difference of a channel")
    return ColourKey(colour_of(key), TOLERANCE if tolerance is None else tolerance)
