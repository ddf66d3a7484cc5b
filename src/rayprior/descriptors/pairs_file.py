"""Pairs of pixels as a JSON file: what a source drew, or what people labelled by hand."""

from __future__ import annotations

import json
from math import floor, isfinite
from pathlib import Path
from typing import Any

import torch

from rayprior.descriptors.pairs import Pairs
from rayprior.errors import UserError, did_you_mean
from rayprior.files import write_text
from rayprior.plain import parse_json
from rayprior.scenes.scene import Scene

FORMAT = 1
DIGITS = 4  # after the point, of pixels and weights
ROW = "[source picture, u, v, target picture, u, v, weight]"


def write_pairs(path: Path, pairs: Pairs, scene: Scene, source: str) -> None:
    """Write `{"format", "source", "scene", "pictures": [{"name", "width", "height"}, ...], "pairs": [row, ...]}`.

    A row is [source picture, u, v, target picture, u, v, weight]: pictures by their place in the file's own list,
    pixels with centres at +0.5, to 4 decimals. `source` says who claims it: the labels' name, or a person's.
    """
    used = sorted({*pairs.view_s.tolist(), *pairs.view_t.tolist()})
    place = {view: at for at, view in enumerate(used)}
    pictures = [
        {"name": scene.names[view], "width": width, "height": height}
        for view in used
        for width, height in [scene.pictures.size[view].tolist()]
    ]
    head = {"format": FORMAT, "source": source, "scene": scene.name, "pictures": pictures, "row": ROW}
    views = [[place[view] for view in column.tolist()] for column in (pairs.view_s, pairs.view_t)]
    numbers = [column.double().tolist() for column in (pairs.pixel_s, pairs.pixel_t)]
    rows = (
        json.dumps([s, *(_short(x) for x in a), t, *(_short(x) for x in b), _short(w)], allow_nan=False)
        for s, a, t, b, w in zip(views[0], numbers[0], views[1], numbers[1], pairs.weight.tolist(), strict=True)
    )
    begun = json.dumps(head, allow_nan=False, ensure_ascii=False, indent=1).removesuffix("\n}")
    write_text(path, begun + ',\n "pairs": [\n' + ",\n".join(rows) + "\n]}\n")


def read_pairs(path: Path, scene: Scene) -> Pairs:
    """The pairs of a file, between the pictures of this scene that bear the file's names.

    UserError for a file that is missing or broken, pictures that the scene does not have or has in another size, pixels
    outside their picture, weights outside [0, 1], and a file without pairs.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); expected a file that"
                        " rayprior correspond wrote") from None  # fmt: skip
    content = parse_json(text, str(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f'{path}: no pairs file: "format" is {json.dumps(found)}; expected {FORMAT}')
    views = [_view(path, scene, at, about) for at, about in enumerate(_list(path, content, "pictures"))]
    rows = _list(path, content, "pairs")
    if not rows:
        raise UserError(f"{path}: holds no pairs; expected at least one row {ROW}")
    for at, row in enumerate(rows):
        if not (isinstance(row, list) and len(row) == 7 and all(_number(x) for x in row)):
            raise UserError(f"{path}: pairs[{at}] is {json.dumps(row)}; expected {ROW}, seven numbers")
        for place in (row[0], row[3]):
            if not (isinstance(place, int) and 0 <= place < len(views)):
                raise UserError(
                    f'{path}: pairs[{at}] is of picture {place}; "pictures" lists {len(views)}, counted from 0'
                )
    table = torch.tensor(rows, dtype=torch.float64)
    which = torch.tensor(views)
    pairs = Pairs(which[table[:, 0].long()], which[table[:, 3].long()], table[:, 1:3], table[:, 4:6], table[:, 6])
    for view, pixel in ((pairs.view_s, pairs.pixel_s), (pairs.view_t, pairs.pixel_t)):
        outside = ~((pixel >= 0) & (pixel < scene.pictures.size[view])).all(dim=1)
        if bool(outside.any()):
            at = int(outside.int().argmax())
            (u, v), (width, height) = pixel[at].tolist(), scene.pictures.size[view[at]].tolist()
            raise UserError(
                f"{path}: pairs[{at}]: no pixel ({u:g}, {v:g}) in '{scene.names[int(view[at])]}' of {width}x{height}"
            )
    wrong = (pairs.weight < 0) | (pairs.weight > 1)
    if bool(wrong.any()):
        at = int(wrong.int().argmax())
        raise UserError(f"{path}: pairs[{at}] has the weight {float(pairs.weight[at]):g}; expected 0 to 1")
    return pairs


def _view(path: Path, scene: Scene, at: int, about: Any) -> int:
    """Which of the scene's views a picture of the file is."""
    if not (isinstance(about, dict) and isinstance(about.get("name"), str)):
        raise UserError(f'{path}: pictures[{at}] is {json.dumps(about)}; expected "name", "width" and "height"')
    name = about["name"]
    if name not in scene.names:
        place = scene.path or scene.name
        raise UserError(f"{path}: picture '{name}' is none of {place}{did_you_mean(name, scene.names[:50])}")
    view = scene.names.index(name)
    size = [about.get("width"), about.get("height")]
    own = scene.pictures.size[view].tolist()
    if size != own:
        raise UserError(
            f"{path}: picture '{name}' has {size[0]}x{size[1]} pixels in the file and {own[0]}x{own[1]} in the scene;"
            " open the scene in the file's size"
        )
    return view


def _list(path: Path, content: dict[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        raise UserError(f'{path}: "{key}" is {json.dumps(value)[:60]}; expected a list')
    return value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _short(value: float) -> float:
    return floor(value * 10**DIGITS) / 10**DIGITS  # rounding would leave the picture at its far edge
