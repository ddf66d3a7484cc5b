"""The analytic scenes against closed forms, a brute-force march and each other: they are the oracle of other tests."""

from __future__ import annotations

from dataclasses import replace
from math import asin, cos, inf, pi, radians, sqrt, tan

import pytest
import torch

from rayprior.errors import UserError
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.synthetic import (
    Checker,
    Cuboid,
    Cylinder,
    Disc,
    Lamp,
    Lighting,
    Marble,
    Material,
    Object,
    Plain,
    Plane,
    Rectangle,
    Sky,
    Sphere,
    Stripes,
    Sun,
    World,
    correspondences,
    matte,
    nearest,
    photograph,
    synthetic_names,
    synthetic_scene,
    synthetic_world,
    trace,
    view_hit,
    visible,
)
from rayprior.scenes.synthetic.catalogue import STAGES
from rayprior.scenes.synthetic.tiled_rooms import ROOMS

PLAIN = [name for name in synthetic_names() if not STAGES[name]().masked]  # the others: test_twins.py
GREY = matte((0.5, 0.5, 0.5))
NO_SKY = Sky(ambient=0.0)
INSIDE = {"room", *ROOMS}  # cameras stand within, and there is no background


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


def pinholes(*positions, size=(100, 80), focal=100.0) -> Cameras:
    """Cameras that all look along +z, x right, y down."""
    c2w = torch.eye(3, 4, dtype=torch.float64).repeat(len(positions), 1, 1)
    c2w[:, :, 3] = vectors(*positions)
    count = len(positions)
    return Cameras(
        c2w,
        torch.full((count, 2), focal, dtype=torch.float64),
        vectors(size).expand(count, 2) / 2,
        torch.tensor([size]).expand(count, 2),
    )


@pytest.fixture(scope="module")
def small() -> dict:
    """Every scene that is no twin, at 40 x 40."""
    return {name: synthetic_scene(name, size=40, views=6, test_views=3) for name in PLAIN}


# -- hits in closed form --------------------------------------------------------------------------------------------


def test_sphere_through_the_centre_and_beside():
    world = World((Object("ball", Sphere(0.5), GREY, at=(0, 0, 1)),))
    origins = vectors([0, 0, -3], [0.3, 0, -3], [0.6, 0, -3], [0, 0, 1])
    hit = trace(world, origins, vectors([0, 0, 1]).expand(4, 3))
    assert torch.allclose(hit.distance, vectors(3.5, 4 - 0.4, inf, 0.5))  # at .3: half chord .4; the last is inside
    assert hit.object.tolist() == [0, 0, -1, 0]
    assert torch.allclose(hit.normal[1], vectors(0.6, 0, -0.8))
    assert torch.allclose(hit.normal[3], vectors(0, 0, -1.0))  # inside: turned towards the ray
    assert hit.normal[2].isnan().all()
    assert torch.equal(hit.rgb[2], vectors(1, 1, 1))


def test_slab_at_an_angle():
    slab = Cuboid((9.0, 9.0, 0.25))
    direction = unit(vectors([1, 0, 2]))
    enter, leave = slab.interval(vectors([0, 0, -1]), direction)
    cosine = float(direction[0, 2])
    assert float(enter) == pytest.approx(0.75 / cosine)
    assert float(leave - enter) == pytest.approx(0.5 / cosine)


def test_planes_turn_and_end():
    wall = {"material": GREY, "at": (0.0, 0.0, 2.0), "turn_deg": (0.0, 60.0, 0.0)}  # tilted about y by 60 degrees
    right = unit(vectors([0.1, 0, 1]))
    expected = (
        2 * cos(radians(60)) / (right @ vectors(tan(radians(60)), 0, 1) * cos(radians(60)))
    )  # n.(o + t d - a) = 0
    for shape in (Plane(), Disc(3.0), Rectangle((3.0, 3.0))):
        distance, _ = nearest(World((Object("wall", shape, **wall),)), vectors([0, 0, 0]), right)
        assert float(distance) == pytest.approx(float(expected))
    for shape in (Disc(0.1), Rectangle((0.1, 3.0))):
        distance, _ = nearest(World((Object("wall", shape, **wall),)), vectors([0, 0, 0]), right)
        assert float(distance) == inf
    along = vectors([0, 0, 1])
    assert float(nearest(World((Object("edge-on", Plane(), GREY),)), vectors([1, 0, 0]), vectors([0, 1, 0]))[0]) == inf
    assert float(nearest(World((Object("behind", Plane(), GREY),)), vectors([0, 0, 1]), along)[0]) == inf


def test_cylinder_caps_sides_and_axis():
    drum = Cylinder(0.5, 1.0)
    origins = vectors([0.2, 0, -3], [0.6, 0, -3], [-3, 0, 0.5], [-3, 0, 1.5], [-3, 0.3, 0])
    directions = vectors([0, 0, 1], [0, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0])
    enter, leave = drum.interval(origins, directions)
    assert torch.allclose(enter[[0, 2, 4]], vectors(2, 2.5, 2.6))
    assert torch.allclose(leave[[0, 2, 4]], vectors(4, 3.5, 3.4))
    assert (enter > leave).tolist() == [False, True, False, True, False]


SHAPES = {
    "sphere": (Sphere(0.7), lambda p: p.norm(dim=-1) <= 0.7),
    "cuboid": (Cuboid((0.5, 0.3, 0.7)), lambda p: (p.abs() <= vectors(0.5, 0.3, 0.7)).all(dim=-1)),
    "cylinder": (Cylinder(0.4, 0.6), lambda p: (p[..., :2].norm(dim=-1) <= 0.4) & (p[..., 2].abs() <= 0.6)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_hits_against_a_dense_march(name):
    """The oracle knows only which points are inside; turned and moved bodies, rays from everywhere."""
    shape, inside = SHAPES[name]
    thing = Object("it", shape, GREY, at=(0.1, -0.2, 0.15), turn_deg=(30.0, -50.0, 20.0))
    origins, directions = random_rays(400, seed=3)
    step = 2e-3
    t = torch.arange(0, 6, step, dtype=torch.float64)
    points = origins[:, None] + directions[:, None] * t[:, None]  # (r, t, 3)
    within = inside((points - vectors(*thing.at)) @ thing.rotation())
    marched = torch.where(within.any(dim=1), within.int().argmax(dim=1) * step, inf)
    exact, _ = nearest(World((thing,)), origins, directions)
    both = exact.isfinite() & marched.isfinite()
    assert both.sum() > 50
    assert ((exact <= marched) & (marched <= exact + step + 1e-9))[both].all()
    assert (exact.isfinite() & ~marched.isfinite()).sum() <= 4  # chords shorter than a step
    assert not (marched.isfinite() & ~exact.isfinite()).any()


def test_nearest_of_many_is_the_least_of_each():
    world = synthetic_world("still-life")
    origins, directions = random_rays(500)
    distance, which = nearest(world, origins, directions)
    each = torch.stack([thing.hit(origins, directions) for thing in world.objects])
    assert torch.equal(distance, each.amin(dim=0))
    assert torch.equal(which >= 0, distance.isfinite())
    found = which >= 0
    assert torch.equal(each.argmin(dim=0)[found], which[found])


@pytest.mark.parametrize("name", PLAIN)
def test_normals_are_unit_face_the_ray_and_match_the_distance(name, small):
    """The normal is also the gradient of distance: moving the ray sideways along the surface agrees to first order."""
    scene, world = small[name], synthetic_world(name)
    hit = view_hit(world, scene.cameras, 0)
    normal = hit.normal[hit.found]
    camera = torch.zeros(len(hit.distance), dtype=torch.long)
    directions = scene.cameras.directions(camera, scene.cameras.pixel_grid(0))
    towards = (normal * directions[hit.found]).sum(dim=1)
    assert torch.allclose(normal.norm(dim=1), torch.ones(1, dtype=torch.float64))
    assert (towards < 0).all()
    points = scene.cameras.origins[0] + directions * hit.distance[:, None]
    shift = vectors([1e-4, -2e-4, 1.5e-4])
    moved, which = nearest(
        world, (scene.cameras.origins[0] + shift).expand_as(directions), directions
    )  # shift = a + (n.shift / n.d) d
    expected = -(hit.normal @ shift[0]) / (hit.normal * directions).sum(dim=1)
    same = hit.found & (which == hit.object) & ((hit.normal * directions).sum(dim=1) < -0.3)
    error = (moved - hit.distance - expected)[same].abs()
    assert same.sum() > 100
    assert error.quantile(0.97) < 1e-5  # the rest crosses an edge
    assert points[hit.found].isfinite().all()


# -- light ----------------------------------------------------------------------------------------------------------


def test_shadow_of_a_ball_lies_where_geometry_says():
    """Sun at 45 degrees: the shadow is an ellipse around (1, 0), half axes r sqrt 2 and r."""
    sun = Lighting((Sun((-1, 0, 1), (1, 1, 1)),), NO_SKY)
    ball = Object("ball", Sphere(0.3), GREY, at=(0, 0, 1))
    world = World((Object("ground", Plane(), GREY), ball), sun)
    xy = torch.cartesian_prod(torch.linspace(0, 2, 81), torch.linspace(-0.5, 0.5, 41)).double()
    origins = torch.cat([xy, torch.full_like(xy[:, :1], 0.05)], dim=1)  # below the ball
    hit = trace(world, origins, vectors([0, 0, -1]).expand(len(xy), 3))
    radius = ((xy[:, 0] - 1) / (0.3 * sqrt(2))).square() + (xy[:, 1] / 0.3).square()
    clear = (radius - 1).abs() > 5e-3
    assert torch.equal(hit.lit[clear, 0], radius[clear] > 1)
    assert torch.allclose(hit.rgb[hit.lit[:, 0]], torch.tensor(0.5 / sqrt(2), dtype=torch.float64))
    assert (hit.rgb[~hit.lit[:, 0]] == 0).all()


def test_a_lamp_falls_with_the_square_and_stands_before_what_is_behind_it():
    lamp = Lighting((Lamp((0, 0, 1), (0.8, 0.8, 0.8)),), NO_SKY)
    ceiling = Object("above the lamp", Rectangle((5.0, 5.0)), GREY, at=(0, 0, 2))
    world = World((Object("ground", Plane(), GREY), ceiling), lamp)
    hit = trace(world, vectors([0, 0, 0.5], [1, 0, 0.5]), vectors([0, 0, -1], [0, 0, -1]))
    assert hit.lit.all()
    assert torch.allclose(hit.rgb[:, 0], vectors(0.5 * 0.8, 0.5 * 0.8 / 2 / sqrt(2)))  # 1/d^2, cosine


def test_highlight_and_mirror_follow_their_laws():
    sun = Lighting((Sun((1, 0, 1), (0.5, 0.5, 0.5)),), NO_SKY)
    black = Material(Plain((0, 0, 0)), specular=0.8, shininess=10.0)
    down = unit(vectors([1, 0, -1], [0, 0, -1]))  # the mirror direction, and straight down
    hit = trace(World((Object("ground", Plane(), black),), sun), vectors([-1, 0, 1], [0, 0, 1]), down)
    half = cos(radians(22.5)) ** 10
    assert torch.allclose(hit.rgb[:, 0], vectors(0.4, 0.4 * half))

    mirror = Material(Plain((0, 0, 0)), mirror=0.25)
    red = Object("red", Rectangle((1.0, 1.0)), matte((1, 0, 0)), at=(0, 0, 2))
    world = World((Object("ground", Plane(), mirror), red), Lighting((), Sky((1, 1, 1), (1, 1, 1), ambient=0.6)))
    seen = trace(world, vectors([0, 0, 1]), vectors([0, 0, -1])).rgb
    assert torch.allclose(seen, vectors([0.25 * 0.6, 0, 0]))  # Schlick at normal incidence: F0


def test_textures():
    points = vectors([0.1, 0.1, 0], [0.3, 0.1, 0], [0.3, 0.3, 0], [-0.1, 0.1, 0])
    chart = points[:, :2]
    checker = Checker((0, 0, 0), (1, 1, 1), (5, 5)).colour(chart, points)[:, 0]
    assert checker.tolist() == [0, 1, 0, 1]
    stripes = Stripes((0, 0, 0), (1, 1, 1), 2.0, along=0).colour(chart, points)[:, 0]
    assert stripes.tolist() == [0, 1, 1, 1]
    where = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    marble = Marble((0, 0, 0), (1, 1, 1), 6.0)
    a, b = (marble.colour(w[:, :2], w)[:, 0] for w in (where, where + 1e-5))
    assert a.std() > 0.2
    assert (a - b).abs().max() < 5e-3
    assert 0 <= a.min() < a.max() <= 1


# -- pictures -------------------------------------------------------------------------------------------------------


def test_coverage_of_a_sphere_is_the_area_of_its_silhouette():
    """On the axis the silhouette is a disc of radius f tan(asin(r / d)) pixels."""
    world = World((Object("ball", Sphere(0.5), GREY, at=(0, 0, 3)),))
    view = photograph(world, pinholes([0, 0, 0]), 0, supersample=4)
    area = pi * (100 * tan(asin(0.5 / 3))) ** 2
    assert float(view.rgba[..., 3].sum()) == pytest.approx(area, rel=3e-3)
    assert int(view.mask(0).sum()) == pytest.approx(area, rel=2e-2)
    partial = view.rgba[..., 3][(view.rgba[..., 3] > 0) & (view.rgba[..., 3] < 1)]
    assert len(partial) > 50
    assert (view.rgba[..., 3] > 0).sum() == (view.rgba[..., :3].sum(dim=2) > 0).sum()  # straight alpha: no black rim


def test_colours_of_a_pixel_average_its_area():
    """An edge between black and white a third of the way through a column of pixels."""
    edge = Material(Checker((0, 0, 0), (1, 1, 1), (0.1, 0.1)))
    plane = Object("wall", Plane(), edge, at=(0.01 / 3, 0.5, 1))
    world = World((plane,), Lighting((), Sky((1, 1, 1), (1, 1, 1), ambient=1.0)))
    row = photograph(world, pinholes([0, 0, 0]), 0, supersample=3).rgba[40, :, 0]
    assert row[48:53].tolist() == pytest.approx([0, 0, 2 / 3, 1, 1], abs=1e-6)


def test_distance_normals_and_ids_belong_to_the_pixel_centre():
    world = World((Object("wall", Plane(), GREY, at=(0, 0, 2)),))
    cameras = pinholes([0, 0, 0])
    view = photograph(world, cameras, 0)
    depth = view.distance.reshape(-1) * cameras.axis_cosine(torch.zeros(8000, dtype=torch.long), cameras.pixel_grid(0))
    assert torch.allclose(depth, torch.tensor(2.0, dtype=torch.float64))
    assert torch.allclose(view.normal, vectors(0, 0, -1).expand(80, 100, 3))
    assert (view.object == 0).all()
    assert (view.rgba[..., 3] == 1).all()


# -- what cameras share ---------------------------------------------------------------------------------------------


def test_match_on_a_fronto_parallel_plane_shifts_by_f_b_over_z():
    world = World((Object("wall", Plane(), GREY, at=(0, 0, 2)),))
    cameras = pinholes([0, 0, 0], [0.1, 0, 0], [0, 0, 5])
    pixels = vectors([50.5, 40.5], [20.25, 10.0], [3, 40])
    matched, seen = correspondences(world, cameras, 0, 1, pixels)
    assert torch.allclose(matched, pixels - vectors(5, 0))
    assert seen.tolist() == [True, True, False]  # the third leaves the picture
    assert not correspondences(world, cameras, 0, 2, pixels)[1].any()  # behind the third camera


def test_hidden_points_are_not_visible():
    wall = Object("wall", Plane(), GREY, at=(0, 0, 4))
    world = World((wall, Object("ball", Sphere(0.2), GREY, at=(0, 0, 2))))
    cameras = pinholes([0, 0, 0], [1, 0, 0])
    pixel, seen = visible(world, vectors([0, 0, 4], [0, 0, 1.8], [0, 0, 2.2]), cameras, 0)
    assert torch.allclose(pixel, vectors([50, 40]).expand(3, 2))
    assert seen.tolist() == [False, True, False]
    _, seen = correspondences(world, cameras, 1, 0, vectors([25, 40]))  # the wall behind the ball
    assert seen.tolist() == [False]


@pytest.mark.parametrize("name", PLAIN)
def test_correspondences_agree_in_both_directions(name, small):
    scene, world = small[name], synthetic_world(name)
    pixels = scene.cameras.pixel_grid(0)
    there, seen = correspondences(world, scene.cameras, 0, 1, pixels)
    assert 50 < seen.sum() < len(seen)
    back, returned = correspondences(world, scene.cameras, 1, 0, there[seen])
    assert (returned.float().mean()) > 0.999
    assert (back - pixels[seen])[returned].norm(dim=1).max() < 1e-4
    own, self_seen = correspondences(world, scene.cameras, 0, 0, pixels)
    found = view_hit(world, scene.cameras, 0).found
    assert torch.equal(self_seen, found)
    assert torch.allclose(own[found], pixels[found].double(), atol=1e-7)


# -- ready scenes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_scene_is_whole_and_its_depth_is_exact(name, small):
    scene, world = small[name], synthetic_world(name)
    assert len(scene) == 6 + (6 if name in ROOMS else 4) + 3
    assert scene.split.name == f"synthetic/{name}-6"
    assert sorted(scene.split.train + scene.split.val + scene.split.test) == list(range(len(scene)))
    assert scene.bounded == (name not in INSIDE)
    assert scene.pictures.values.shape == (len(scene) * 1600, 3 if name in INSIDE else 4)
    rays = scene.view_rays(scene.split.test[0])
    assert scene.depth is not None
    distance = scene.depth[scene.split.test[0]].reshape(-1)
    known = ~distance.isnan()
    exact, which = nearest(world, rays.origins[known], rays.directions[known])
    assert torch.allclose(exact, distance[known], atol=2e-4) or ((exact - distance[known]).abs() > 2e-4).sum() < 5
    assert (which >= 0).float().mean() > 0.99
    assert (distance[known] > rays.near[known]).all()
    assert (distance[known] < rays.far[known]).all()
    assert known.all() == (name in INSIDE)


def test_scene_fills_the_picture_without_leaving_it(small):
    for name in set(PLAIN) - INSIDE:
        for index in range(len(small[name])):
            alpha = small[name].pictures[index][..., 3]
            border = torch.cat([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
            assert (border == 0).all(), (name, index)
            assert 0.15 < (alpha > 0).float().mean() < 0.75, (name, index)
        box = small[name].bounds.box
        assert max(*map(abs, box.low), *box.high) < 1.05


def test_test_cameras_stand_between_training_cameras():
    scene = synthetic_scene("shapes", size=8, views=40, test_views=8, supersample=1)
    forward = scene.cameras.forward
    held_out = list(scene.split.test + scene.split.val)
    angle = torch.rad2deg(torch.arccos((forward[held_out] @ forward[list(scene.split.train)].T).clamp(-1, 1)))
    assert angle.amin() > 1.0
    assert angle.amin(dim=1).max() < 20.0


def test_equal_arguments_give_equal_scenes_and_seeds_differ():
    first, again = (synthetic_scene("glossy", size=16, views=3, test_views=1, seed=5) for _ in range(2))
    other = synthetic_scene("glossy", size=16, views=3, test_views=1, seed=6)
    assert torch.equal(first.pictures.values, again.pictures.values)
    assert torch.equal(first.cameras.c2w, again.cameras.c2w)
    assert first.depth is not None
    assert again.depth is not None
    assert torch.equal(first.depth.values.nan_to_num(), again.depth.values.nan_to_num())
    assert not torch.allclose(first.cameras.c2w, other.cameras.c2w, atol=1e-2)


def test_depth_may_be_left_out_and_colour_is_finite():
    scene = synthetic_scene("room", size=16, views=2, test_views=1, depth=False)
    assert scene.depth is None
    assert scene.pictures.values.float().std() > 10


def test_glossy_ball_changes_with_the_view_and_matte_one_does_not():
    """The same lit point from where its highlight is seen, and from the side."""
    world = synthetic_world("glossy")
    sun = world.lighting.lights[0]
    assert isinstance(sun, Sun)
    shown = {}
    for ball in ("glossy ball", "coral ball"):
        thing = next(o for o in world.objects if o.name == ball)
        assert isinstance(thing.shape, Sphere)
        towards = unit(vectors([-0.2, -0.9, 0.6], [0.4, -0.5, 0.9]))
        point = vectors(*thing.at) + thing.shape.radius * unit(unit(vectors(*sun.towards)) + towards[0])
        origins = point + 3 * towards
        shown[ball] = trace(world, origins, unit(point - origins)).rgb
    assert (shown["glossy ball"][0] - shown["glossy ball"][1]).abs().max() > 0.1
    assert torch.allclose(shown["coral ball"][0], shown["coral ball"][1])


def test_precision_of_the_rays_is_kept_and_both_agree():
    world = synthetic_world("still-life")
    origins, directions = random_rays(2000)
    fine, coarse = trace(world, origins, directions), trace(world, origins.float(), directions.float())
    assert (fine.rgb.dtype, coarse.rgb.dtype) == (torch.float64, torch.float32)
    assert ((fine.rgb - coarse.rgb).abs().amax(dim=1) > 1e-2).float().mean() < 5e-3  # edges of shadows and textures


def test_no_light_no_objects_of_a_kind_no_rays():
    dark = replace(synthetic_world("shapes"), lighting=Lighting((), NO_SKY))
    origins, directions = random_rays(50)
    hit = trace(dark, origins, directions)
    assert hit.lit.shape == (50, 0)
    assert (hit.rgb[hit.found] == 0).all()
    assert len(trace(dark, origins[:0], directions[:0]).distance) == 0


def test_unknown_names_and_empty_scenes_are_answered():
    with pytest.raises(UserError, match="did you mean 'still-life'"):
        synthetic_scene("stil-life")
    with pytest.raises(UserError, match="expected at least"):
        synthetic_scene("shapes", views=1)
