"""`describe match`, `track` and `keypoint`: a pixel found again in other pictures, in a film, and in space."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.capture.frames import is_video, take_frames
from rayprior.capture.intake import find_photos
from rayprior.descriptors.keypoint import NEIGHBOURS, moved_by, nearest_point, point_at, read_transform, seen_from
from rayprior.descriptors.matching import HEAT_WIDTH, at, best_match, heat_map
from rayprior.errors import UserError
from rayprior.evaluation.export import side_by_side, write_film, write_picture
from rayprior.evaluation.match_pictures import GREEN, heat_frame, marked, one_size
from rayprior.evaluation.pictures import SURFACE, to_bytes
from rayprior.evaluation.sheets import contact_sheet, enlarged
from rayprior.files import write_json
from rayprior.kernels.threads import set_threads
from rayprior.plain import json_text
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.formats.photos import read_photo
from rayprior.scenes.scene import Scene
from rayprior.training.describer import Describer
from rayprior.training.fit import cores
from rayprior.verbs.describe import Target, describer_json, view_named, views_named
from rayprior.verbs.terminal import console, counted

FRAMES = 60  # that are taken of a film
SHOWN = 12  # pictures of a track's overview
WIDTH = 512  # of a match's picture, at least
FPS = 8.0
METRES = {"rgbd": 1.0, "strecha": 1.0, "bop": 1e-3}  # of one unit, in formats that state theirs
AGREE = 0.05  # a distance that differs from a point's by more than this share is of another surface


# -- pictures and pixels -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture by the name that was typed, and its descriptors."""

    name: str
    picture: Float[Tensor, "h w 3"]
    descriptors: Float[Tensor, "h w d"]

    @staticmethod
    def of(describer: Describer, name: str, picture: Float[Tensor, "h w 3"]) -> Shown:
        return Shown(name, picture, describer.describe(picture))

    def query(self, text: str) -> tuple[Float[Tensor, "2"], Float[Tensor, "d"]]:
        """The pixel that was typed, and the descriptor there."""
        height, width = self.picture.shape[:2]
        pixel = pixel_of(text, (width, height), self.name)
        return pixel, at(self.descriptors, pixel[None])[0]

    def match(self, query: Float[Tensor, "d"], mask: Tensor | None = None) -> tuple[Float[Tensor, "2"], float]:
        """The pixel with the nearest descriptor, and how far that is."""
        pixel, distance = best_match(self.descriptors, query[None], mask)
        return pixel[0], float(distance[0])


def pixel_of(text: str, size: tuple[int, int], name: str) -> Float[Tensor, "2"]:
    """'U,V' -> a pixel inside a picture of (width, height); a pixel's centre is at +0.5. UserError for others."""
    try:
        u, v = (float(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"{text}: expected a pixel as U,V, its column and row, as in 120,85") from None
    if not (0 <= u < size[0] and 0 <= v < size[1]):
        raise UserError(f"{text}: no pixel of {name}, which is {size[0]}x{size[1]}; columns and rows count from 0")
    return torch.tensor([u, v], dtype=torch.float64)


def file_picture(path: Path) -> Float[Tensor, "h w 3"]:
    """A picture file in [0, 1], on white where it has alpha. UserError where it is missing or broken."""
    values = torch.from_numpy(read_photo(path).copy()).float() / 255
    return values if values.shape[2] == 3 else 1 + (values[:, :, :3] - 1) * values[:, :, 3:]


def any_picture(word: str, scene: Scene | None) -> tuple[Float[Tensor, "h w 3"], int | None]:
    """A view of the scene by name, and which it is, or else a picture file."""
    if scene is not None and (word in scene.names or not Path(word).is_file()):
        view = view_named(scene, word, "picture")
        return scene.picture(view), view
    return file_picture(Path(word)), None


# -- match -------------------------------------------------------------------------------------------------------------


def match(
    path: Path, first: str, pixel: str, others: Sequence[str], scene: str | None, out: Path | None, threads: int | None
) -> None:
    """Find a pixel of one picture in others: prints each best match, writes heat maps and match.json."""
    if not others:
        raise UserError("describe match needs a picture to search: rayprior describe match DESCRIBER A U,V B")
    set_threads(threads or cores())
    of = Describer.open(path)
    opened = None if scene is None else Target.open(scene).scene
    source = Shown.of(of, first, any_picture(first, opened)[0])
    where, query = source.query(pixel)
    folder = out or of.path / "match"
    rows: list[dict[str, Any]] = []
    for place, word in enumerate(others, start=1):
        shown = Shown.of(of, word, any_picture(word, opened)[0])
        found, distance = shown.match(query)
        heat = heat_map(shown.descriptors, query)
        file = folder / f"{place:02d}-{Path(word).stem}.png"
        both = to_bytes(shown.picture), heat_frame(shown.picture, heat)
        write_picture(file, enlarged(side_by_side([marked(frame, found.tolist()) for frame in both]), WIDTH))
        rows.append({"picture": word, "pixel": found.tolist(), "distance": distance, "heat_map": file.name})
        u, v = found.tolist()
        console.print(f"{word}: {u:g},{v:g}  descriptor {distance:.3f} away  {file}")
    write_picture(folder / "query.png", marked(to_bytes(source.picture), where.tolist(), GREEN))
    asked = {"picture": first, "pixel": where.tolist(), "descriptor": query.tolist()}
    write_json(folder / "match.json", {**describer_json(of), "query": asked, "heat_width": HEAT_WIDTH, "matches": rows})
    print(folder / "match.json")


# -- track -------------------------------------------------------------------------------------------------------------


def track(
    path: Path, first: str, pixel: str, where: Path, out: Path | None, frames: int | None, threads: int | None
) -> None:
    """Follow a pixel of one picture through a folder of pictures, or a film: track.json, track.webp, track.png."""
    set_threads(threads or cores())
    if frames is not None and frames < 1:
        raise UserError(f"--frames {frames}: expected at least 1")
    of = Describer.open(path)
    source = Shown.of(of, first, file_picture(Path(first)))
    asked, query = source.query(pixel)
    folder = out or of.path / "track"
    rows: list[dict[str, Any]] = []
    pictures = []
    with tempfile.TemporaryDirectory() as taken:
        files = _pictures_of(where, Path(taken), frames)
        with counted("tracking", "pictures") as bar:
            for done, file in enumerate(files, start=1):
                shown = Shown.of(of, file.name, file_picture(file))
                found, distance = shown.match(query)
                rows.append({"picture": file.name, "pixel": found.tolist(), "distance": distance})
                pictures.append(marked(to_bytes(shown.picture), found.tolist()))
                bar(done, len(files))
    pictures = one_size(pictures)
    write_film(folder / "track.webp", pictures, "webp", FPS)
    strip = [pictures[i * len(pictures) // SHOWN] for i in range(SHOWN)] if len(pictures) > SHOWN else pictures
    write_picture(folder / "track.png", contact_sheet(strip))
    said = {"picture": first, "pixel": asked.tolist(), "descriptor": query.tolist()}
    write_json(folder / "track.json", {**describer_json(of), "query": said, "pictures": rows})
    distances = torch.tensor([row["distance"] for row in rows])
    worst = rows[int(distances.argmax())]["picture"]
    console.print(
        f"{len(rows)} pictures; the best match's descriptor is {float(distances.median()):.3f} away in the median, at"
        f" most {float(distances.max()):.3f} ({worst}); far ones may be hidden or out of the picture"
    )
    print(folder / "track.json")


def _pictures_of(where: Path, taken: Path, frames: int | None) -> list[Path]:
    """A folder's pictures by name, or frames of a film, sharpest of equal stretches."""
    if where.is_file():
        if not is_video(where):
            raise UserError(f"{where}: is no film; expected a film, or a folder of pictures")
        with counted("reading the film", "frames") as bar:
            take_frames(where, taken, FRAMES if frames is None else frames, bar)
        return sorted(taken.iterdir())
    if frames is not None:
        raise UserError(f"--frames {frames}: all pictures of a folder are looked at; leave it out, or give a film")
    return find_photos(where)


# -- keypoint ----------------------------------------------------------------------------------------------------------


def keypoint(
    path: Path,
    word: str,
    views: str,
    where: str,
    *,
    out: Path | None,
    hand_eye: Path | None,
    metres: bool,
    scale: float | None,
    threads: int | None,
    device: str,
) -> None:
    """A pixel's point in space as JSON, printed or written: from rays of the views, or from one view's distance."""
    of = Describer.open(path)
    transform = None if hand_eye is None else read_transform(hand_eye)
    set_threads(threads or cores())
    target = Target.open(word, device)
    scene = target.scene
    unit = _metres_per_unit(target, scale, "--hand-eye" if hand_eye else "--metres" if metres else None)
    name, colon, text = where.rpartition(":")
    if not colon or not name:
        raise UserError(f"--at {where}: expected PICTURE:U,V, a view's name or a file, as in 012:120,85")
    picture, pointed = any_picture(name, scene)
    pixel, query = Shown.of(of, name, picture).query(text)
    chosen = views_named(scene, views)

    found = _found_in(of, scene, chosen, pointed, pixel, query)
    own = _in_own_units(scene)
    pixels = torch.stack([one for one, _ in found])
    point, normal, how, residual = _located(target, own, chosen, pixels)
    projected, _, _ = own.project(point.expand(len(chosen), 3), torch.tensor(chosen))
    factor = 1.0 if unit is None else unit
    rows = [
        {
            "view": scene.names[view],
            "pixel": one.tolist(),
            "descriptor_distance": distance,
            "residual": float(apart) * factor,
            "reprojection_px": float((again - one).norm()) if bool(again.isfinite().all()) else None,
        }
        for view, (one, distance), apart, again in zip(chosen, found, residual, projected, strict=True)
    ]
    in_camera = seen_from(own.c2w[chosen[0]], point, normal)
    in_camera = in_camera[0] * factor, in_camera[1]
    frames = {"scene": _plain(point * factor, normal), "camera": _plain(*in_camera)}
    if transform is not None:
        frames["robot"] = _plain(*moved_by(transform, *in_camera))
    answer = {
        **describer_json(of),
        "scene": target.word,
        "query": {"picture": name, "pixel": pixel.tolist()},
        "from": how,
        "unit": "the capture's own" if unit is None else "metre",
        "camera": f"axes of view '{scene.names[chosen[0]]}': x right, y down, z forward",
        "frames": frames,
        "views": rows,
    }
    if out is None:
        print(json_text(answer))
    else:
        write_json(out, answer)
        print(out)


def _metres_per_unit(target: Target, scale: float | None, asked_by: str | None) -> float | None:
    """Metres in one unit of the capture, None where nobody knows. UserError where they are asked for and not known."""
    if scale is not None:
        if not 0 < scale < float("inf"):
            raise UserError(f"--scale {scale:g}: expected the metres in one unit of the capture, above 0")
        return scale
    known = METRES.get(target.scene.format)
    if known is None and asked_by is not None:
        raise UserError(
            f"{asked_by}: {target.word} has no distance units, its lengths are the capture's own; say how many metres"
            " one unit has with --scale X (measure something in the scene), or leave it out"
        )
    return known


def _in_own_units(scene: Scene) -> Cameras:
    """The scene's cameras in the units and axes that the capture came in."""
    return replace(scene.cameras, c2w=scene.similarity.inverse().poses(scene.cameras.c2w))


def _found_in(
    of: Describer, scene: Scene, views: Sequence[int], pointed: int | None, pixel: Tensor, query: Tensor
) -> list[tuple[Tensor, float]]:
    """The pixel in each view: its own in the view that was pointed in, else the best match, in the object's mask where
    there is one."""
    found = []
    for view in views:
        if view == pointed:
            found.append((pixel, 0.0))
            continue
        mask = scene.object_mask(view)
        mask = None if mask is None or not bool(mask.any()) else mask
        found.append(Shown.of(of, scene.names[view], scene.picture(view)).match(query, mask))
    return found


def _located(
    target: Target, own: Cameras, views: Sequence[int], pixels: Tensor
) -> tuple[Tensor, Tensor | None, str, Tensor]:
    """(point, normal or None, how it was found, residual of each view), in the capture's units."""
    view, pixel = views[0], pixels[0]
    distance, whose = _distances_around(target, view, pixel)
    if len(views) == 1:
        if distance is None:
            raise UserError(
                f"{target.word}: 1 view, '{target.scene.names[view]}', and no depth at its pixel; name two or more"
                " views, a capture with depth maps, or a run, whose field has depth"
            )
        point, normal = point_at(own, view, distance, pixel)
        return point, normal, f"one view, {whose}", torch.zeros(1)
    which = torch.tensor(views)
    point, residual = nearest_point(own.origins[which], own.directions(which, pixels))
    normal = None
    if distance is not None:
        surface, normal = point_at(own, view, distance, pixel)
        away = float((point - own.origins[view]).norm())
        normal = normal if float((surface - point).norm()) <= AGREE * away else None
    behind = ((point - own.origins[which]) * own.forward[which]).sum(dim=1) <= 0
    if bool(behind.any()):
        raise UserError(
            f"{target.word}: the rays of {len(views)} views meet behind view"
            f" '{target.scene.names[views[int(behind.int().argmax())]]}': the matches are of different points; choose"
            " another pixel, or look at them with rayprior describe match"
        )
    return point, normal, f"rays of {len(views)} views", residual


def _distances_around(target: Target, view: int, pixel: Tensor) -> tuple[Tensor | None, str]:
    """A view's distances around a pixel, nan elsewhere, in the capture's units, and whose they are; None where the
    pixel itself has none. A measured map comes before a field."""
    scene = target.scene
    column, row = (int(x) for x in pixel)
    if scene.depth is not None and bool(scene.depth[view][row, column, 0].isfinite()):
        return scene.depth[view][:, :, 0].double() / scene.similarity.scale, "its depth map"
    if target.model is None:
        return None, ""
    width, height = scene.pictures.size[view].tolist()
    rows = torch.arange(max(0, row - NEIGHBOURS), min(height, row + NEIGHBOURS + 1))
    columns = torch.arange(max(0, column - NEIGHBOURS), min(width, column + NEIGHBOURS + 1))
    v, u = (grid.reshape(-1) for grid in torch.meshgrid(rows, columns, indexing="ij"))
    rays = scene.rays(torch.full((len(u),), view), torch.stack([u, v], dim=1) + 0.5)
    distance = torch.full((height, width), torch.nan, dtype=torch.float64)
    with torch.no_grad():
        (seen,) = target.model.render_in_chunks(rays)  # few rays: one chunk
    distance[v, u] = torch.where(seen.opacity >= SURFACE, seen.distance, torch.nan).double().cpu()
    known = bool(distance[row, column].isfinite())
    return (distance / scene.similarity.scale, f"the field of {target.word}") if known else (None, "")


def _plain(point: Tensor, normal: Tensor | None) -> dict[str, Any]:
    return {"point": point.tolist(), "normal": None if normal is None else normal.tolist()}
