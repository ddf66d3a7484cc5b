"""What the viewer paints and when: a known ball, the order of visitors, smooth paths. No browser, no viser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from rayprior.evaluation.mesh import box_in_capture_units
from rayprior.evaluation.trajectories import camera_path_json, read_camera_path
from rayprior.maths.poses import look_at, rotation_xyz
from rayprior.maths.space import Box, Similarity
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Rays
from rayprior.scenes.scene import Bounds, Scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.viewer.painter import FIRST_RATE, UNCERTAIN, Look, Painted, Painter, View, shown_axes
from rayprior.viewer.path import path_cameras, smooth_path
from rayprior.viewer.stage import capture_box_shown, thumbnail
from rayprior.viewer.stream import MOST, STILL, Stream


@pytest.fixture(scope="module")
def scene() -> Scene:
    made = synthetic_scene("shapes", size=16, views=6, test_views=1, supersample=1)
    return replace(made, bounds=Bounds(0.5, 9.0, Box((-3, -3, -3), (3, 3, 3))))


class Ball:
    """A red ball around `centre`: each ray that meets it ends in one bin of width 0.002, or, blurred, in two of equal
    weight 0.4 apart. `tinted` rays of photo 3 are blue."""

    def __init__(self, centre=(0.0, 0.0, 0.0), radius: float = 1.0, blurred: bool = False) -> None:
        self.centre, self.radius, self.blurred = torch.tensor(centre), radius, blurred

    def render_in_chunks(self, rays: Rays, chunk: int = 1024) -> Iterator[Rendering]:
        for start in range(0, len(rays), chunk):
            yield self.render(rays[start : start + chunk])

    def render(self, rays: Rays) -> Rendering:
        offset = rays.origins - self.centre
        half = (offset * rays.directions).sum(dim=1)
        room = half.square() - offset.square().sum(dim=1) + self.radius**2
        t = -half - room.clamp_min(0).sqrt()
        back = -half + room.clamp_min(0).sqrt()
        hit = (room > 0) & (t >= rays.near) & (t <= rays.far)
        enters = (room > 0) & ~hit & (rays.near < back) & (rays.near > t)  # a cut opened it: seen where it is cut
        t = torch.where(enters, rays.near + 0.001, t)
        hit = hit | enters
        apart = 0.2 if self.blurred else 0.0
        near, far = t - apart, t + apart
        edges = torch.stack([near - 0.001, near + 0.001, far + 0.002, far + 0.004], dim=1).clamp_min(0)
        first = 0.5 if self.blurred else 1.0
        weights = hit[:, None] * torch.tensor([first, 0.0, 1 - first])
        colour = torch.where(rays.camera[:, None] == 3, torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0]))
        rgb = torch.where(hit[:, None], colour, rays.background)
        return Rendering(rgb, RayDistribution(edges, weights), torch.zeros(len(rays), 3))


def ahead(distance: float = 4.0, fov: float = 60.0, aspect: float = 4 / 3) -> View:
    """From (0, -distance, 0) towards the origin, z up."""
    origin = torch.tensor([[0.0, -distance, 0]], dtype=torch.float64)
    up = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    return View(look_at(origin, torch.zeros(3, dtype=torch.float64), up)[0], fov, aspect)


def painted(picture: Painted | None) -> Painted:
    assert picture is not None
    return picture


# -- painter -----------------------------------------------------------------------------------------------------------


def test_a_view_is_a_pinhole_camera():
    camera = ahead(fov=90, aspect=2.0).camera((40, 20))
    assert camera.focal_px.tolist() == [[pytest.approx(10)] * 2]
    pixel, distance, seen = camera.project(torch.tensor([[0.0, 0, 0], [0, 0, 3.9]]), torch.zeros(2, dtype=torch.long))
    assert pixel[0].tolist() == pytest.approx([20, 10])
    assert distance[0] == 4
    assert pixel[1, 1] == pytest.approx(10 - 39 / 4)
    assert seen.all()


def test_colour_and_depth_of_a_ball(scene: Scene):
    picture = painted(Painter(Ball(), scene).paint(ahead(), (41, 31), Look()))
    assert picture.size == (41, 31)
    assert picture.rgb[15, 20].tolist() == [255, 0, 0]
    assert picture.rgb[0, 0].tolist() == [255, 255, 255]  # alpha: white
    assert picture.depth[15, 20] == pytest.approx(3.0, abs=0.002)
    assert np.isinf(picture.depth[0, 0])
    # z, not distance: of the plane z = const that cuts the ball, all pixels would be alike; check one off the axis
    camera = ahead().camera((41, 31))
    ray = camera.directions(torch.tensor([0]), torch.tensor([[26.5, 15.5]]))[0]
    half = float(-(ray @ camera.origins[0]))
    t = half - math.sqrt(half**2 - 16 + 1)
    assert picture.depth[15, 26] == pytest.approx(t * float(ray @ camera.forward[0]), abs=0.002)


@pytest.mark.parametrize("distance", [1.2, 4.0, 30.0])
def test_near_and_far_go_with_the_visitor(scene: Scene, distance: float):
    """Closer than the photographs' near and farther than their far the ball is still there."""
    photographed = replace(scene, bounds=replace(scene.bounds, near=2.0, far=7.0))
    picture = painted(Painter(Ball(), photographed).paint(ahead(distance), (41, 31), Look()))
    assert picture.depth[15, 20] == pytest.approx(distance - 1, abs=0.003)


def test_layers(scene: Scene):
    painter = Painter(Ball(), scene)
    opacity = painted(painter.paint(ahead(), (41, 31), Look("opacity")))
    assert opacity.rgb[15, 20].tolist() == [255, 255, 255]
    assert opacity.rgb[0, 0].tolist() == [0, 0, 0]
    sharp = painted(painter.paint(ahead(), (41, 31), Look("entropy"))).rgb[15, 20].astype(int)
    unsure = painted(Painter(Ball(blurred=True), scene).paint(ahead(), (41, 31), Look("entropy"))).rgb[15, 20]
    assert unsure.astype(int).sum() > sharp.sum() + 100  # one bit of log2 3
    deviation = painted(Painter(Ball(blurred=True), scene).paint(ahead(), (41, 31), Look("uncertainty"))).rgb[15, 20]
    assert deviation.sum() > sharp.sum()
    depth = painted(painter.paint(ahead(), (41, 31), Look("depth"))).rgb.astype(int).sum(axis=2)
    assert depth[15, 20] > depth[15, 26] > 0  # the middle is nearest; 6 pixels aside it is 0.2 farther
    assert depth[0, 0] == 0


def test_uncertainty_is_the_deviation_over_the_distance(scene: Scene):
    """Two bins of equal weight 0.2 before and behind 3: deviation 0.2 (the bins' own width adds 1e-6)."""
    from rayprior.viewer.painter import _value

    part = Ball(blurred=True).render(
        Rays.through(torch.tensor([[0.0, -4, 0]]), torch.tensor([[0.0, 1, 0]]), near=0.1, far=9.0)
    )
    assert float(_value(part, "uncertainty")) * UNCERTAIN == pytest.approx(0.2 / 3, rel=0.02)
    assert float(_value(part, "entropy")) == pytest.approx(1 / math.log2(3))


def test_the_crop_box_cuts_the_ball_open(scene: Scene):
    """What is nearer than y = -0.5 is gone: the middle is seen at depth 3.5; a box beside the ball leaves nothing."""
    painter = Painter(Ball(), scene)
    cut = painted(painter.paint(ahead(), (41, 31), Look(crop=Box((-2, -0.5, -2), (2, 2, 2)))))
    assert cut.depth[15, 20] == pytest.approx(3.5, abs=0.01)
    nothing = painted(painter.paint(ahead(), (41, 31), Look(crop=Box((5, 5, 5), (6, 6, 6)))))
    assert (nothing.rgb == 255).all()
    assert np.isinf(nothing.depth).all()


def test_the_crop_box_lies_along_the_captures_axes(scene: Scene):
    """The same box of the capture cuts the same away in whatever working units the scene is kept."""
    turn = rotation_xyz(torch.tensor([[0.3, -0.5, 0.8]], dtype=torch.float64))[0]
    moved = Similarity.of(0.25, turn, torch.tensor([0.2, 0.1, -0.3]))
    other = replace(
        scene,
        cameras=replace(scene.cameras, c2w=moved.poses(scene.cameras.c2w)),
        similarity=moved,
        focus=moved.points(scene.focus.double()),
        bounds=replace(scene.bounds, near=scene.bounds.near / 4, far=scene.bounds.far / 4),
    )
    low, high = (-2.0, -0.5, -2.0), (2.0, 2.0, 2.0)
    centre = tuple(moved.points(torch.zeros(3)).tolist())
    shown = shown_axes(other)
    assert torch.allclose(shown.points(other.focus.double()), torch.zeros(3, dtype=torch.float64), atol=1e-9)
    box = capture_box_shown(other, shown, low, high)
    view = View(moved.poses(ahead().c2w[None])[0], 60.0, 4 / 3)
    picture = painted(Painter(Ball(centre, 0.25), other).paint(view, (41, 31), Look(crop=box)))
    assert picture.depth[15, 20] == pytest.approx(3.5 / 4, abs=0.01)


def test_the_captures_box_is_found_again(scene: Scene):
    shown, found = shown_axes(scene), box_in_capture_units(scene)
    assert found.low == pytest.approx(scene.bounds.box.low)
    assert found.high == pytest.approx(scene.bounds.box.high)
    box = capture_box_shown(scene, shown, found.low, found.high)
    focus = scene.focus.tolist()
    assert box.low == pytest.approx([a - b for a, b in zip(scene.bounds.box.low, focus)])


def test_the_photo_chosen_is_the_one_that_rays_name(scene: Scene):
    picture = painted(Painter(Ball(), scene).paint(ahead(), (41, 31), Look(photo=3)))
    assert picture.rgb[15, 20].tolist() == [0, 0, 255]


def test_sizes_follow_the_measured_speed(scene: Scene):
    painter = Painter(Ball(), scene)
    assert painter.rate == FIRST_RATE
    painter.rate = 100_000.0
    assert painter.size(ahead(), 1.2, 10**6) == (400, 300)
    assert painter.size(ahead(), 1.2, 30_000) == (200, 150)
    painter.rate = 1.0
    assert painter.size(ahead(), 0.15, 10**6) == (16, 12)
    assert painter.size(ahead(aspect=400.0), 0.15, 10**6)[1] == 1


def test_speed_is_measured(scene: Scene):
    seconds = iter([0.0, 2.0, 2.0, 2.5])
    painter = Painter(Ball(), scene, clock=lambda: next(seconds))
    painter.warm_up(ahead())
    assert painter.rate == 64 * 48 / 0.5


def test_a_picture_that_is_not_wanted_stops(scene: Scene):
    asked = iter([True, False])
    assert Painter(Ball(), scene).paint(ahead(), (128, 96), Look(), lambda: next(asked)) is None


def test_legends_are_in_the_captures_unit(scene: Scene):
    """The middle of the ball is at 3, its edge at 15^0.5: the 1st and 99th percentile, widened by 3 %."""
    legend = painted(Painter(Ball(), scene).paint(ahead(), (41, 31), Look("depth"))).legend
    near, far = (float(word) for word in legend.replace(",", "").split() if word[0].isdigit())
    assert near == pytest.approx(3 * 0.97, rel=0.01)
    assert 3.5 < far < 15**0.5 * 1.03
    in_mm = replace(scene, similarity=Similarity(0.001))
    assert "bright 2.9" in painted(Painter(Ball(), in_mm).paint(ahead(), (41, 31), Look("depth"))).legend


# -- stream ------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stub:
    """A painter that notes what it painted; `meanwhile` happens before it asks whether to go on."""

    def __init__(self, rate: float = 100_000.0) -> None:
        self.rate, self.painted, self.meanwhile = rate, [], lambda: None

    def size(self, view: View, seconds: float, most: int) -> tuple[int, int]:
        pixels = min(self.rate * seconds, most)
        height = round((pixels / view.aspect) ** 0.5)
        return round(height * view.aspect), height

    def paint(self, view: View, size: tuple[int, int], look: Look, going) -> Painted | None:
        self.meanwhile()
        if not going():
            return None
        self.painted.append((view, size, look))
        return Painted(np.zeros((size[1], size[0], 3), np.uint8), "", np.zeros((size[1], size[0]), np.float32), 0.1)


@pytest.fixture
def watched():
    clock, sent = Clock(), []
    seconds = (0.15, 1.2, math.inf)
    stream = Stream(lambda who, picture, done: sent.append((who, picture.size, done)), seconds, clock)
    return stream, Stub(), clock, sent


def test_coarse_while_moving_then_sharp_then_whole(watched):
    stream, stub, clock, sent = watched
    stream.look_from(1, ahead(), 800 * 600)
    assert stream.work(stub)
    assert not stream.work(stub)  # it may still be moving
    clock.now += STILL
    while stream.work(stub):
        pass
    assert [(size, done) for _, size, done in sent] == [((141, 106), False), ((400, 300), False), ((800, 600), True)]


def test_a_picture_that_would_add_nothing_is_not_painted(watched):
    stream, stub, clock, sent = watched
    stub.rate = 1e7
    stream.look_from(1, ahead(), 800 * 600)
    stream.work(stub)
    clock.now += 1
    assert not stream.work(stub)
    assert [(size, done) for _, size, done in sent] == [((800, 600), True)]


def test_no_picture_is_larger_than_a_megapixel(watched):
    stream, stub, clock, sent = watched
    stream.look_from(1, ahead(), 4000 * 3000)
    clock.now += 1
    while stream.work(stub):
        pass
    width, height = sent[-1][1]
    assert 0.99 * MOST < width * height < 1.01 * MOST


def test_stale_views_are_dropped(watched):
    stream, stub, _, _ = watched
    for distance in (4.0, 5.0, 6.0):
        stream.look_from(1, ahead(distance), 480_000)
    while stream.work(stub):
        pass
    assert [float(view.c2w[1, 3]) for view, _, _ in stub.painted] == [-6.0]


def test_a_move_stops_a_sharp_picture_and_gets_a_coarse_one(watched):
    stream, stub, clock, sent = watched
    stream.look_from(1, ahead(), 480_000)
    stream.work(stub)
    clock.now += 1
    stub.meanwhile = lambda: stream.look_from(1, ahead(5.0), 480_000)
    assert stream.work(stub)
    assert len(sent) == 1
    stub.meanwhile = lambda: None
    assert stream.work(stub)
    assert float(stub.painted[-1][0].c2w[1, 3]) == -5.0
    assert sent[-1][1] == (141, 106)


def test_a_view_that_moves_on_still_gets_its_coarse_picture(watched):
    """Else somebody who never rests would see nothing."""
    stream, stub, _, sent = watched
    stream.look_from(1, ahead(), 480_000)
    stub.meanwhile = lambda: stream.look_from(1, ahead(5.0), 480_000)
    stream.work(stub)
    stub.meanwhile = lambda: None
    stream.work(stub)
    assert [size for _, size, _ in sent] == [(141, 106)] * 2


def test_two_visitors_take_turns_and_who_moves_comes_first(watched):
    stream, stub, clock, sent = watched
    stream.look_from(1, ahead(), 480_000)
    stream.look_from(2, ahead(5.0), 480_000)
    stream.work(stub)
    clock.now += 1
    stream.look_from(1, ahead(3.0), 480_000)  # was served before: 2 comes first
    stream.work(stub)
    stream.work(stub)
    assert [who for who, _, _ in sent] == [1, 2, 1]
    stub.meanwhile = lambda: stream.look_from(2, ahead(6.0), 480_000)
    clock.now += 1
    stream.work(stub)  # the sharp picture of one of them stops for 2, who moves
    stub.meanwhile = lambda: None
    stream.work(stub)
    assert sent[-1][0] == 2
    clock.now += 1
    while stream.work(stub):
        pass
    assert {who for who, _, done in sent if done} == {1, 2}


def test_who_leaves_while_it_is_painted_for_gets_nothing(watched):
    stream, stub, clock, sent = watched
    stream.look_from(1, ahead(), 480_000)
    stream.look_from(2, ahead(), 480_000)
    stub.meanwhile = lambda: stream.leave(1)
    stream.work(stub)
    assert sent == []
    stub.meanwhile = lambda: None
    clock.now += 1
    while stream.work(stub):
        pass
    assert {who for who, _, _ in sent} == {2}
    stream.leave(1)  # twice is once
    assert len(stream) == 1


def test_another_layer_is_painted_for_all(watched):
    stream, stub, clock, _ = watched
    stream.look_from(1, ahead(), 480_000)
    clock.now += 1
    while stream.work(stub):
        pass
    stream.choose(Look("opacity"))
    while stream.work(stub):
        pass
    assert [look.layer for _, _, look in stub.painted] == ["colour"] * 3 + ["opacity"] * 3


def test_a_choice_made_while_a_picture_is_painted_is_not_lost(watched):
    """Not even where the first picture is fine enough to be the last."""
    stream, stub, clock, _ = watched
    stub.rate = 1e7
    stream.look_from(1, ahead(), 480_000)
    stub.meanwhile = lambda: stream.choose(Look("opacity"))
    stream.work(stub)
    stub.meanwhile = lambda: None
    clock.now += 1
    while stream.work(stub):
        pass
    assert stub.painted[-1][2].layer == "opacity"


def test_new_weights_refine_what_is_still(watched):
    """While a training is watched nobody goes back to the coarse picture."""
    stream, stub, clock, sent = watched
    stream.seconds = (0.15, 0.5)
    stream.look_from(1, ahead(), 480_000)
    clock.now += 1
    while stream.work(stub):
        pass
    stream.repaint(level=1)
    while stream.work(stub):
        pass
    assert [done for _, _, done in sent] == [False, True, True]
    assert sent[-1][1] == sent[-2][1]


# -- a camera path -----------------------------------------------------------------------------------------------------


def keys(count: int) -> list[View]:
    angle = torch.arange(count, dtype=torch.float64) * 0.6
    origins = torch.stack([4 * angle.cos(), 4 * angle.sin(), 0.5 * angle], dim=1)
    poses = look_at(origins, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0, 1], dtype=torch.float64))
    return [View(pose, 50.0, 1.5) for pose in poses]


def test_a_smooth_path_goes_through_its_views():
    poses = torch.stack([key.c2w for key in keys(4)])
    curve = smooth_path(poses, 301)
    for pose in poses:
        assert (curve - pose).abs().amax(dim=(1, 2)).min() < 0.02
    assert torch.allclose(curve[0], poses[0])
    assert torch.allclose(curve[-1], poses[-1], atol=1e-9)
    identity = curve[:, :, :3].transpose(1, 2) @ curve[:, :, :3]
    assert torch.allclose(identity, torch.eye(3, dtype=torch.float64).expand_as(identity), atol=1e-9)
    steps = (curve[1:, :, 3] - curve[:-1, :, 3]).norm(dim=1)
    assert steps.max() < 1.3 * steps.min()  # even speed
    turns = steps.new_tensor([1.0]) * (steps[1:] - steps[:-1]).abs()
    assert turns.max() < 0.1 * steps.mean()  # and without a jerk


def test_one_view_is_a_path_too():
    assert torch.equal(smooth_path(keys(1)[0].c2w[None], 5), keys(1)[0].c2w.expand(5, -1, -1))


def test_a_path_is_read_back_as_it_was_drawn(scene: Scene, tmp_path):
    import json

    moved = replace(scene, similarity=Similarity(0.5, translation=(1.0, 2.0, 3.0)))
    cameras = path_cameras(keys(3), 20, (64, 48))
    file = tmp_path / "path.json"
    file.write_text(json.dumps(camera_path_json(cameras, moved)))
    again = read_camera_path(file, moved)
    assert torch.allclose(again.c2w, cameras.c2w)
    assert torch.allclose(again.focal_px, cameras.focal_px)
    assert again.size.tolist() == [[64, 48]] * 20


# -- thumbnails --------------------------------------------------------------------------------------------------------


def test_thumbnails_are_small_and_stand_on_white():
    picture = torch.zeros(100, 200, 4, dtype=torch.uint8)
    assert thumbnail(picture).shape == (36, 72, 3)
    assert (thumbnail(picture) == 255).all()
    assert (thumbnail(torch.full((30, 20, 3), 7, dtype=torch.uint8)) == 7).all()
