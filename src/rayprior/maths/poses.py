"""Poses: conversions of axes, look-at, averages, interpolation, alignment (Umeyama)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def opencv_from_opengl(c2w: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
    """OpenGL camera axes (y up, z backward) <-> OpenCV's: negate columns y and z. Its own inverse."""
    return c2w * c2w.new_tensor([1, -1, -1, 1])


def opencv_from_llff(c2w: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
    """LLFF columns (down, right, backward) -> OpenCV (right, down, forward)."""
    return torch.stack([c2w[:, :, 1], c2w[:, :, 0], -c2w[:, :, 2], c2w[:, :, 3]], dim=2)


def llff_from_opencv(c2w: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
    """OpenCV (right, down, forward) -> LLFF columns (down, right, backward)."""
    return opencv_from_llff(c2w)  # swapping two columns and negating the third undoes itself


def look_at(
    origins: Float[Tensor, "n 3"], target: Float[Tensor, "3"] | Float[Tensor, "n 3"], up: Float[Tensor, "3"]
) -> Float[Tensor, "n 3 4"]:
    """OpenCV poses at `origins` that look at `target`; `up` is up in the picture."""
    forward = F.normalize(target - origins, dim=-1)
    right = torch.linalg.cross(forward, up.expand_as(forward))
    aside = torch.where(forward[:, :1].abs() < 0.9, forward.new_tensor([1.0, 0, 0]), forward.new_tensor([0, 1.0, 0]))
    right = torch.where(right.norm(dim=-1, keepdim=True) < 1e-9, torch.linalg.cross(forward, aside), right)
    right = F.normalize(right, dim=-1)
    down = torch.linalg.cross(forward, right)
    return torch.stack([right, down, forward, origins], dim=2)


def nearest_rotation(matrix: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3 3"]:
    """The rotation closest in Frobenius norm (singular values set to one, determinant +1)."""
    u, _, vh = torch.linalg.svd(matrix)
    sign = torch.ones(matrix.shape[:-1], dtype=matrix.dtype, device=matrix.device)
    sign[..., 2] = torch.det(u @ vh)
    return u @ (sign[..., None] * vh)


def average_pose(c2w: Float[Tensor, "n 3 4"]) -> Float[Tensor, "3 4"]:
    """Mean position; forward and down averaged, then made orthogonal: the pose that LLFF scenes are centred on."""
    forward = F.normalize(c2w[:, :, 2].sum(dim=0), dim=0)
    down = c2w[:, :, 1].sum(dim=0)
    right = F.normalize(torch.linalg.cross(down, forward), dim=0)
    return torch.stack([right, torch.linalg.cross(forward, right), forward, c2w[:, :, 3].mean(dim=0)], dim=1)


def focus_point(c2w: Float[Tensor, "n 3 4"]) -> Float[Tensor, "3"]:
    """The point closest to all optical axes (least squares; regularised where they are parallel)."""
    origins, forward = c2w[:, :, 3], c2w[:, :, 2]
    across = torch.eye(3, dtype=c2w.dtype) - forward[:, :, None] * forward[:, None, :]  # (n, 3, 3)
    damping = 1e-6 * torch.eye(3, dtype=c2w.dtype) * len(c2w)
    right = (across @ origins[:, :, None]).sum(dim=0) + damping @ origins.mean(dim=0)[:, None]
    return torch.linalg.solve(across.sum(dim=0) + damping, right)[:, 0]


def interpolate(
    a: Float[Tensor, "n 3 4"], b: Float[Tensor, "n 3 4"], share: Float[Tensor, "n"]
) -> Float[Tensor, "n 3 4"]:
    """Poses between a (share 0) and b (share 1): straight in position, constant turn in rotation."""
    turn = a[:, :, :3].transpose(1, 2) @ b[:, :, :3]
    rotation = a[:, :, :3] @ rotation_from_vector(vector_from_rotation(turn) * share[:, None])
    position = torch.lerp(a[:, :, 3], b[:, :, 3], share[:, None])
    return torch.cat([rotation, position[:, :, None]], dim=2)


def rotation_from_vector(vector: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Axis times angle (rad) -> rotation."""
    x, y, z = vector.unbind(dim=-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(-1, 3, 3)
    return torch.linalg.matrix_exp(skew)


def vector_from_rotation(rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3"]:
    """Rotation -> axis times angle (rad), angle in [0, pi]."""
    cosine = ((rotation.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2).clamp(-1, 1)
    angle = torch.arccos(cosine)
    skew = (rotation - rotation.transpose(1, 2)) / 2
    axis = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=1)  # axis * sin(angle)
    small = angle < 1e-6
    vector = axis * (angle / torch.sin(angle).clamp_min(1e-12))[:, None]
    vector = torch.where(small[:, None], axis, vector)
    half_turn = angle > torch.pi - 1e-4  # the sine vanishes: the axis is the eigenvector of the symmetric part
    if half_turn.any():
        symmetric = (rotation + rotation.transpose(1, 2)) / 2
        column = F.normalize(torch.linalg.eigh(symmetric).eigenvectors[:, :, -1], dim=-1)
        sign = torch.where((column * axis).sum(dim=1) < 0, -1.0, 1.0)
        vector = torch.where(half_turn[:, None], column * (sign * angle)[:, None], vector)
    return vector


def rotation_angle_deg(a: Float[Tensor, "n 3 3"], b: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n"]:
    """Angle between rotations, in degrees."""
    return torch.rad2deg(vector_from_rotation(a.transpose(1, 2) @ b).norm(dim=1))


def umeyama(source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"]) -> tuple[float, Tensor, Tensor]:
    """Scale, rotation, translation with target ~ scale * rotation @ source + translation (Umeyama 1991)."""
    a, b = source - source.mean(dim=0), target - target.mean(dim=0)
    u, s, vh = torch.linalg.svd(b.T @ a / len(a))
    sign = torch.ones(3, dtype=a.dtype)
    sign[2] = torch.sign(torch.det(u @ vh))
    rotation = u @ torch.diag(sign) @ vh
    scale = float((s * sign).sum() / a.square().sum(dim=1).mean())
    return scale, rotation, target.mean(dim=0) - scale * rotation @ source.mean(dim=0)


def interpolate_around(
    a: Float[Tensor, "n 3 4"], b: Float[Tensor, "n 3 4"], share: Float[Tensor, "n"], focus: Float[Tensor, "3"]
) -> Float[Tensor, "n 3 4"]:
    """Poses on the way from a to b around a focus, since between opposite cameras the straight way leads through what
    they look at. What is interpolated, beside the rotation, is where in the camera's own axes the focus stands."""
    rotation = interpolate(a, b, share)[:, :, :3]
    of_a, of_b = (c2w[:, :, :3].transpose(1, 2) @ (focus - c2w[:, :, 3])[:, :, None] for c2w in (a, b))
    position = focus[:, None] - rotation @ torch.lerp(of_a, of_b, share[:, None, None])
    return torch.cat([rotation, position], dim=2)


def on_hemisphere(
    origins: Float[Tensor, "t 3"], focus: Float[Tensor, "3"], up: Float[Tensor, "3"], u: Float[Tensor, "3 n"]
) -> Float[Tensor, "n 3 4"]:
    """Poses that look at a focus from the range of elevations (even in area) and distances of `origins`, from all
    around; u: uniforms."""
    offset = origins - focus
    distance = offset.norm(dim=1)
    sine = offset @ up / distance
    radius = torch.lerp(distance.min(), distance.max(), u[0])
    height = torch.lerp(sine.min(), sine.max(), u[1])
    right = F.normalize(torch.linalg.cross(up, torch.eye(3, dtype=up.dtype)[up.abs().argmin()]), dim=0)
    ahead = torch.linalg.cross(up, right)
    azimuth = 2 * torch.pi * u[2, :, None]
    level = azimuth.cos() * right + azimuth.sin() * ahead
    direction = height[:, None] * up + (1 - height.square()).clamp_min(0).sqrt()[:, None] * level
    return look_at(focus + radius[:, None] * direction, focus, up)


def rotation_xyz(angles: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Rx(a) Ry(b) Rz(c) of angles (a, b, c) in radians."""
    x, y, z = (rotation_from_vector(part) for part in torch.diag_embed(angles).unbind(dim=1))
    return x @ y @ z
