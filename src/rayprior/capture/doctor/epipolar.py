"""Two views of matched pixels: epipolar distance, depth by triangulation, the rotation that explains them best, and the
poses that a capture would have if its files had been meant in another convention.

Hartley and Zisserman, Multiple View Geometry, chapters 9 (E = [t]x R) and 12 (triangulation).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rayprior.maths.poses import nearest_rotation
from rayprior.scenes.cameras import Cameras

ROUNDS = 8  # of the robust fit of a rotation


@dataclass(frozen=True, eq=False)
class Matches:
    """Pixels of the same thing in two photos, equally many of each pair.

    pair   the two cameras
    pixel  (u, v) in each, in pixels of the photos as they are
    count  how many matches the pair has, of which k are taken (some twice, where there are fewer)
    """

    pair: Int[Tensor, "p 2"]
    pixel: Float[Tensor, "p 2 k 2"]
    count: Int[Tensor, "p"]

    def __len__(self) -> int:
        return self.pair.shape[0]

    def __getitem__(self, which: Tensor) -> Matches:
        """The pairs of an index or a mask."""
        return Matches(self.pair[which], self.pixel[which], self.count[which])


def undistorted(cameras: Cameras, matches: Matches) -> Float[Tensor, "p 2 k 2"]:
    """Where the matched pixels' rays meet the plane z = 1 of their camera's axes."""
    pairs, _, k, _ = matches.pixel.shape
    unturned = replace(cameras, c2w=torch.eye(3, 4, dtype=torch.float64).expand(len(cameras), 3, 4))
    rays = unturned.directions(matches.pair.reshape(-1).repeat_interleave(k), matches.pixel.reshape(-1, 2))
    return (rays[:, :2] / rays[:, 2:].clamp_min(1e-3)).view(pairs, 2, k, 2)


def relative(c2w: Float[Tensor, "n 3 4"], pair: Int[Tensor, "p 2"]) -> tuple[Tensor, Tensor]:
    """Rotation (p, 3, 3) and translation (p, 3) that bring points from the first camera's axes to the second's."""
    first, second = c2w[pair[:, 0]], c2w[pair[:, 1]]
    back = second[:, :, :3].transpose(1, 2)
    return back @ first[:, :, :3], (back @ (first[:, :, 3:] - second[:, :, 3:]))[:, :, 0]


def epipolar_px(
    c2w: Float[Tensor, "n 3 4"], focal_px: Float[Tensor, "n"], pair: Int[Tensor, "p 2"], xy: Float[Tensor, "p 2 k 2"]
) -> Float[Tensor, "p k"]:
    """Mean of both distances between a match and the epipolar line of its partner, in pixels; nan without baseline.

    focal_px turns distances on the plane z = 1 into pixels.
    """
    turn, shift = relative(c2w, pair)
    length = shift.norm(dim=1, keepdim=True)
    shift = torch.where(length > 0, shift / length, torch.nan)[:, None]
    first, second = F.pad(xy, (0, 1), value=1.0).unbind(dim=1)  # (p, k, 3)
    line = torch.linalg.cross(shift.expand_as(first), first @ turn.transpose(1, 2))
    line_back = torch.linalg.cross(second, shift.expand_as(second)) @ turn
    off = (second * line).sum(dim=2).abs()
    focal = focal_px[pair][:, :, None]
    there = off / line[:, :, :2].norm(dim=2).clamp_min(1e-12) * focal[:, 1]
    return (there + off / line_back[:, :, :2].norm(dim=2).clamp_min(1e-12) * focal[:, 0]) / 2


def triangulated(
    c2w: Float[Tensor, "n 3 4"], pair: Int[Tensor, "p 2"], xy: Float[Tensor, "p 2 k 2"]
) -> tuple[Float[Tensor, "p k 2"], Float[Tensor, "p k"]]:
    """Distances along both rays to where they pass each other (negative: behind), and the sine of their angle."""
    turn, shift = relative(c2w, pair)
    first, second = F.normalize(F.pad(xy, (0, 1), value=1.0), dim=3).unbind(dim=1)
    a, t = first @ turn.transpose(1, 2), shift[:, None]
    cosine, along_a, along_b = (a * second).sum(dim=2), (a * t).sum(dim=2), (second * t).sum(dim=2)
    sine_squared = (1 - cosine.square()).clamp_min(1e-12)
    near = (cosine * along_b - along_a) / sine_squared
    far = (along_b - cosine * along_a) / sine_squared
    return torch.stack([near, far], dim=2), sine_squared.sqrt()


def in_front(distance: Float[Tensor, "p k 2"], sine: Float[Tensor, "p k"]) -> Bool[Tensor, "p k"]:
    """Whether both cameras have the point ahead; rays that are nearly parallel can't tell, and pass."""
    return (distance > 0).all(dim=2) | (sine < 2e-3)


def parallax_px(
    focal_px: Float[Tensor, "n"], pair: Int[Tensor, "p 2"], xy: Float[Tensor, "p 2 k 2"]
) -> Float[Tensor, "p"]:
    """What is left of the matches' motion, median in pixels, after the rotation that explains them best (Kabsch,
    reweighted for the median): nothing where a camera only turned. Knows no poses."""
    first, second = F.normalize(F.pad(xy, (0, 1), value=1.0), dim=3).unbind(dim=1)
    weight = torch.ones_like(first[:, :, :1])
    angle = weight
    for _ in range(ROUNDS):
        turn = nearest_rotation((second * weight).transpose(1, 2) @ first)
        angle = torch.linalg.cross(first @ turn.transpose(1, 2), second).norm(dim=2, keepdim=True)
        weight = 1 / angle.clamp_min(1e-4)
    return angle[:, :, 0].median(dim=1).values * focal_px[pair].mean(dim=1)


# -- what else the poses could mean ------------------------------------------------------------------------------------

AXES: dict[tuple[int, ...], str] = {
    (1, -2, -3): "camera axes are OpenGL's where OpenCV's are expected, or the other way round: negate columns y and z",
    (2, 1, -3): "camera axes are LLFF's (down, right, backward) where OpenCV's are expected, or the other way round",
    (-2, 1, 3): "camera axes are LLFF's (down, right, backward) where OpenGL's are expected",
    (2, -1, 3): "camera axes are OpenGL's where LLFF's (down, right, backward) are expected",
    (-1, -2, 3): "cameras are turned by 180 degrees about their optical axis: negate columns x and y",
    (-1, 2, -3): "cameras look backwards: negate columns x and z",
}


@dataclass(frozen=True, eq=False)
class Convention:
    """Another meaning of a capture's poses, in words, and the poses in ours."""

    says: str
    c2w: Float[Tensor, "n 3 4"]


def conventions(c2w: Float[Tensor, "n 3 4"]) -> Iterator[Convention]:
    """What the files could have meant, simplest first. Poses that differ by one motion of the whole world are equal to
    every check of pairs, so that turned worlds are not listed."""
    rotation, position = c2w[:, :, :3], c2w[:, :, 3:]
    opengl = torch.tensor([1.0, -1, -1], dtype=c2w.dtype)
    whole: list[tuple[str, Tensor]] = [("", c2w), (_INVERTED, inverted(c2w))]
    for axes in (torch.ones_like(opengl), opengl):  # in our axes, and in those of files that hold OpenGL's
        as_filed = rotation * axes
        transposed = as_filed.transpose(1, 2)
        whole.append(("rotations are transposed", torch.cat([transposed * axes, position], dim=2)))
        whole.append(("positions are world-to-camera translations", torch.cat([rotation, -as_filed @ position], dim=2)))
    for turn in turns():
        for says, poses in whole:
            word = _axes_in_words(turn)
            text = "; ".join(part for part in (says, word) if part)
            yield Convention(text or "as stored", torch.cat([poses[:, :, :3] @ turn, poses[:, :, 3:]], dim=2))
    for turn in turns():
        text = f"rotations are in other world axes than positions ({_turned(turn)})"
        yield Convention(text, torch.cat([turn @ rotation, position], dim=2))


def inverted(c2w: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
    """World-to-camera from camera-to-world, and back."""
    back = c2w[:, :, :3].transpose(1, 2)
    return torch.cat([back, -back @ c2w[:, :, 3:]], dim=2)


def turns() -> list[Float[Tensor, "3 3"]]:
    """The 24 rotations that carry axes to axes; the unturned first, then OpenGL's."""
    made = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        turn = torch.zeros(3, 3, dtype=torch.float64)
        turn[list(order), [0, 1, 2]] = torch.tensor(signs, dtype=torch.float64)
        if torch.det(turn) > 0:
            made.append(turn)
    return sorted(made, key=lambda turn: _rank(turn))


_INVERTED = "poses are world-to-camera where camera-to-world is expected: invert them"


def _signed(turn: Tensor) -> tuple[int, ...]:
    """Column by column the axis it holds, 1 to 3, with its sign."""
    axis = turn.abs().argmax(dim=0)
    return tuple(int(turn[a, i]) * (int(a) + 1) for i, a in enumerate(axis))


def _rank(turn: Tensor) -> tuple[int, ...]:
    signed = _signed(turn)
    known: list[tuple[int, ...]] = [(1, 2, 3), *AXES]
    return (known.index(signed) if signed in known else len(known), *signed)


def _axes_in_words(turn: Tensor) -> str:
    signed = _signed(turn)
    return "" if signed == (1, 2, 3) else AXES.get(signed, f"camera axes are turned: columns become ({_turned(turn)})")


def _turned(turn: Tensor) -> str:
    return ", ".join(("-" if axis < 0 else "") + "xyz"[abs(axis) - 1] for axis in _signed(turn))
