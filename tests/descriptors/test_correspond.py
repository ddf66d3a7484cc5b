"""Correspondences against exact geometry, closed forms, brute force and loops."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rayprior.descriptors import correspond as module
from rayprior.descriptors.correspond import (
    CYCLE,
    HIDDEN,
    KINDS,
    NOT_IN_PICTURE,
    OTHER_SURFACE,
    SAME,
    SEE_THROUGH,
    CycleChecked,
    DistanceLabels,
    FieldLabels,
    between,
    correspond,
    distance_of,
)
from rayprior.descriptors.drawing import view_pairs
from rayprior.errors import UserError
from rayprior.maths import stepfun
from rayprior.rendering.raydist import RayDistribution
from rayprior.scenes.synthetic import correspondences, nearest, synthetic_world, view_hit
from tiny import tiny_scene

EMBEDDED = tiny_scene("still-life")
NEAR = view_pairs(EMBEDDED.cameras, EMBEDDED.split.train, most_deg=60)[0]
ORDER = [*NEAR, *(view for view in range(len(EMBEDDED)) if view not in NEAR)]
SCENE = replace(EMBEDDED, cameras=EMBEDDED.cameras[ORDER])  # its first two views see much of the same
WORLD = synthetic_world("still-life")


class Sharp:
    """A field that is the exact world: all of a ray's weight within 2e-6 of the first surface."""

    def __init__(self, opacity: float = 1.0) -> None:
        self.opacity, self.rays = opacity, 0

    def render_in_chunks(self, rays, chunk=8192):
        for start in range(0, len(rays), chunk):
            part = rays[start : start + chunk]
            self.rays += len(part)
            t, which = nearest(WORLD, part.origins.double(), part.directions.double())
            t = t.where(which >= 0, 100.0)[:, None]
            weight = (which >= 0)[:, None] * torch.tensor([[self.opacity / 2, self.opacity / 2, 0.0]]).double()
            edges = torch.cat([t - 1e-6, t, t + 1e-6, t + 1], dim=1)
            yield SimpleNamespace(distribution=RayDistribution(edges, weight))


class Random:
    """Histograms that depend on the ray alone, with any opacity."""

    def render_in_chunks(self, rays, chunk=8192):
        seed = (rays.directions.double() @ torch.tensor([12.9, 78.2, 37.7]).double()).sin() * 43758.5
        noise = (seed[:, None] * torch.arange(1, 14)).sin().abs()
        edges = (1.0 + noise).cumsum(dim=1) / 3
        weight = noise[:, 1:] / 8
        yield SimpleNamespace(distribution=RayDistribution(edges, weight))


def labels(kind: str = "median", model=None, **how) -> FieldLabels:
    return FieldLabels(model or Sharp(), SCENE, kind, **how)  # pyright: ignore[reportArgumentType]


def places(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 24


def two_surfaces(count: int = 1) -> RayDistribution:
    """Weight .3 at distance 2 and .2 at 4."""
    t = torch.tensor([2 - 1e-7, 2 + 1e-7, 4 - 1e-7, 4 + 1e-7], dtype=torch.float64)
    return RayDistribution(t.expand(count, 4), torch.tensor([0.3, 0, 0.2], dtype=torch.float64).expand(count, 3))


# -- where a ray ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "distance"), [("raw-mean", 1.4), ("mean", 2.8), ("median", 2.0), ("mode", 2.0)])
def test_two_surfaces(kind: str, distance: float):
    assert abs(float(distance_of(two_surfaces(), kind)) - distance) < 1e-6


@pytest.mark.parametrize("kind", ["draw", "draw-left"])
def test_two_surfaces_are_drawn_by_their_shares(kind: str):
    u = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = distance_of(two_surfaces(len(u)), kind, u)
    first = (drawn - 2).abs() < 1e-6
    assert bool((first | ((drawn - 4).abs() < 1e-6)).all())
    assert abs(float(first.double().mean()) - 0.6) < 4 * (0.6 * 0.4 / len(u)) ** 0.5


def test_draws_fill_the_bin_or_stand_at_its_left_end():
    wide = RayDistribution(torch.tensor([[1.0, 3.0, 4.0]]).double(), torch.tensor([[0.5, 0.25]]).double())
    many = RayDistribution(wide.t.expand(50_000, 3), wide.w.expand(50_000, 2))
    u = torch.rand(50_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inside, left = distance_of(many, "draw", u), distance_of(many, "draw-left", u)
    assert abs(float(inside.mean()) - (2 / 3 * 2 + 1 / 3 * 3.5)) < 0.01  # the histogram's mean
    assert abs(float((inside < 2).double().mean()) - 1 / 3) < 0.01
    assert left.unique().tolist() == [1, 3]
    assert abs(float((left == 1).double().mean()) - 2 / 3) < 0.01


def test_without_uniforms_draws_are_the_median():
    seen = next(Random().render_in_chunks(SCENE.view_rays(0))).distribution
    torch.testing.assert_close(distance_of(seen, "draw"), seen.median)


# -- against exact geometry --------------------------------------------------------------------------------------------


def exact_maps() -> dict[int, torch.Tensor]:
    maps = {}
    for view in (0, 1):
        hit = view_hit(WORLD, SCENE.cameras, view)
        maps[view] = torch.where(hit.found, hit.distance, torch.nan).view(24, 24)
    return maps


def test_exact_distances_give_exact_matches():
    pixels = SCENE.cameras.pixel_grid(0)
    true, seen = correspondences(WORLD, SCENE.cameras, 0, 1, pixels)
    found = DistanceLabels(SCENE.cameras, exact_maps()).match(0, pixels, 1)
    assert int(found.valid.sum()) > 100
    assert float((found.pixel - true)[found.valid & seen].norm(dim=1).max()) < 1e-3
    assert bool(found.pixel[~found.valid].isnan().all())
    assert float((found.valid & ~seen).double().mean()) < 0.01  # edges, where the nearest pixel is another surface's


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_is_the_world_gives_exact_matches(kind: str):
    """At any place in the picture, of every kind, and hidden is what the world hides."""
    pixels = places(300)
    true, seen = correspondences(WORLD, SCENE.cameras, 0, 1, pixels)
    source = labels(kind, cached=False)
    found = source.match(0, pixels, 1, torch.Generator().manual_seed(0))
    assert float((found.pixel - true)[found.valid].norm(dim=1).max()) < 1e-3
    assert not bool((seen & ~found.valid).any())
    assert float((found.valid & ~seen).double().mean()) < 0.03  # within 1 % of the distance nothing hides
    assert torch.equal(found.weight > 0, found.valid)
    assert source.dropped[HIDDEN] > 0
    again = correspond(Sharp(), SCENE, 0, pixels, 1, kind, torch.Generator().manual_seed(0))  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(found.pixel, again.pixel, equal_nan=True)


def test_what_is_kept_says_the_same_at_pixel_centres():
    pixels = SCENE.cameras.pixel_grid(0)
    for kind in ("raw-mean", "mean", "median", "mode"):
        kept, rendered = (labels(kind, Random(), cached=cached, visible=0).match(0, pixels, 1) for cached in (1, 0))
        assert torch.equal(kept.valid, rendered.valid)
        torch.testing.assert_close(kept.pixel, rendered.pixel, equal_nan=True)


def test_between_centres_what_is_kept_is_near():
    pixels = places(400)
    kept, exact = labels().match(0, pixels, 1), labels(cached=False).match(0, pixels, 1)
    both = kept.valid & exact.valid
    error = (kept.pixel - exact.pixel)[both].norm(dim=1)
    assert float(error.median()) < 0.3  # of 24 pixels across, each a large part of a surface
    assert float(both.double().mean()) > 0.7 * float(exact.valid.double().mean())


def test_a_batch_is_a_loop():
    pixels = places(40)
    for cached in (True, False):
        source = labels("mean", Random(), cached=cached)
        whole = source.match(0, pixels, 1)
        single = [source.match(0, pixel[None], 1) for pixel in pixels]
        torch.testing.assert_close(whole.pixel, torch.cat([m.pixel for m in single]), equal_nan=True)
        assert torch.equal(whole.valid, torch.cat([m.valid for m in single]))


def test_a_camera_of_ones_own_on_either_side():
    pixels = places(50)
    own = labels(cached=False)
    by_view = own.match(0, pixels, 1)
    for sides in ((SCENE.cameras[0], 1), (0, SCENE.cameras[1]), (SCENE.cameras[0], SCENE.cameras[1])):
        by_camera = own.match(sides[0], pixels, sides[1])
        torch.testing.assert_close(by_view.pixel, by_camera.pixel, equal_nan=True)
    kept = labels()
    assert int(kept.match(0, pixels, SCENE.cameras[1]).valid.sum()) > 10


def test_draws_of_what_is_kept_have_the_rays_shares():
    source = labels("draw", Random(), visible=0, least_opacity=0)
    pixel = torch.tensor([[7.5, 9.5]]).double().expand(20_000, 2)
    seen = next(Random().render_in_chunks(SCENE.view_rays(0))).distribution[9 * 24 + 7]
    chosen, _ = source._chosen(  # pyright: ignore[reportPrivateUsage]
        source._of_view(0),  # pyright: ignore[reportPrivateUsage]
        pixel,
        SCENE.cameras.size[0],
        torch.rand(20_000, generator=torch.Generator().manual_seed(0)),
    )
    levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).double()
    wanted = stepfun.quantile(seen.t, seen.w, levels)
    spread = float(seen.t[-1] - seen.t[0])
    assert float((chosen.double().quantile(levels) - wanted).abs().max()) < spread / 32


def test_the_whole_distribution():
    source = labels("distribution", Random(), visible=0, least_opacity=0.1)
    pixels = SCENE.cameras.pixel_grid(0)[100:140]
    pixel, weight, valid = source.match_all(0, pixels, 1)
    seen = next(Random().render_in_chunks(SCENE.view_rays(0))).distribution[100:140]
    for ray in range(len(pixels)):
        bins = seen.w[ray] >= 0.01 * seen.opacity[ray]
        points = SCENE.cameras.origins[0] + seen.midpoints[ray][bins][:, None] * SCENE.cameras.directions(
            torch.zeros(1).long(), pixels[ray][None]
        )
        wanted, _, inside = SCENE.cameras.project(points, torch.ones(len(points), dtype=torch.long))
        if float(seen.opacity[ray]) <= 0.1:
            assert not bool(valid[ray].any())
            continue
        assert int(valid[ray].sum()) == int(inside.sum())
        order = weight[ray][valid[ray]].argsort()
        torch.testing.assert_close(weight[ray][valid[ray]][order], seen.w[ray][bins][inside].sort().values)
        torch.testing.assert_close(
            pixel[ray][valid[ray]][order], wanted[inside][seen.w[ray][bins][inside].argsort()], atol=1e-4, rtol=0
        )
    assert bool((weight.sum(dim=1) <= seen.opacity + 1e-6).all())


def test_bins_below_a_hundredth_are_left_out():
    class Faint:
        def render_in_chunks(self, rays, chunk=8192):
            t = torch.arange(4.0).expand(len(rays), 4) + 3
            yield SimpleNamespace(
                distribution=RayDistribution(t, torch.tensor([[0.895, 0.1, 0.005]]).expand(len(t), 3))
            )

    _, weight, _ = labels("distribution", Faint(), visible=0).match_all(0, places(5), 0)
    torch.testing.assert_close(weight, torch.tensor([[0.895, 0.1, 0.0]]).double().expand(5, 3), atol=1e-6, rtol=0)


# -- who is left out ---------------------------------------------------------------------------------------------------


def test_see_through_pixels_match_nothing():
    source = labels("mean", Sharp(opacity=0.4))
    found = source.match(0, places(30), 1)
    assert not bool(found.valid.any())
    assert float(found.weight.sum()) == 0
    assert source.dropped[SEE_THROUGH] == 30
    assert int(labels("mean", Sharp(opacity=0.4), least_opacity=0.3).match(0, places(30), 1).valid.sum()) > 5


@pytest.mark.parametrize("visible", [0.25, 0.5, 0.9])
def test_visibility_against_brute_force(visible: float):
    """The transmittance of the target's own ray, just before the point, ray by ray."""
    pixels = places(60)
    anything = labels("mean", Random(), visible=0, cached=False, least_opacity=0).match(0, pixels, 1)
    found = labels("mean", Random(), visible=visible, cached=False, least_opacity=0).match(0, pixels, 1)
    source = next(Random().render_in_chunks(SCENE.rays(torch.zeros(60).long(), pixels))).distribution
    compared = 0
    for i in anything.valid.nonzero()[:, 0].tolist():
        ray = SCENE.rays(torch.zeros(1).long(), pixels[i : i + 1])
        point = ray.origins[0].double() + float(source.mean[i]) * ray.directions[0].double()
        reach = float((point - SCENE.cameras.origins[1]).norm()) * (1 - SAME)
        back = SCENE.rays(torch.ones(1).long(), anything.pixel[i : i + 1])
        there = next(Random().render_in_chunks(back)).distribution
        passed = 1 - float(stepfun.mass_before(there.t, there.w, torch.tensor([[reach]]).double()))
        if abs(passed - visible) > 1e-3:
            assert bool(found.valid[i]) == (passed > visible)
            compared += 1
    assert compared > 10


def test_the_cycle_check_against_brute_force():
    pixels = places(60)
    source = labels("mean", Random(), visible=0)
    checked = CycleChecked(source, within_px=6.0)
    found, plain = checked.match(0, pixels, 1), source.match(0, pixels, 1)
    kept = 0
    for i, pixel in enumerate(pixels):
        wanted = False
        if bool(plain.valid[i]):
            back = source.match(1, plain.pixel[i : i + 1], 0)
            wanted = bool(back.valid) and float((back.pixel[0] - pixel).norm()) < 6.0
        assert bool(found.valid[i]) == wanted
        kept += wanted
    assert 0 < kept < int(plain.valid.sum())
    torch.testing.assert_close(found.pixel[found.valid], plain.pixel[found.valid])
    assert checked.dropped[CYCLE] == int(plain.valid.sum()) - kept


def test_a_cycle_of_exact_labels_keeps_all():
    pixels = places(200)
    source = labels(cached=False)
    _, seen = correspondences(WORLD, SCENE.cameras, 0, 1, pixels)
    assert torch.equal(CycleChecked(source, 0.01).match(0, pixels, 1).valid & seen, seen)


def test_ways_back_are_not_counted_as_drops_of_the_source():
    checked = CycleChecked(labels("mean", Random()), 1.0)
    found = checked.match(0, places(80), 1)
    assert sum(checked.dropped.values()) + int(found.valid.sum()) == 80


def test_every_bin_of_a_distribution_has_its_own_way_back():
    checked = CycleChecked(labels("distribution"), 0.5)
    assert checked.whole
    pixel, weight, valid = checked.match_all(0, SCENE.cameras.pixel_grid(0), 1, torch.Generator().manual_seed(0))
    assert bool((pixel[valid].isfinite()).all())
    assert float(weight[~valid].sum()) == 0


def test_distances_are_compared_on_both_sides():
    """A point in front of what the target knows is no point; one behind it is hidden."""
    maps = exact_maps()
    pixels = SCENE.cameras.pixel_grid(0)
    for factor in (0.5, 2.0):
        source = DistanceLabels(SCENE.cameras, {0: maps[0], 1: maps[1] * factor})
        assert not bool(source.match(0, pixels, 1).valid.any())
        assert source.dropped[OTHER_SURFACE] > 0
    unknown = DistanceLabels(SCENE.cameras, {0: maps[0]})
    assert not bool(unknown.match(0, pixels, 1).valid.any())
    assert not bool(unknown.match(1, pixels, 0).valid.any())


def test_what_leaves_the_picture_is_counted():
    source = labels(visible=0)
    away = SCENE.cameras[1]
    turned = away.c2w.clone()
    turned[:, :, [0, 2]] *= -1  # looks the other way
    camera = type(away)(turned, away.focal_px, away.centre_px, away.size)
    assert not bool(source.match(0, places(20), camera).valid.any())
    assert source.dropped[NOT_IN_PICTURE] > 5
    assert source.dropped[NOT_IN_PICTURE] + source.dropped[SEE_THROUGH] == 20


# -- distances between pixels ------------------------------------------------------------------------------------------


def test_between_is_bilinear_on_one_surface_and_the_nearest_at_an_edge():
    size = torch.tensor([4, 3])
    u, v = torch.meshgrid(torch.arange(4) + 0.5, torch.arange(3) + 0.5, indexing="xy")
    plane = (10 + 0.01 * u + 0.02 * v).reshape(-1, 1)
    pixels = torch.tensor([[1.7, 1.2], [2.5, 1.5], [3.4, 2.4]]).double()
    first = torch.zeros(3, dtype=torch.long)
    wanted = 10 + 0.01 * pixels[:, 0] + 0.02 * pixels[:, 1]
    torch.testing.assert_close(between(plane, size, pixels, first, 0.01).double(), wanted, atol=1e-5, rtol=0)
    edge = torch.where(u < 2, 5.0, 10.0).reshape(-1, 1)
    assert between(edge, size, torch.tensor([[1.9, 1.0], [2.1, 1.0]]), first[:2], 0.01).tolist() == [5, 10]
    edge[5] = torch.nan
    assert bool(between(edge, size, torch.tensor([[1.5, 1.5], [0.6, 1.5]]), first[:2], 0.01).isnan()[0])
    assert between(edge, size, torch.tensor([[0.9, 1.5]]), first[:1], 0.01).tolist() == [5]


def test_views_asked_for_longest_ago_are_forgotten_first(monkeypatch: pytest.MonkeyPatch):
    source = labels()
    source.prepare([0])
    one = source._of_view(0).bytes  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(module, "MOST_BYTES", 2.5 * one)
    source.prepare([1, 0, 2])
    assert list(source._kept) == [0, 2]  # pyright: ignore[reportPrivateUsage]


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_mistakes_are_told():
    inside = places(3)
    for wrong, message in [
        (lambda: labels("medain"), "no labels of a field named 'medain'; did you mean 'median'"),
        (lambda: distance_of(two_surfaces(), "distribution"), "no distance of a ray named 'distribution'"),
        (lambda: labels(visible=1.0), "visible=1; expected a share"),
        (lambda: labels(least_opacity=-0.1), "least_opacity=-0.1"),
        (lambda: labels().match(0, inside + 30, 1), r"view 'train-000': no pixel \(.*its picture has 24x24"),
        (lambda: labels().match(0, torch.tensor([[3.0, torch.nan]]), 1), "no pixel"),
        (lambda: labels().match(99, inside, 1), "no view 99; expected 0 to"),
        (lambda: labels().match(0, inside, -1), "no view -1"),
        (lambda: labels().match(SCENE.cameras, inside, 1), "is one camera; these are"),
        (lambda: labels("mean").match_all(0, inside, 1), "labels 'mean' are one distance a ray"),
        (lambda: CycleChecked(labels(), 0.0), "cycle check within 0 px"),
        (lambda: DistanceLabels(SCENE.cameras, {0: torch.ones(3, 4)}), "a map of 4x3 pixels; expected 24x24"),
        (lambda: DistanceLabels(SCENE.cameras, {}).match(0, inside + 30, 1), "view 0: no pixel"),
    ]:
        with pytest.raises(UserError, match=message):
            wrong()
