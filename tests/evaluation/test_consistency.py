"""Views agree where they see one surface, and there alone; what `evaluate` makes of all views together."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.evaluation.consistency import PAIRS, Sight, difference, flicker, neighbours, rendered_surface
from rayprior.evaluation.evaluate import ALL_MEASURES, MEASURES, evaluate
from rayprior.evaluation.perception import pieces
from rayprior.evaluation.pictures import Picture, on_background
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Rays
from rayprior.scenes.scene import Pictures, Scene
from rayprior.scenes.synthetic import (
    Cuboid,
    Object,
    Sphere,
    Stage,
    World,
    hemisphere,
    matte,
    synthetic_scene,
    view_hit,
)


@pytest.fixture(scope="module")
def shapes() -> Scene:
    return on_background(synthetic_scene("shapes", size=64, views=2, test_views=8, supersample=2), None)


def sights_of(scene: Scene) -> dict[int, Sight]:
    """The true pictures of the test views with their true distances."""
    assert scene.depth is not None
    return {k: Sight(scene.picture(i), scene.depth[i][:, :, 0]) for k, i in enumerate(scene.split.test)}


# -- two views ---------------------------------------------------------------------------------------------------------


def test_true_pictures_of_matte_things_agree(shapes: Scene, make_scene):
    cameras = shapes.cameras[list(shapes.split.test)]
    agreed = difference(sights_of(shapes), cameras, neighbours(cameras))
    assert agreed is not None
    assert agreed < 0.008  # what sampling leaves: edges of colour are sharp to a pixel
    ball = on_background(make_scene(views=24, size=(48, 48)), None)  # its colours are smooth
    ball_cameras = ball.cameras[list(ball.split.test)]
    smooth = difference(sights_of(ball), ball_cameras, neighbours(ball_cameras))
    assert smooth is not None
    assert smooth < 0.003


def test_what_each_view_adds_is_found_whole(shapes: Scene):
    """Of flat pictures with a constant of its own each, a pair's difference is that of their constants."""
    cameras = shapes.cameras[list(shapes.split.test)]
    added = torch.linspace(-0.1, 0.1, 8)[torch.tensor([3, 0, 6, 1, 7, 2, 5, 4])]
    sights = {k: Sight(torch.full_like(s.rgb, 0.5) + added[k], s.distance) for k, s in sights_of(shapes).items()}
    for i, j in neighbours(cameras):
        assert difference(sights, cameras, [(i, j)]) == pytest.approx(float((added[i] - added[j]).abs()), rel=1e-4)
    everywhere = difference(sights, cameras, neighbours(cameras))
    pairs = [float((added[i] - added[j]).abs()) for i, j in neighbours(cameras)]
    assert everywhere is not None
    assert min(pairs) < everywhere < max(pairs)


def test_only_what_both_see_is_compared():
    """A ball before a wall, in pictures of which thing is where: to mistake what is hidden is to see the other."""
    wall = Object("wall", Cuboid((3.0, 3.0, 0.1)), matte((1.0, 1.0, 1.0)), (0, 0, -0.6))
    world = World((wall, Object("ball", Sphere(0.4), matte((0.0, 0.0, 0.0)))))
    cameras = hemisphere(Stage(world, elevation_deg=(40.0, 70.0)), 8, 0.0, 64)
    sights, whole = {}, 0
    for index in range(8):
        hit = view_hit(world, cameras, index)
        distance = torch.where(hit.found, hit.distance, torch.nan).view(64, 64)
        sights[index] = Sight(hit.object.view(64, 64, 1).expand(-1, -1, 3).float(), distance)
        whole += int((hit.object == 1).sum())
    assert whole > 8 * 200  # the ball hides much of the wall
    assert difference(sights, cameras, neighbours(cameras)) == pytest.approx(0, abs=1e-12)
    unaware = {k: Sight(s.rgb, torch.full_like(s.distance, 4.0)) for k, s in sights.items()}
    assert (difference(unaware, cameras, neighbours(cameras)) or 0) > 0.005  # wrong distances are found out


def test_edges_unknown_and_masked_pixels_are_left_out(shapes: Scene):
    cameras, sights = shapes.cameras[list(shapes.split.test)], sights_of(shapes)
    pair = [(0, neighbours(cameras)[0][1])]
    nothing = {k: Sight(s.rgb, torch.full_like(s.distance, torch.nan)) for k, s in sights.items()}
    assert difference(nothing, cameras, pair) is None
    assert difference(sights, cameras, []) is None
    broken = {}
    for k, sight in sights.items():
        empty = sight.distance.isnan()[:, :, None]
        broken[k] = Sight(torch.where(empty, torch.nan, sight.rgb), sight.distance)
    assert difference(broken, cameras, pair) == difference(sights, cameras, pair)  # the background has no say


def test_the_nearest_view_is_the_neighbour(make_scene):
    ring = make_scene(views=40, size=(4, 4)).cameras
    pairs = neighbours(ring)
    assert len(pairs) == PAIRS
    assert all((i - j) % 40 in (1, 39) for i, j in pairs)
    assert neighbours(ring[0]) == []
    assert neighbours(ring[[0, 20]]) == [(0, 1), (1, 0)]


def test_see_through_pixels_have_no_surface():
    distance, opacity = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.4], [0.6, 0.0]])
    picture = Picture(torch.zeros(2, 2, 3), distance, opacity)
    found = rendered_surface(picture)
    assert found.nan_to_num(-1).tolist() == [[1.0, -1.0], [3.0, -1.0]]


# -- a film ------------------------------------------------------------------------------------------------------------


@dataclass
class Restless:
    """A model whose colours change by `step` from one picture to the next and back."""

    still: object
    step: float
    size: int
    rays: int = 0

    def render_in_chunks(self, rays: Rays, chunk: int = 8192):
        for part in self.still.render_in_chunks(rays, chunk):  # type: ignore[attr-defined]
            sign = 1 if self.rays // self.size % 2 else -1
            self.rays += len(part)
            yield Rendering(part.rgb * 0 + 0.5 + sign * self.step / 2, part.distribution, part.density)


def test_flicker_is_what_changes_from_frame_to_frame(make_scene, make_model):
    scene = make_scene(size=(30, 30))
    still = flicker(make_model(density=2000), scene, frames=4)
    assert still is not None
    assert still < 0.004
    restless = Restless(make_model(), 0.06, 900)
    seen = []
    found = flicker(restless, scene, frames=4, on_progress=lambda done, count: seen.append((done, count)))
    assert found == pytest.approx(0.06, rel=1e-4)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_film_without_two_frames_or_a_path_is_refused(scene, model):
    with pytest.raises(UserError, match="flicker of 1 frame: expected at least 2"):
        flicker(model, scene, frames=1)
    with pytest.raises(UserError, match=r"no camera path named 'orbot'.*orbit"):
        flicker(model, scene, path="orbot")


# -- in `evaluate` -----------------------------------------------------------------------------------------------------


def test_evaluate_has_all_measures_of_sets_with_their_protocol(make_scene, make_model):
    scene = make_scene(views=16, arc=1.5)
    right = evaluate(make_model(density=1e4), scene, scene.split.test, lpips="none")
    wrong = evaluate(make_model(density=1e4, fog=0.4), scene, scene.split.test, lpips="none")
    assert set(MEASURES) < set(right.mean)
    for name in (*MEASURES, "consistency_photographs"):
        value = right.mean[name]
        assert value is not None
        assert -1e-3 < value < 0.2, name
    for name in ("swd", "gradient_histogram", "kid_random"):
        assert (right.mean[name] or 0) < (wrong.mean[name] or 0), name
    assert not set(MEASURES) & set(right.views[0])  # no view has them
    assert "by the true distances" in right.protocol["consistency"]
    assert "7x7 px patches" in right.protocol["swd"]
    assert "seed 0" in right.protocol["kid_random"]
    assert "1/1024" in right.protocol["gradient_histogram"]
    assert "flicker" not in right.protocol
    json.loads(right.to_json())
    again = evaluate(make_model(density=1e4), scene, scene.split.test, lpips="none")
    assert again.mean == right.mean


def test_without_depth_the_rendered_distances_decide(make_scene, make_model):
    scene = replace(make_scene(views=16, arc=1.5), depth=None)
    result = evaluate(make_model(density=1e4), scene, scene.split.test, lpips="none", measures=ALL_MEASURES)
    assert "by the rendered distances" in result.protocol["consistency"]
    for name in ("consistency", "flicker"):
        assert (result.mean[name] or 1) < 0.02
    assert "12 of 60" in result.protocol["flicker"]


def test_one_view_and_half_views_have_no_consistency(make_scene, model):
    scene = make_scene(size=(40, 40))
    one = evaluate(model, scene, [0], lpips="none")
    assert one.mean["consistency"] is None
    assert one.protocol["consistency"] == "null: one view has no other"
    halves = evaluate(model, scene, scene.split.test, lpips="none", halves=True)
    assert halves.mean["consistency"] is None
    assert "its own light" in halves.protocol["consistency"]
    assert halves.mean["swd"] is not None  # right halves have 20 px


def test_masked_out_pixels_have_no_say(make_scene, make_model):
    """All but the ball is masked out: its surroundings may have any colour."""
    scene = make_scene(views=16, arc=1.5)
    masked = replace(scene, masks=Pictures(scene.depth.values.isfinite(), scene.depth.size))
    black = masked.with_background(replace(scene.background, colour=(0.0, 0.0, 0.0)))
    white, dark = (evaluate(make_model(density=1e5), s, s.split.test, lpips="none").mean for s in (masked, black))
    assert white["consistency"] == dark["consistency"]
    assert white["gradient_histogram"] == pytest.approx(dark["gradient_histogram"], abs=2e-3)  # the rim is mixed
    assert masked.masks is not None
    nothing = replace(masked, masks=Pictures(torch.zeros_like(masked.masks.values), scene.depth.size))
    empty = evaluate(make_model(), nothing, nothing.split.test, lpips="none").mean
    assert (empty["consistency"], empty["swd"], empty["kid_random"]) == (None, 0, 0)


def test_measures_are_chosen_by_name(scene, model):
    asked = evaluate(model, scene, scene.split.test, lpips="none", measures=["swd"])
    assert set(ALL_MEASURES) & set(asked.mean) == {"swd"}
    assert set(ALL_MEASURES) & set(asked.protocol) == {"swd"}
    assert not set(ALL_MEASURES) & set(evaluate(model, scene, [0], lpips="none", measures=()).mean)
    with pytest.raises(UserError, match=r"no measure named 'kid'.*kid_random"):
        evaluate(model, scene, [0], lpips="none", measures=["kid"])


def test_what_is_kept_of_a_view_does_not_grow_with_it():
    """So ten large pictures cost what ten small ones do, but for the reading."""

    def kept(side: int, count: int) -> tuple[int, int]:
        one = pieces(torch.rand(side, side, 3, generator=torch.Generator().manual_seed(0)), 0, count)
        assert isinstance(one.windows, Tensor)
        return len(one.bands[0]), len(one.windows)

    assert kept(100, 10) == kept(300, 10) == (410, 103)
