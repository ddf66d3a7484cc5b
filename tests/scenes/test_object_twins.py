"""Rods, wire, a bowl with holes against a dense march, and the twins that are made of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import degrees, hypot, inf

import pytest
import torch

from rayprior.errors import UserError
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import (
    Object,
    Sky,
    World,
    correspondences,
    hemisphere,
    matte,
    nearest,
    photograph,
    synthetic_scene,
    synthetic_world,
    trace,
    view_hit,
)
from rayprior.scenes.synthetic.catalogue import STAGES
from rayprior.scenes.synthetic.shading import Window
from rayprior.scenes.synthetic.twins import STEEL, fork
from rayprior.scenes.synthetic.wires import Bowl, Capsule, Torus, _cubic_roots

NAMES = ("fork", "fork-matte", "whisk", "whisk-matte", "strainer", "strainer-matte")
STEP = 2e-3
GREY = matte((0.5, 0.5, 0.5))


def vectors(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def random_rays(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays from a sphere of radius 3 towards random points of the unit box."""
    generator = torch.Generator().manual_seed(seed)
    origins = 3 * unit(torch.randn(count, 3, generator=generator, dtype=torch.float64))
    targets = torch.rand(count, 3, generator=generator, dtype=torch.float64) * 2 - 1
    return origins, unit(targets - origins)


def rod(p: torch.Tensor) -> torch.Tensor:
    beside = p[..., 2].clamp(-0.5, 0.5)
    return (p - torch.stack([0 * beside, 0 * beside, beside], dim=-1)).norm(dim=-1) - 0.3


def ring(p: torch.Tensor) -> torch.Tensor:
    return torch.hypot(p[..., :2].norm(dim=-1) - 0.6, p[..., 2]) - 0.15


SOLIDS = {"capsule": (Capsule(0.3, 0.5), rod), "torus": (Torus(0.6, 0.15), ring)}


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("inside", [False, True])
def test_first_hits_against_a_dense_march(name: str, inside: bool):
    """The oracle knows only signed distances; turned and moved bodies; rays from afar, and from within the body."""
    shape, distance_of = SOLIDS[name]
    thing = Object("it", shape, GREY, at=(0.1, -0.2, 0.15), turn_deg=(30.0, -50.0, 20.0))
    origins, directions = random_rays(300, seed=4)
    if inside:
        own = vectors([0.6, 0.05, 0.02]) if name == "torus" else vectors([0.1, 0.05, 0.6])
        origins = (own @ thing.rotation().T + vectors(thing.at)).expand_as(origins)
    t = torch.arange(0, 6, STEP, dtype=torch.float64)
    outside = distance_of((origins[:, None] + directions[:, None] * t[:, None] - vectors(*thing.at)) @ thing.rotation())
    crossed = (outside[:, 1:] > 0) != (outside[:, :-1] > 0)
    marched = torch.where(crossed.any(dim=1), crossed.int().argmax(dim=1) * STEP, inf)
    exact = thing.hit(origins, directions)
    both = exact.isfinite() & marched.isfinite()
    assert both.sum() > 50
    assert ((marched <= exact + 1e-9) & (exact <= marched + STEP + 1e-9))[both].float().mean() > 0.99  # grazing chords
    assert (exact.isfinite() != marched.isfinite()).sum() <= 3
    points = (origins + directions * exact[:, None])[exact.isfinite()]
    assert distance_of(thing.to_own(points)).abs().max() < 1e-9


def test_wire_is_crossed_up_to_four_times_and_an_arc_where_it_is():
    """Along x through the whole ring: -R-r, -R+r, R-r, R+r. Of the half about +x the last two are left."""
    origins, along = vectors([-3, 0, 0], [0, 0, 0], [0.6, 0, 0], [3, 0, 0]), vectors([1, 0, 0]).expand(4, 3)
    whole = Torus(0.6, 0.15).interval(origins, along)[0]
    assert torch.allclose(whole, vectors(2.25, 0.45, 0.15, inf))
    half = Torus(0.6, 0.15, arc_deg=180).interval(origins, along)[0]
    assert torch.allclose(half, vectors(3.45, 0.45, 0.15, inf))


def test_capsule_in_closed_form():
    shape = Capsule(0.3, 0.5)
    origins = vectors([2, 0, 0.4], [2, 0, 0.5 + 0.18], [0, 0, 3], [0.1, 0, 3], [2, 0.4, 0], [2, 0, 0.9])
    directions = vectors([-1, 0, 0], [-1, 0, 0], [0, 0, -1], [0, 0, -1], [-1, 0, 0], [-1, 0, 0])
    enter, leave = shape.interval(origins, directions)
    cap = (0.3**2 - 0.1**2) ** 0.5
    assert torch.allclose(enter[:4], vectors(1.7, 2 - 0.24, 2.2, 2.5 - cap))
    assert torch.allclose(leave[:4], vectors(2.3, 2 + 0.24, 3.8, 3.5 + cap))
    assert (enter > leave)[4:].all()


@pytest.mark.parametrize("shape", [Capsule(0.3, 0.5), Torus(0.6, 0.15), Bowl(0.7, holes=20, hole=0.08)])
def test_normals_are_those_of_finite_differences(shape):
    """The tangents of the surface, from hits of shifted rays, are at right angles to the normal."""
    origins, directions = random_rays(400, seed=5)
    sideways = unit(torch.linalg.cross(directions, vectors([0.3, -0.5, 0.8]).expand_as(directions)))
    first = shape.interval(origins, directions)[0]
    points = origins + directions * first[:, None]
    normal = shape.normal(points)
    near = torch.ones(len(points), dtype=torch.bool)
    for side in (sideways, torch.linalg.cross(directions, sideways)):
        steps = [shape.interval(origins + h * side, directions)[0] for h in (-1e-6, 1e-6)]
        tangent = 2e-6 * side + directions * (steps[1] - steps[0])[:, None]
        smooth = tangent.isfinite().all(dim=1) & (tangent.norm(dim=1) < 2e-5)  # neither an edge nor grazing
        near &= ~smooth | ((unit(tangent) * normal).sum(dim=1).abs() < 1e-3)
        assert smooth.sum() > 60
    assert near.all()
    there = first.isfinite()
    assert torch.allclose(normal[there].norm(dim=1), torch.ones(1, dtype=torch.float64))
    chart = shape.chart(points[there])
    assert 0 <= chart.min() <= chart.max() <= 1
    assert (points[there].abs() <= vectors(shape.half) + 1e-9).all()


def test_bowl_is_the_lower_half_and_open_where_its_holes_are():
    bowl = Bowl(0.5, holes=16, hole=0.09)
    middles = 0.5 * vectors(*bowl._middles())
    apart = (middles[:, None] - middles[None]).norm(dim=2).fill_diagonal_(inf)
    assert apart.min() > 2 * 0.09  # holes do not meet
    outward = 2 * middles
    enter, _ = bowl.interval(outward, -unit(middles))
    assert enter.isinf().all()  # through the hole, and out at the open top
    side = unit(torch.linalg.cross(middles, vectors([1, 0, 0]).expand_as(middles)))
    for share, met in ((0.98, 0), (1.02, 16)):  # of a hole's radius, along a straight line
        chord = share * 0.09
        angle = 2 * torch.asin(torch.tensor(chord / 2 / 0.5, dtype=torch.float64))
        at = torch.cos(angle) * middles + torch.sin(angle) * 0.5 * side
        below = at[:, 2] < 0
        enter, _ = bowl.interval(2 * at, -unit(at))
        assert torch.allclose(enter.isfinite().sum(), (below & (met > 0)).sum())
    inside, down = vectors([0, 0, 0.2]), unit(vectors([0.13, 0.21, -1]))
    assert bowl.interval(inside, -down)[0].isinf().all()  # nothing above
    assert float(Bowl(0.5).interval(vectors([0, 0, 2]), vectors([0, 0, -1]))[0]) == pytest.approx(2.5)


def test_roots_of_cubics():
    """(t+3)(t-1)(t-2); t = 1 alone, 2 alone; (t+2)(t-1)^2; t^3."""
    p, q = vectors(-7.0, 3.0, 0.0, -3.0, 0.0), vectors(6.0, -4.0, -8.0, 2.0, 0.0)
    roots = _cubic_roots(p, q)
    assert torch.allclose(roots[0], vectors(-3.0, 1.0, 2.0))
    assert torch.allclose(roots[1:3, 0], vectors(1.0, 2.0))
    assert torch.allclose(roots[3].amin(), vectors(-2.0))  # what only touches may be left out
    assert (roots[4] == 0).all()


def test_a_world_of_many_parts_is_hit_as_each_part_is():
    world = synthetic_world("whisk")
    origins, directions = random_rays(400, seed=6)
    origins, directions = origins / 3, unit(0.3 * (origins + 3 * directions) - origins / 3)
    distance, which = nearest(world, origins, directions)
    each = torch.stack([thing.hit(origins, directions) for thing in world.objects])
    assert torch.equal(which >= 0, each.amin(dim=0).isfinite())
    assert torch.allclose(distance, each.amin(dim=0))
    assert len(which.unique()) > 5


def test_windows_are_seen_by_mirrors_and_light_nothing():
    bright = Window((90, 30), (20, 20), (1, 0, 0))
    sky = Sky((1, 1, 1), (0, 0, 0), windows=(bright,))
    there, beside = unit(vectors([0.0, 1.0, 0.5])), unit(vectors([0.5, 1.0, 0.5]))
    assert torch.equal(sky.mirrored(there), vectors([1, 0, 0]))
    assert torch.equal(sky.mirrored(beside), sky.towards(beside))
    assert torch.equal(sky.towards(there), Sky((1, 1, 1), (0, 0, 0)).towards(there))
    behind = Sky(windows=(Window((180, 0), (20, 20), (0, 1, 0)),))  # across the cut of the azimuth
    assert torch.equal(behind.mirrored(unit(vectors([-1, 0.1, 0], [-1, -0.1, 0])))[:, 1], vectors(1, 1))


# -- twins -------------------------------------------------------------------------------------------------------------


@cache
def small(name: str) -> Scene:
    return synthetic_scene(name, size=32, views=2, test_views=1, supersample=1)


@pytest.mark.parametrize("name", NAMES[::2])
def test_twins_differ_in_their_looks_alone(name: str):
    shiny, matte = small(name), small(f"{name}-matte")
    assert shiny.depth is not None
    assert matte.depth is not None
    assert shiny.masks is not None
    assert matte.masks is not None
    assert torch.equal(shiny.cameras.c2w, matte.cameras.c2w)
    assert torch.equal(shiny.depth.values, matte.depth.values)
    assert torch.equal(shiny.masks.values, matte.masks.values)
    mask = shiny.masks.values[:, 0]
    other = (shiny.pictures.values.int() - matte.pictures.values.int()).abs().amax(dim=1)
    assert other[mask].float().mean() > 20
    assert (other[~mask] > 10).float().mean() < 0.1  # one ray a pixel: the table is the same table


@pytest.mark.parametrize("name", [*NAMES[::2], "fork-bent"])
def test_masks_are_the_thing_and_pictures_are_whole(name: str):
    scene = small(name)
    assert (scene.mask_rule, scene.background.kind) == ("score", "none")
    assert scene.pictures.values.shape[1] == 3
    assert scene.depth is not None
    assert scene.depth.values.isfinite().all()  # the table is behind everything
    world = synthetic_world(name)
    view = scene.split.test[0]
    hit = view_hit(world, scene.cameras, view)
    thing = torch.tensor([not part.backdrop for part in world.objects])[hit.object].view(32, 32)
    mask = scene.object_mask(view)
    assert mask is not None
    assert torch.equal(mask, thing)
    assert 0.03 < mask.float().mean() < 0.3
    assert not mask[0].any()


@pytest.mark.parametrize("name", NAMES[::2])
def test_matches_on_the_thing_agree_in_both_directions(name: str):
    scene, world = small(name), synthetic_world(name)
    mask = scene.object_mask(0)
    assert mask is not None
    pixels = scene.cameras.pixel_grid(0)[mask.view(-1)].double()
    there, seen = correspondences(world, scene.cameras, 0, 1, pixels)
    assert seen.sum() > 5
    back, returned = correspondences(world, scene.cameras, 1, 0, there[seen])
    assert returned.all()
    assert (back - pixels[seen]).norm(dim=1).max() < 1e-3


def test_steel_shines_and_chalk_does_not():
    """One point of the handle from two sides: there the kitchen has a window, here a dark cupboard."""
    shown = {}
    for name in NAMES[:2]:
        world = synthetic_world(name)
        target = vectors([-0.30, 0.0, 0.2])
        origins = target + vectors([0.0, 0.9, 0.25], [0.0, -0.9, 0.25])
        distance, _ = nearest(world, target, vectors([0.0, 0.0, -1.0]))
        point = target + vectors([0.0, 0.0, -1.0]) * distance[:, None]
        shown[name] = trace(world, origins, unit(point - origins)).rgb
    assert (shown["fork"][0] - shown["fork"][1]).abs().max() > 0.1
    assert torch.allclose(shown["fork-matte"][0], shown["fork-matte"][1], atol=1e-6)


def test_the_bent_fork_bends_in_training_views_alone():
    scene, still = small("fork-bent"), small("fork")
    assert scene.depth is not None
    assert still.depth is not None
    for view in range(len(scene)):
        same = torch.equal(scene.depth[view], still.depth[view])
        assert same == (view not in scene.split.train), view
    moved = STAGES["fork-bent"]().moved
    assert moved is not None
    view = scene.split.train[0]
    bend = float(2 * torch.rand(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[0] - 1)
    shown = photograph(moved(bend), scene.cameras, view, supersample=1)
    assert torch.equal(shown.distance.float(), scene.depth[view][:, :, 0])
    assert scene.points is not None
    table = synthetic_world("fork").objects[0].at[2]
    assert torch.allclose(scene.points.position[:, 2], torch.tensor(table), atol=1e-5)  # of what stays


def test_a_bend_keeps_lengths_and_turns_the_tips():
    """Along the middle: handle and neck end where they ended, the tips are turned by all of the angle."""
    straight, bent = fork(STEEL), fork(STEEL, 1.0)
    for a, b in zip(straight.objects, bent.objects, strict=True):
        if isinstance(a.shape, Capsule) and isinstance(b.shape, Capsule) and a.name.startswith("handle"):
            assert b.shape.half_height == pytest.approx(a.shape.half_height, rel=0.02)
    tip = next(thing for thing in bent.objects if thing.name == "tine 12")
    along = tip.turn_to_world(vectors([0, 0, 1]))[0]
    assert degrees(float(torch.atan2(along[1], along[0]))) == pytest.approx(40 * (0.3025 + 0.2) / 0.55, abs=1.0)
    assert fork(STEEL, 0.0) == straight
    assert hypot(*bent.box().high) < 1


def test_a_twin_is_opened_by_name_with_its_masks(monkeypatch: pytest.MonkeyPatch):
    stage = STAGES["fork"]()
    assert (stage.size, stage.views) == (96, 52)
    monkeypatch.setitem(STAGES, "tiny-fork", lambda: replace(stage, size=24, views=3))
    scene = load_scene("synthetic:tiny-fork", masks="score")
    assert (len(scene), len(scene.split.train), len(scene.split.test)) == (15, 3, 8)
    assert scene.mask_rule == "score"
    mask = scene.object_mask(scene.split.test[0])
    assert mask is not None
    assert 0.03 < mask.float().mean() < 0.1
    assert any("--masks score" in note for note in scene.notes)
    alone = load_scene("synthetic:tiny-fork", masks="background", fewshot=2)
    assert alone.bounded
    assert alone.masks is None
    assert torch.equal(alone.object_mask(len(alone) - 1), scene.object_mask(len(scene) - 1))  # type: ignore[arg-type]


def test_twins_that_there_are_not_are_answered():
    with pytest.raises(UserError, match="did you mean 'fork-matte'"):
        synthetic_scene("fork-mate")
    assert World((Object("x", Capsule(0.1, 0.1), GREY),)).box().high == pytest.approx((0.1, 0.1, 0.2))
    assert len(hemisphere(STAGES["whisk"](), 4, 0.0, 32)) == 4
