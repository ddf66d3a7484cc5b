"""What the transforms JSON files of blender and nerfstudio share: checked values, poses in OpenGL axes, z bounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths.poses import opencv_from_opengl
from rayprior.scenes.cameras import Cameras

LARGEST_SIDE_PX = 100_000


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError naming line and column where it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected the JSON that lists the frames") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}; copy or export it again"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: can't be read as JSON ({error}); copy or export it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {_shown(content)}; expected an object with the key 'frames'")
    return content


def frames_of(content: Mapping[str, Any], source: Path) -> list[dict[str, Any]]:
    """The list of frames, each an object with 'file_path' (text) and 'transform_matrix'."""
    frames = content.get("frames")
    if not isinstance(frames, list):
        raise UserError(f"{source}: 'frames' is {_shown(frames)}; expected a list with one object a photo")
    for position, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise UserError(f"{source}: frame {position} is {_shown(frame)}; expected an object with 'file_path'")
        for key in ("file_path", "transform_matrix"):
            if key not in frame:
                listed = frame.get("file_path", "")
                raise UserError(
                    f"{source}: frame {position} {_shown(listed)} has no '{key}'; add it, or remove the frame"
                )
        if not isinstance(frame["file_path"], str):
            raise UserError(f"{source}: 'file_path' of frame {position} is {_shown(frame['file_path'])}; expected text")
    return frames


def unique(listed: list[str], source: Path) -> list[str]:
    """`listed`, if no file stands in it twice."""
    seen: set[str] = set()
    for text in listed:
        if text in seen:
            raise UserError(f"{source}: lists {text!r} twice; remove one of the two frames")
        seen.add(text)
    return listed


def number(
    content: Mapping[str, Any],
    key: str,
    source: Path,
    default: float | None = None,
    *,
    low: float = -inf,
    high: float = inf,
) -> float:
    """A finite number of the JSON within (low, high]. Raises UserError if it is missing without default, or none."""
    value = content.get(key, default)
    if value is None:
        raise UserError(f"{source}: has no '{key}'; add it (a number)")
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        value = float(value)
        if isfinite(value) and low < value <= high:
            return value
    bounds = "" if low == -inf and high == inf else f" above {low:g}" + (f", at most {high:g}" if high < inf else "")
    raise UserError(f"{source}: '{key}' is {_shown(value)}; expected a finite number{bounds}")


def side_px(content: Mapping[str, Any], key: str, source: Path, default: int | None = None) -> int:
    """A width or height, in whole pixels."""
    value = number(content, key, source, default, low=0, high=LARGEST_SIDE_PX)
    if value != round(value):
        raise UserError(f"{source}: '{key}' is {value}; expected a whole number of pixels")
    return int(value)


def texts(content: Mapping[str, Any], key: str, source: Path) -> tuple[str, ...] | None:
    """A list of text, or None where the key is absent."""
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{source}: '{key}' is {_shown(value)}; expected a list of file names")
    return tuple(value)


def pose(matrix: Any, frame: str, source: Path) -> Float[Tensor, "3 4"]:
    """A 'transform_matrix' (4x4 or 3x4, OpenGL camera-to-world) in OpenCV axes."""
    try:
        tensor = torch.tensor(matrix, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise UserError(
            f"{source}: frame {frame!r}: 'transform_matrix' is {_shown(matrix)}; expected 4x4 numbers"
        ) from None
    if tuple(tensor.shape) not in ((4, 4), (3, 4)):
        raise UserError(
            f"{source}: frame {frame!r}: 'transform_matrix' has shape {tuple(tensor.shape)};"
            " expected 4x4 numbers (camera-to-world)"
        )
    if len(tensor) == 4 and not torch.allclose(tensor[3], torch.tensor([0.0, 0, 0, 1], dtype=torch.float64), atol=1e-5):
        raise UserError(
            f"{source}: frame {frame!r}: the last row of 'transform_matrix' is {tensor[3].tolist()}; expected 0 0 0 1"
            " (is the matrix transposed?)"
        )
    return opencv_from_opengl(tensor[None, :3])[0]


def distances_from_z(near_z: float, far_z: float, cameras: Cameras) -> tuple[float, float]:
    """(near, far) as distances along rays that cover this range of z-depth in every pixel: far / smallest cosine.

    On the axis distance is z; towards the corners it grows by 1 / cosine, so only far has to widen.
    """
    corners, camera = [], []
    for index, (width, height) in enumerate(cameras.size.tolist()):
        corners += [(0, 0), (width, 0), (0, height), (width, height)]
        camera += [index] * 4
    cosine = cameras.axis_cosine(torch.tensor(camera), torch.tensor(corners, dtype=torch.float64))
    return near_z, far_z / max(float(cosine.nan_to_num(1.0).min()), 0.1)


def _shown(value: Any) -> str:
    """A value for a message, cut to a length that a line bears."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
