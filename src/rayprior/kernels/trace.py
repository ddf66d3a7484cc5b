"""Rays into many small worlds at once: the first surface, its light, hard shadow and mirror image.

Floor: a ray and its shadow ray meet the ball around every body, about 15 operations, and those bodies whose ball they
hit, about 30 more with a root or three quotients; a hit is shaded once, about 60 operations, two roots and a power.
"""

from __future__ import annotations

from math import acos, atan2, floor, inf, pi, sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numba import njit, prange
from torch import Tensor

from rayprior.kernels.threads import threads

NOTHING, BALL, CUBOID, CYLINDER, HALL = range(5)
PLAIN, CHECKER, STRIPES = range(3)
OFFSET = 1e-4  # secondary rays start this far above the surface
TINY = 1e-12
PATCHES = 1 << 16
FAST = {"contract", "arcp", "nsz", "reassoc"}  # infinities stay


class Worlds(NamedTuple):
    """n worlds of k bodies and one lamp, z up; float64, kinds and textures int64.

    kind      of each body. A HALL is a cuboid seen from within: rays meet the far side, and it casts no shadow. It is
              the last body, and has three surfaces: walls, floor, ceiling
    shape     half sides (x, y, z), of a ball its radius three times; its middle; cosine and sine of its turn about z;
              the square of the radius of the ball around it
    texture   of each surface: PLAIN, CHECKER, STRIPES
    look      colour, other colour, cells or pairs of stripes along the surface's two coordinates; specular, shininess,
              mirror (reflectance seen straight on)
    light     lamp's place, its rgb at distance 1, sky's rgb above and below, ambient share of the sky, background's rgb

    A surface's coordinates are the azimuth in turns and the height as a share (of a ball the angle from the top); on a
    cuboid the face's own two, in units of length.
    """

    kind: Int[Tensor, "n k"]
    shape: Float[Tensor, "n k 9"]
    texture: Int[Tensor, "n k+2"]
    look: Float[Tensor, "n k+2 11"]
    light: Float[Tensor, "n 16"]


class Traced(NamedTuple):
    """What rays meet. distance: inf where nothing; rgb: in [0, 1], there the background; patch: a number that differs
    between neighbours across an edge: of a body, a face, a texture, a shadow, or of what a mirror shows."""

    distance: Float[Tensor, "r"]
    rgb: Float[Tensor, "r 3"]
    patch: Int[Tensor, "r"]


def trace(
    worlds: Worlds, which: Int[Tensor, "r"], origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]
) -> Traced:
    """What unit rays, each in the world `which`, meet first; float64.

    The colour is ambient + Lambert + Blinn-Phong of a lamp whose light falls with the square of the distance and casts
    hard shadows, and one mirror bounce (Schlick 1994, eq. 15), whose rays see the sky where they meet nothing.
    """
    if origins.is_cuda:
        return trace_reference(worlds, which, origins, directions)
    count = len(which)
    found = Traced(
        torch.empty(count, dtype=torch.float64),
        torch.empty(count, 3, dtype=torch.float64),
        torch.empty(count, dtype=torch.int64),
    )
    arrays: Any = [a.contiguous().numpy() for a in (*worlds, which, origins.double(), directions.double(), *found)]
    _trace(threads(), *arrays)
    return found


# -- the reference -----------------------------------------------------------------------------------------------------


def trace_reference(
    worlds: Worlds, which: Int[Tensor, "r"], origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]
) -> Traced:
    """The same in plain PyTorch: every ray with every body, then a choice."""
    mine = Worlds(*(part[which] for part in worlds))
    first = _lit_reference(mine, origins.double(), directions.double(), sky=False)
    bounced = directions + 2 * first.cosine[:, None] * first.normal
    image = _lit_reference(mine, first.above, bounced, sky=True)
    share = (first.mirror + (1 - first.mirror) * (1 - first.cosine) ** 5)[:, None]
    shiny = first.mirror > 0
    return Traced(
        first.distance,
        torch.where(shiny[:, None], torch.lerp(first.rgb, image.rgb, share), first.rgb),
        torch.where(shiny, (first.patch + 1) * PATCHES + image.patch, first.patch),
    )


class _Lit(NamedTuple):
    distance: Tensor
    rgb: Tensor
    patch: Tensor
    mirror: Tensor
    cosine: Tensor
    normal: Tensor
    above: Tensor


def _lit_reference(mine: Worlds, origins: Tensor, directions: Tensor, sky: bool) -> _Lit:
    reached = _hits(mine, origins, directions)  # (r, k)
    distance, body = reached.min(dim=1)
    met = distance < inf
    ray = torch.arange(len(body))
    kind, shape = mine.kind[ray, body], mine.shape[ray, body]
    points = origins + directions * torch.where(met, distance, 0.0)[:, None]
    own = _turned(points - shape[:, 3:6], shape[:, 6], -shape[:, 7])
    normal, chart, more = _surfaces(kind, shape, own)
    x, y, z = normal.long().unbind(dim=1)
    face = torch.where(kind == BALL, 0, torch.where(kind == CYLINDER, 9 * z, x + 3 * y + 9 * z)) + 13
    normal = _turned(normal, shape[:, 6], shape[:, 7])
    cosine = -(normal * directions).sum(dim=1)
    normal = torch.where(cosine[:, None] < 0, -normal, normal)
    surface = body + more
    look, texture = mine.look[ray, surface], mine.texture[ray, surface]
    cells = chart * look[:, 6:8]
    checked, phase = cells.floor().sum(dim=1) % 2 >= 1, cells.sum(dim=1) % 1
    other = torch.where(texture == CHECKER, checked, (texture == STRIPES) & (phase >= 0.5))
    colour = torch.where(other[:, None], look[:, 3:6], look[:, 0:3])
    light = mine.light
    above = points + OFFSET * normal
    offset = light[:, 0:3] - points
    reach = offset.norm(dim=1).clamp_min(TINY)
    towards = offset / reach[:, None]
    lambert = (normal * towards).sum(dim=1)
    shading = (_hits(mine, above, towards) < reach[:, None]) & (mine.kind != HALL)
    lit = (lambert > 0) & ~shading.any(dim=1)
    half = F.normalize(towards - directions, dim=1, eps=TINY)
    shine = look[:, 8] * (normal * half).sum(dim=1).clamp_min(0) ** look[:, 9]
    arriving = light[:, 3:6] / reach.square()[:, None] * (colour * lambert[:, None] + shine[:, None])
    rgb = colour * light[:, 12:13] * _sky(light, normal[:, 2]) + torch.where(lit[:, None], arriving, 0.0)
    behind = _sky(light, directions[:, 2]) if sky else light[:, 13:16]
    return _Lit(
        distance=distance,
        rgb=torch.where(met[:, None], rgb.clamp(0, 1), behind),
        patch=torch.where(met, 1 + lit + 2 * other + 4 * (face + 27 * surface), 0),
        mirror=torch.where(met, look[:, 10], 0.0),
        cosine=cosine.abs(),
        normal=normal,
        above=above,
    )


def _hits(mine: Worlds, origins: Tensor, directions: Tensor) -> Float[Tensor, "r k"]:
    """Distance of every ray to every body; inf where it is missed."""
    kind, shape = mine.kind, mine.shape
    half, cosine, sine = shape[..., :3], shape[..., 6], shape[..., 7]
    o = _turned(origins[:, None] - shape[..., 3:6], cosine, -sine)
    d = _turned(directions[:, None].expand_as(o), cosine, -sine)
    middle = -(o * d).sum(dim=2)
    squared = half[..., 0].square() - (o + middle[..., None] * d).square().sum(dim=2)
    reach = squared.clamp_min(0).sqrt()
    ball = torch.where(squared < 0, inf, middle - reach), middle + reach
    inverse = 1 / torch.where(d.abs() > TINY, d, TINY)
    a, b = (-half - o) * inverse, (half - o) * inverse
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    across = d[..., :2].square().sum(dim=2).clamp_min(TINY**2)
    middle = -(o * d)[..., :2].sum(dim=2) / across
    aside = (o + middle[..., None] * d)[..., :2]
    squared = (half[..., 0].square() - aside.square().sum(dim=2)) / across
    reach = squared.clamp_min(0).sqrt()
    tube = torch.where(squared < 0, inf, middle - reach), middle + reach
    cylinder = torch.maximum(tube[0], low[..., 2]), torch.minimum(tube[1], high[..., 2])
    enter = torch.where(kind == BALL, ball[0], torch.where(kind == CYLINDER, cylinder[0], low.amax(dim=2)))
    leave = torch.where(kind == BALL, ball[1], torch.where(kind == CYLINDER, cylinder[1], high.amin(dim=2)))
    first = torch.where((enter > 0) & (kind != HALL), enter, leave)
    return torch.where((enter <= leave) & (leave > 0) & (kind != NOTHING), first, inf)


def _surfaces(kind: Tensor, shape: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(outward normal, two coordinates, surface after the body's first) of points, in the bodies' own axes."""
    x, y, z = own.unbind(dim=1)
    half = shape[:, :3]
    radius, aside = own.norm(dim=1).clamp_min(TINY), own[:, :2].norm(dim=1).clamp_min(TINY)
    azimuth = torch.atan2(y, x) / (2 * pi) + 0.5
    zero = torch.zeros_like(x)
    cap = z.abs() - half[:, 2] > aside - half[:, 0]
    face = (own.abs() - half).argmax(dim=1)
    flat = torch.zeros_like(own).scatter(1, face[:, None], own.gather(1, face[:, None]).sign())
    others = torch.tensor([[1, 2], [0, 2], [0, 1]])[face]
    ball, tube, hall = kind == BALL, kind == CYLINDER, kind == HALL
    round_ = torch.where(
        cap[:, None], torch.stack([zero, zero, z.sign()], dim=1), torch.stack([x / aside, y / aside, zero], dim=1)
    )
    normal = torch.where(ball[:, None], own / radius[:, None], torch.where(tube[:, None], round_, flat))
    polar = (z / radius).clamp(-1, 1).arccos() / pi
    height = torch.where(cap, aside, z + half[:, 2]) / (2 * half[:, 2])
    turned = torch.stack([azimuth, torch.where(ball, polar, height)], dim=1)
    chart = torch.where((ball | tube)[:, None], turned, own.gather(1, others))
    level = torch.where(z > 0, 2, 1)
    return normal, chart, torch.where(hall & (face == 2), level, 0)


def _turned(vector: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turned about z by the angle of this cosine and sine."""
    x, y, z = vector.unbind(dim=-1)
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y, z], dim=-1)


def _sky(light: Float[Tensor, "r 16"], height: Float[Tensor, "r"]) -> Float[Tensor, "r 3"]:
    """The sky's colour in directions of this height."""
    return torch.lerp(light[:, 9:12], light[:, 6:9], ((height + 1) / 2)[:, None])


# -- its fast twin -----------------------------------------------------------------------------------------------------


@njit(fastmath=FAST, cache=True, nogil=True, error_model="numpy", inline="always")
def _slab(o, d, half):
    """Where a ray enters and leaves |x| <= half (Kay and Kajiya 1986)."""
    inverse = 1 / (d if abs(d) > TINY else TINY)
    a, b = (-half - o) * inverse, (half - o) * inverse
    return min(a, b), max(a, b)


@njit(fastmath=FAST, cache=True, nogil=True, error_model="numpy", inline="always")
def _hit(kind, shape, k, ox, oy, oz, dx, dy, dz):
    """Distance to a body's surface; inf where it is missed."""
    x, y, z = ox - shape[k, 3], oy - shape[k, 4], oz - shape[k, 5]
    middle = -(x * dx + y * dy + z * dz)
    cx, cy, cz = x + middle * dx, y + middle * dy, z + middle * dz
    squared = shape[k, 8] - (cx * cx + cy * cy + cz * cz)
    if squared < 0:
        return inf
    if kind[k] == BALL:
        reach = sqrt(squared)
        enter, leave = middle - reach, middle + reach
    else:
        cosine, sine = shape[k, 6], shape[k, 7]
        x, y = cosine * x + sine * y, cosine * y - sine * x
        tx, ty = cosine * dx + sine * dy, cosine * dy - sine * dx
        enter, leave = _slab(z, dz, shape[k, 2])
        if kind[k] == CYLINDER:
            across = max(tx * tx + ty * ty, TINY * TINY)
            middle = -(x * tx + y * ty) / across
            x, y = x + middle * tx, y + middle * ty
            squared = (shape[k, 0] * shape[k, 0] - (x * x + y * y)) / across
            if squared < 0:
                return inf
            reach = sqrt(squared)
            enter, leave = max(enter, middle - reach), min(leave, middle + reach)
        else:
            low, high = _slab(x, tx, shape[k, 0])
            enter, leave = max(enter, low), min(leave, high)
            low, high = _slab(y, ty, shape[k, 1])
            enter, leave = max(enter, low), min(leave, high)
    if enter > leave or leave <= 0:
        return inf
    return enter if enter > 0 and kind[k] != HALL else leave


@njit(fastmath=FAST, cache=True, nogil=True, error_model="numpy")
def _nearest(kind, shape, ox, oy, oz, dx, dy, dz):
    """(distance, body) of the first surface; (inf, -1) where there is none."""
    first, which = inf, -1
    for k in range(kind.shape[0]):
        if kind[k] != NOTHING:
            t = _hit(kind, shape, k, ox, oy, oz, dx, dy, dz)
            if t < first:
                first, which = t, k
    return first, which


@njit(fastmath=FAST, cache=True, nogil=True, error_model="numpy")
def _blocked(kind, shape, ox, oy, oz, dx, dy, dz, reach):
    """Whether a body stands between a point and a lamp at distance `reach`."""
    for k in range(kind.shape[0]):
        casts = kind[k] != NOTHING and kind[k] != HALL
        if casts and _hit(kind, shape, k, ox, oy, oz, dx, dy, dz) < reach:
            return True
    return False


@njit(fastmath=FAST, cache=True, nogil=True, error_model="numpy")
def _surface(kind, shape, k, x, y, z):
    """(normal, two coordinates, surface after the body's first) of a point of a body, in the body's own axes."""
    if kind[k] == BALL:
        r = max(sqrt(x * x + y * y + z * z), TINY)
        return x / r, y / r, z / r, atan2(y, x) / (2 * pi) + 0.5, acos(min(max(z / r, -1.0), 1.0)) / pi, 0
    if kind[k] == CYLINDER:
        r, height = max(sqrt(x * x + y * y), TINY), 2 * shape[k, 2]
        azimuth = atan2(y, x) / (2 * pi) + 0.5
        if abs(z) - shape[k, 2] > r - shape[k, 0]:
            return 0.0, 0.0, 1.0 if z > 0 else -1.0, azimuth, r / height, 0
        return x / r, y / r, 0.0, azimuth, (z + shape[k, 2]) / height, 0
    ex, ey, ez = abs(x) - shape[k, 0], abs(y) - shape[k, 1], abs(z) - shape[k, 2]
    if ex >= ey and ex >= ez:
        return 1.0 if x > 0 else -1.0, 0.0, 0.0, y, z, 0
    if ey >= ez:
        return 0.0, 1.0 if y > 0 else -1.0, 0.0, x, z, 0
    return 0.0, 0.0, 1.0 if z > 0 else -1.0, x, y, 0 if kind[k] != HALL else 2 if z > 0 else 1


@njit(fastmath=FAST, cache=True, nogil=True, error_model="numpy")
def _second(texture, look, s, u, v):
    """1 where a surface shows its other colour at these coordinates, else 0."""
    if texture[s] == CHECKER:
        cell = floor(u * look[s, 6]) + floor(v * look[s, 7])
        return 1 if cell - 2 * floor(cell / 2) >= 1 else 0
    if texture[s] == STRIPES:
        phase = u * look[s, 6] + v * look[s, 7]
        return 1 if phase - floor(phase) >= 0.5 else 0
    return 0


@njit(fastmath=FAST, cache=True, nogil=True, error_model="numpy")
def _lit(kind, shape, texture, look, light, ox, oy, oz, dx, dy, dz, sky, out):
    """What one ray meets, without mirrors; its colour goes to `out`. sky: that is what it sees where it meets nothing.

    Returns (distance, patch, mirror, cosine to the ray, normal, point above the surface).
    """
    t, k = _nearest(kind, shape, ox, oy, oz, dx, dy, dz)
    if k < 0:
        share = (dz + 1) / 2
        for c in range(3):
            out[c] = light[9 + c] + (light[6 + c] - light[9 + c]) * share if sky else light[13 + c]
        return t, 0, 0.0, 0.0, 0.0, 0.0, 0.0, ox, oy, oz
    cosine, sine = shape[k, 6], shape[k, 7]
    px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
    x, y, z = px - shape[k, 3], py - shape[k, 4], pz - shape[k, 5]
    nx, ny, nz, u, v, more = _surface(kind, shape, k, cosine * x + sine * y, cosine * y - sine * x, z)
    face = 13  # of flat sides, whose normals are whole numbers here
    if kind[k] != BALL:
        face += 9 * int(nz)
        if kind[k] != CYLINDER:
            face += int(nx) + 3 * int(ny)
    nx, ny = cosine * nx - sine * ny, sine * nx + cosine * ny
    facing = nx * dx + ny * dy + nz * dz
    if facing > 0:
        nx, ny, nz, facing = -nx, -ny, -nz, -facing
    s = k + more
    other = _second(texture, look, s, u, v)
    share = (nz + 1) / 2
    for c in range(3):
        out[c] = look[s, 3 * other + c] * light[12] * (light[9 + c] + (light[6 + c] - light[9 + c]) * share)
    ax, ay, az = px + OFFSET * nx, py + OFFSET * ny, pz + OFFSET * nz
    lx, ly, lz = light[0] - px, light[1] - py, light[2] - pz
    reach = max(sqrt(lx * lx + ly * ly + lz * lz), TINY)
    lx, ly, lz = lx / reach, ly / reach, lz / reach
    lambert = nx * lx + ny * ly + nz * lz
    lit = 1 if lambert > 0 and not _blocked(kind, shape, ax, ay, az, lx, ly, lz, reach) else 0
    if lit:
        shine = 0.0
        if look[s, 8] > 0:
            hx, hy, hz = lx - dx, ly - dy, lz - dz
            half = (nx * hx + ny * hy + nz * hz) / max(sqrt(hx * hx + hy * hy + hz * hz), TINY)
            shine = look[s, 8] * max(half, 0.0) ** look[s, 9]
        for c in range(3):
            out[c] += light[3 + c] / (reach * reach) * (look[s, 3 * other + c] * lambert + shine)
    for c in range(3):
        out[c] = min(max(out[c], 0.0), 1.0)
    return t, 1 + lit + 2 * other + 4 * (face + 27 * s), look[s, 10], -facing, nx, ny, nz, ax, ay, az


@njit(parallel=True, fastmath=FAST, cache=True, nogil=True, error_model="numpy")
def _trace(parts, kind, shape, texture, look, light, which, origins, directions, distance, rgb, patch):
    rays = which.shape[0]
    for part in prange(parts):
        image = np.empty(3)
        for r in range(part * rays // parts, (part + 1) * rays // parts):
            n, out = which[r], rgb[r]
            ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
            dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
            distance[r], patch[r], mirror, cosine, nx, ny, nz, ax, ay, az = _lit(
                kind[n], shape[n], texture[n], look[n], light[n], ox, oy, oz, dx, dy, dz, False, out
            )
            if mirror > 0:
                dx, dy, dz = dx + 2 * cosine * nx, dy + 2 * cosine * ny, dz + 2 * cosine * nz
                seen = _lit(kind[n], shape[n], texture[n], look[n], light[n], ax, ay, az, dx, dy, dz, True, image)
                share = mirror + (1 - mirror) * (1 - cosine) ** 5
                patch[r] = (patch[r] + 1) * PATCHES + seen[1]
                for c in range(3):
                    out[c] += (image[c] - out[c]) * share
