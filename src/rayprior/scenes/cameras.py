"""Cameras: pixel <-> ray. The only home of intrinsics and lens distortion.

Axes are OpenCV's (x right, y down, z forward), poses camera-to-world, pixel centres at +0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Lens = Literal["pinhole", "opencv", "fisheye"]
NEWTON_STEPS = 12  # inverts every lens of the test sets to 1e-12; the last steps are quadratic


@dataclass(frozen=True, eq=False)
class Cameras:
    """A batch of cameras; float64, so that a pose survives import and export unchanged.

    c2w         camera-to-world, [R | t], in the units of the scene
    focal_px    (fx, fy)
    centre_px   principal point (cx, cy); a picture's top left corner is (0, 0)
    size        (width, height) in pixels
    lens        'opencv': distortion is k1, k2, p1, p2, k3; 'fisheye': k1..k4 of the equidistant model
    """

    c2w: Float[Tensor, "n 3 4"]
    focal_px: Float[Tensor, "n 2"]
    centre_px: Float[Tensor, "n 2"]
    size: Int[Tensor, "n 2"]
    lens: Lens = "pinhole"
    distortion: Float[Tensor, "n d"] | None = None

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index) -> Cameras:
        """The cameras of an index, slice, mask or list; always a batch."""
        index = [index] if isinstance(index, int) else index
        picked = {k: getattr(self, k)[index] for k in ("c2w", "focal_px", "centre_px", "size")}
        distortion = None if self.distortion is None else self.distortion[index]
        return replace(self, **picked, distortion=distortion)

    @property
    def origins(self) -> Float[Tensor, "n 3"]:
        return self.c2w[:, :, 3]

    @property
    def forward(self) -> Float[Tensor, "n 3"]:
        return self.c2w[:, :, 2]

    def scaled(self, size: Int[Tensor, "n 2"]) -> Cameras:
        """The same cameras for pictures resized to `size` (width, height)."""
        ratio = size / self.size
        return replace(self, focal_px=self.focal_px * ratio, centre_px=self.centre_px * ratio, size=size)

    def directions(self, camera: Int[Tensor, "r"], pixel: Float[Tensor, "r 2"]) -> Float[Tensor, "r 3"]:
        """Unit viewing directions in world axes through `pixel` (u, v), float64."""
        # index_select is eight times faster than indexing here
        centre, focal = self.centre_px.index_select(0, camera), self.focal_px.index_select(0, camera)
        xy = (pixel.to(self.c2w.dtype) - centre) / focal  # (r, 2)
        if self.distortion is None:
            local = torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)
        elif self.lens == "opencv":
            xy = _undistort_opencv(xy, self.distortion[camera])
            local = torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)
        else:
            local = _unproject_fisheye(xy, self.distortion[camera])
        local = local / local.norm(dim=1, keepdim=True)
        return torch.bmm(self.c2w[:, :, :3].index_select(0, camera), local[:, :, None])[:, :, 0]

    @cached_property
    def _through_pixel(self) -> Float[Tensor, "n 3 2"]:
        """What (u, v) adds to an undistorted ray's direction, world axes: the first columns of R K^-1."""
        return self.c2w[:, :, :2] / self.focal_px[:, None]

    @cached_property
    def _through_corner(self) -> Float[Tensor, "n 3 1"]:
        """The undistorted direction through (0, 0), world axes: the last column of R K^-1."""
        return self.c2w[:, :, 2:3] - self._through_pixel @ self.centre_px[:, :, None]

    def project(
        self, points: Float[Tensor, "r 3"], camera: Int[Tensor, "r"]
    ) -> tuple[Float[Tensor, "r 2"], Float[Tensor, "r"], Bool[Tensor, "r"]]:
        """World points -> (pixel (u, v), distance along the ray, visible: in front and inside the picture)."""
        c2w = self.c2w[camera]
        offset = points.to(c2w.dtype) - c2w[:, :, 3]
        local = torch.bmm(c2w[:, :, :3].transpose(1, 2), offset[:, :, None])[:, :, 0]  # (r, 3)
        z = local[:, 2]
        if self.lens == "fisheye" and self.distortion is not None:
            xy = _project_fisheye(local, self.distortion[camera])
        else:
            xy = local[:, :2] / torch.where(z > 0, z, torch.nan)[:, None]
            if self.distortion is not None:
                xy = _distort_opencv(xy, self.distortion[camera])
        pixel = xy * self.focal_px[camera] + self.centre_px[camera]
        size = self.size[camera]
        ahead = z > 0
        if self.distortion is not None:
            side = local[:, :2].norm(dim=1)
            radius = torch.atan2(side, z) if self.lens == "fisheye" else side / z
            ahead &= radius <= _fold(self.distortion, self.lens)[camera]
        inside = ahead & (pixel >= 0).all(dim=1) & (pixel < size).all(dim=1)
        return pixel, offset.norm(dim=1), inside

    def distance_from_depth(
        self, depth: Float[Tensor, "r"], camera: Int[Tensor, "r"], pixel: Float[Tensor, "r 2"]
    ) -> Float[Tensor, "r"]:
        """z-depth (in files and pictures) -> distance along the ray: z |K^-1 (u, v, 1)|."""
        return depth / self.axis_cosine(camera, pixel)

    def axis_cosine(self, camera: Int[Tensor, "r"], pixel: Float[Tensor, "r 2"]) -> Float[Tensor, "r"]:
        """Cosine between the ray and the optical axis: depth = distance x cosine."""
        return (self.directions(camera, pixel) * self.forward[camera]).sum(dim=1)

    def pixel_grid(self, index: int) -> Float[Tensor, "hw 2"]:
        """Centres of all pixels of one camera, row by row."""
        width, height = self.size[index].tolist()
        v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return torch.stack([u.reshape(-1), v.reshape(-1)], dim=1)


def cat_cameras(parts: list[Cameras]) -> Cameras:
    """One batch of several; a pinhole joins a distorted batch as a lens with zero distortion."""
    lenses = {part.lens for part in parts if part.distortion is not None}
    if len(lenses) > 1:
        raise ValueError(f"cameras of lens {sorted(lenses)} can't stand in one batch: undistort the pictures first")
    joined: dict[str, Any] = {
        k: torch.cat([getattr(p, k) for p in parts]) for k in ("c2w", "focal_px", "centre_px", "size")
    }
    if not lenses:
        return Cameras(**joined)
    lens: Lens = "fisheye" if "fisheye" in lenses else "opencv"
    width = max(part.distortion.shape[1] for part in parts if part.distortion is not None)
    if lens == "fisheye" and any(part.distortion is None for part in parts):
        raise ValueError("pinhole and fisheye cameras can't stand in one batch: undistort the pictures first")
    none = [torch.zeros(len(part), width, dtype=part.c2w.dtype) for part in parts]
    distortion = [zero if part.distortion is None else part.distortion for part, zero in zip(parts, none, strict=True)]
    return Cameras(**joined, lens=lens, distortion=torch.cat(distortion))


def _fold(k: Tensor, lens: Lens) -> Float[Tensor, "n"]:
    """Where the radial polynomial stops growing (in tan of the angle; fisheye: in the angle); inf where it never does.

    Points farther from the axis are in no picture, although the polynomial brings them back into it.
    """
    radial, most = (k, torch.pi) if lens == "fisheye" else (k[:, [0, 1, 4]], 12.0)
    radius = torch.linspace(0, most, 1024, dtype=k.dtype)
    even = torch.arange(2, 2 * radial.shape[1] + 1, 2, dtype=k.dtype)
    slope = 1 + (radial[:, None] * (even + 1) * radius[:, None] ** even).sum(dim=2)  # (n, 1024)
    falls = slope <= 0
    return torch.where(falls.any(dim=1), radius[falls.int().argmax(dim=1)], torch.inf)


def _distort_opencv(xy: Tensor, k: Tensor) -> Tensor:
    """The Brown-Conrady model, coefficients k1, k2, p1, p2, k3."""
    x, y = xy[:, 0], xy[:, 1]
    k1, k2, p1, p2, k3 = k.unbind(dim=1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return torch.stack([x * radial + dx, y * radial + dy], dim=1)


def _undistort_opencv(target: Tensor, k: Tensor) -> Tensor:
    """Newton's method on the 2x2 system distort(xy) = target."""
    k1, k2, p1, p2, k3 = k.unbind(dim=1)
    xy = target.clone()
    for _ in range(NEWTON_STEPS):
        x, y = xy[:, 0], xy[:, 1]
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        slope = 2 * (k1 + r2 * (2 * k2 + 3 * r2 * k3))  # d radial / d x = slope * x
        error = _distort_opencv(xy, k) - target
        a = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
        b = slope * x * y + 2 * p1 * x + 2 * p2 * y
        d = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
        determinant = a * d - b * b
        step = torch.stack([d * error[:, 0] - b * error[:, 1], a * error[:, 1] - b * error[:, 0]], dim=1)
        xy = xy - step / determinant[:, None]
    return xy


def _fisheye_radius(theta: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Image radius theta (1 + k1 theta^2 + ...) of the equidistant model, and its derivative."""
    powers = theta[:, None] ** torch.arange(2, 2 * k.shape[1] + 1, 2, dtype=theta.dtype)  # (r, d)
    odd = torch.arange(3, 2 * k.shape[1] + 2, 2, dtype=theta.dtype)
    return theta * (1 + (k * powers).sum(dim=1)), 1 + (k * powers * odd).sum(dim=1)


def _project_fisheye(local: Tensor, k: Tensor) -> Tensor:
    side = local[:, :2].norm(dim=1)
    radius, _ = _fisheye_radius(torch.atan2(side, local[:, 2]), k)
    return local[:, :2] * (radius / side.clamp_min(1e-12))[:, None]


def _unproject_fisheye(xy: Tensor, k: Tensor) -> Tensor:
    target = xy.norm(dim=1)
    theta = target.clone()
    for _ in range(NEWTON_STEPS):
        radius, slope = _fisheye_radius(theta, k)
        theta = theta - (radius - target) / slope
    side = torch.sin(theta) / target.clamp_min(1e-12)
    return torch.cat([xy * side[:, None], torch.cos(theta)[:, None]], dim=1)
