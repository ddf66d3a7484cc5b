"""Shapes of thin things, in the protocol of shapes.py: round-ended rods, bent wire, a bowl with holes."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan, pi, radians, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.scenes.synthetic.shapes import Interval, _around, _slab, _turn, dot

ROOT_STEPS = 40  # the most; bisection alone leaves 1e-12 of a bracket


@dataclass(frozen=True)
class Capsule:
    """A rod along z with round ends: all points within `radius` of |z| <= half_height. Chart: (azimuth in turns, height
    in whole heights)."""

    radius: float
    half_height: float

    def interval(self, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]) -> Interval:
        """Where a ray enters the endless cylinder tells which end's ball it may enter instead; so for leaving."""
        across = dot(directions[:, :2], directions[:, :2])
        safe = across.clamp_min(1e-20)
        middle = -dot(origins[:, :2], directions[:, :2]) / safe
        closest = origins[:, :2] + directions[:, :2] * middle[:, None]
        enter, leave = _around(middle, (self.radius**2 - dot(closest, closest)) / safe)
        along = across < 1e-14
        enter, leave = torch.where(along, -inf, enter), torch.where(along, inf, leave)
        return self._end(origins, directions, enter, 0), self._end(origins, directions, leave, 1)

    def _end(self, origins: Tensor, directions: Tensor, distance: Tensor, side: int) -> Tensor:
        height = origins[:, 2] + directions[:, 2] * distance  # nan only where the cylinder is missed
        centre = height.clamp(-self.half_height, self.half_height)
        shifted = torch.cat([origins[:, :2], (origins[:, 2] - centre)[:, None]], dim=1)
        middle = -dot(shifted, directions)
        closest = torch.addcmul(shifted, directions, middle[:, None])
        ball = _around(middle, self.radius**2 - dot(closest, closest))[side]
        return torch.where((height.abs() <= self.half_height) | height.isnan(), distance, ball)

    def normal(self, points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        beside = points[:, 2].clamp(-self.half_height, self.half_height)
        away = torch.cat([points[:, :2], (points[:, 2] - beside)[:, None]], dim=1)
        return away / away.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def chart(self, points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 2"]:
        reach = self.half_height + self.radius
        return torch.stack([_turn(points), (points[:, 2] / reach + 1) / 2], dim=1)

    @property
    def half(self) -> tuple[float, float, float]:
        return self.radius, self.radius, self.half_height + self.radius


@dataclass(frozen=True)
class Torus:
    """Wire of `radius` bent to a circle of radius `ring` about z, or to an arc of it about x. An arc is open at its
    ends. Chart: (azimuth in turns, angle around the wire in turns)."""

    ring: float
    radius: float
    arc_deg: float = 360.0

    def interval(self, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]) -> Interval:
        """The first crossing ahead: the least root of a quartic, found between its turning points."""
        first = torch.full_like(origins[:, 0], inf)
        middle = -dot(origins, directions)
        near = torch.addcmul(origins, directions, middle[:, None])  # as seen from here the quartic has no cubic term
        low, high = self._within(near, directions)
        at = ((low < high) & (high > -middle)).nonzero()[:, 0]
        if len(at):
            middle, near, along, low, high = (x.index_select(0, at) for x in (middle, near, directions, low, high))
            roots = self._roots(near, along, low, high)  # (n, 4)
            kept = (roots > -middle[:, None]) & self._in_arc(near[:, None] + along[:, None] * roots[:, :, None])
            first = first.index_copy(0, at, torch.where(kept, roots, inf).amin(dim=1) + middle)
        return first, torch.where(first.isinf(), -inf, first)

    def _within(self, origins: Tensor, directions: Tensor) -> Interval:
        """Between which distances a ray is in the flat disc that holds the ring; low > high where it passes that, or
        goes through the hole."""
        flat_low, flat_high = _slab(origins[:, 2:], directions[:, 2:], origins.new_tensor([self.radius]))
        low, high = _around(torch.zeros_like(origins[:, 0]), (self.ring + self.radius) ** 2 - dot(origins, origins))
        low, high = torch.maximum(low, flat_low[:, 0]), torch.minimum(high, flat_high[:, 0])
        ends = [(origins[:, :2] + directions[:, :2] * t[:, None]).norm(dim=1) for t in (low, high)]
        through = torch.maximum(*ends) < self.ring - self.radius
        return torch.where(through, inf, low), high

    def _roots(self, origins: Tensor, directions: Tensor, low: Tensor, high: Tensor) -> Float[Tensor, "n 4"]:
        """Where rays cross the surface between low and high, in order; nan where a root is not there.

        origins  the points of the rays nearest to the centre: (|p|^2 + ring^2 - radius^2)^2 = 4 ring^2 (x^2 + y^2) is
                 then t^4 + 2 P t^2 + 4 Q t + ... = 0, whose turning points solve t^3 + P t + Q = 0
        """
        a = dot(directions[:, :2], directions[:, :2])
        b = dot(origins[:, :2], directions[:, :2])
        p = dot(origins, origins) + self.ring**2 - self.radius**2 - 2 * self.ring**2 * a
        turns = _cubic_roots(p, -2 * self.ring**2 * b)
        turns = torch.minimum(torch.maximum(turns, low[:, None]), high[:, None])
        ends = torch.cat([low[:, None], turns, high[:, None]], dim=1)  # (n, 5)
        sides = self._outside(origins[:, None], directions[:, None], ends)[0] > 0
        sides[:, 0] = sides[:, -1] = True  # what holds the ring has its ends outside, whatever rounding says
        crossed = (sides[:, :-1] != sides[:, 1:]).nonzero()
        ray, piece = crossed.unbind(dim=1)
        found = self._root(
            origins[ray], directions[ray], ends[ray, piece], ends[ray, piece + 1], inwards=sides[ray, piece]
        )
        return torch.full_like(ends[:, :4], nan).index_put((ray, piece), found)

    def _root(self, origins: Tensor, directions: Tensor, low: Tensor, high: Tensor, inwards: Tensor) -> Tensor:
        """Newton's method, and bisection where that would leave the bracket; rays that are there drop out."""
        found = (low + high) / 2
        left = torch.arange(len(found))
        close = self.ring * torch.finfo(found.dtype).eps ** 0.75  # the next step would be of the order of eps
        for _ in range(ROOT_STEPS):
            at = found.index_select(0, left)
            value, slope = self._outside(origins, directions, at)
            before = (value > 0) == inwards
            low, high = torch.where(before, at, low), torch.where(before, high, at)
            step = at - value / slope
            new = torch.where((step > low) & (step < high), step, (low + high) / 2)
            found.index_copy_(0, left, new)
            more = ((new - at).abs() > close).nonzero()[:, 0]
            if len(more) == 0:
                break
            left, low, high, inwards = (x.index_select(0, more) for x in (left, low, high, inwards))
            origins, directions = origins.index_select(0, more), directions.index_select(0, more)
        return found

    def _outside(self, origins: Tensor, directions: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(squared distance to the wire's centre line less radius squared, its derivative) at distances t."""
        x, y, z = (origins[..., k] + directions[..., k] * t for k in range(3))
        out = (x * x + y * y).sqrt()
        slope = (out - self.ring) * (x * directions[..., 0] + y * directions[..., 1]) / out.clamp_min(1e-12)
        return (out - self.ring) ** 2 + z * z - self.radius**2, 2 * (slope + z * directions[..., 2])

    def _in_arc(self, points: Tensor) -> Tensor:
        if self.arc_deg >= 360:
            return torch.ones_like(points[..., 0], dtype=torch.bool)
        return torch.atan2(points[..., 1], points[..., 0]).abs() <= radians(self.arc_deg / 2)

    def _from_wire(self, points: Tensor) -> Tensor:
        out = points[:, :2].norm(dim=1, keepdim=True).clamp_min(1e-12)
        return torch.cat([points[:, :2] * (1 - self.ring / out), points[:, 2:]], dim=1)

    def normal(self, points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        away = self._from_wire(points)
        return away / away.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def chart(self, points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 2"]:
        around = torch.atan2(points[:, 2], points[:, :2].norm(dim=1) - self.ring) / (2 * pi) + 0.5
        return torch.stack([_turn(points), around], dim=1)

    @property
    def half(self) -> tuple[float, float, float]:
        """Of the whole circle."""
        return self.ring + self.radius, self.ring + self.radius, self.radius


@dataclass(frozen=True)
class Bowl:
    """The lower half of a sphere, without thickness, with round `holes` evenly spread. Chart as a sphere's.

    hole  radius of a hole, along a straight line
    """

    radius: float
    holes: int = 0
    hole: float = 0.0

    def interval(self, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]) -> Interval:
        middle = -dot(origins, directions)
        closest = torch.addcmul(origins, directions, middle[:, None])
        first = torch.full_like(middle, inf)
        for distance in reversed(_around(middle, self.radius**2 - dot(closest, closest))):
            at = ((distance > 0) & distance.isfinite()).nonzero()[:, 0]
            along = distance.index_select(0, at)
            points = torch.addcmul(origins.index_select(0, at), directions.index_select(0, at), along[:, None])
            at, along = (x[self._is_there(points)] for x in (at, along))
            first = first.index_copy(0, at, along)  # the nearer one comes second
        return first, torch.where(first.isinf(), -inf, first)

    def _is_there(self, points: Tensor) -> Tensor:
        there = points[:, 2] <= 0
        if self.holes == 0:
            return there
        middles = points.new_tensor(self._middles())
        cosine = 1 - (self.hole / self.radius) ** 2 / 2
        return there & ((points @ middles.T).amax(dim=1) < cosine * self.radius)

    def _middles(self) -> list[tuple[float, float, float]]:
        """Directions of the holes: a Fibonacci lattice on the half sphere, clear of the rim."""
        golden = pi * (3 - sqrt(5))
        rim = -2 * self.hole / self.radius
        heights = [-1 + (rim + 1) * (k + 0.5) / self.holes for k in range(self.holes)]
        outs = [sqrt(1 - z * z) for z in heights]
        turns = torch.arange(self.holes, dtype=torch.float64) * golden
        return [
            (out * x, out * y, z)
            for out, x, y, z in zip(outs, turns.cos().tolist(), turns.sin().tolist(), heights, strict=True)
        ]

    def normal(self, points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        return points / points.norm(dim=1, keepdim=True)

    def chart(self, points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 2"]:
        polar = torch.arccos((points[:, 2] / self.radius).clamp(-1, 1)) / torch.pi
        return torch.stack([_turn(points), polar], dim=1)

    @property
    def half(self) -> tuple[float, float, float]:
        """Of the whole sphere."""
        return self.radius, self.radius, self.radius


def _cubic_roots(p: Float[Tensor, "n"], q: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
    """Real roots of t^3 + p t + q in order; where there is one, three times that (Viete; Cardano)."""
    depth = (-p / 3).clamp_min(0).sqrt()
    cosine = (-q / (2 * depth**3).clamp_min(1e-30)).clamp(-1, 1)
    turn = torch.arccos(cosine)[:, None] / 3
    thirds = turn.new_tensor([2 * pi / 3, -2 * pi / 3, 0.0])
    three = (2 * depth[:, None] * torch.cos(turn + thirds)).sort(dim=1).values
    inside = (q / 2) ** 2 + (p / 3) ** 3
    grown = (q.abs() / 2 + inside.clamp_min(0).sqrt()).pow(1 / 3)
    grown = torch.where(q > 0, -grown, grown)
    one = grown - torch.where(grown == 0, 0.0, p / (3 * torch.where(grown == 0, 1.0, grown)))
    return torch.where((inside < 0)[:, None], three, one[:, None])
