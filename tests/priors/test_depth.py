"""Depth: every judgement's closed form, its gradient, its optimum; rays of which nothing is known; no depth at all."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import get_args

import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths import stepfun
from rayprior.maths.schedules import Schedule, resolve
from rayprior.priors.depth import (
    Depth,
    Judgement,
    ask_for_depth,
    estimated,
    gaussian,
    gaussian_mass,
    huber,
    line_of_sight,
    measured,
    termination,
)
from rayprior.priors.photometric import Photometric
from rayprior.priors.spec import parse_prior
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.description import Points
from rayprior.scenes.scene import Pictures, Scene
from rayprior.scenes.synthetic import synthetic_scene

JUDGEMENTS = get_args(Judgement)
T = torch.linspace(0, 4, 41, dtype=torch.float64)[None]  # 40 bins of .1
D, STD = torch.tensor([2.05], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
KERNEL = torch.exp(-0.5 * ((stepfun.midpoints(T) - D) / STD).square())
SPIKE = torch.nn.functional.one_hot(torch.tensor([20]), 40).double()
UNIFORM = torch.full((1, 40), 1 / 40, dtype=torch.float64)
SHAPE = KERNEL / KERNEL.sum()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rendering(t: Tensor, w: Tensor, coarse: Rendering | None = None) -> Rendering:
    return Rendering(torch.zeros(len(w), 3).to(w), RayDistribution(t, w), torch.zeros_like(w), coarse)


def judge(judgement: str, t: Tensor, w: Tensor, known: dict[str, Tensor], **options) -> Tensor:
    return Depth(judgement=judgement, **options).loss(rendering(t, w), known)  # type: ignore[arg-type]


def descended(loss, rays: int = 1, bins: int = 40, steps: int = 400) -> Tensor:
    """Free weights of mass one, after gradient descent."""
    raw = torch.zeros(rays, bins, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([raw], lr=0.1)
    for _ in range(steps):
        adam.zero_grad()
        loss(raw.softmax(dim=1)).backward()
        adam.step()
    return raw.detach().softmax(dim=1)


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_gaussian_of_the_paper():
    def at(w: Tensor) -> float:
        return gaussian(T, w, D, STD).item()

    assert at(SPIKE) == pytest.approx(4.6204314, abs=5e-8)
    assert at(SHAPE) == pytest.approx(1.0587496, abs=5e-8)
    assert at(UNIFORM) == pytest.approx(1.8491294, abs=5e-8)
    mass = float((KERNEL * stepfun.widths(T)).sum())
    assert mass == pytest.approx(0.5013257, abs=5e-8)
    no_floor = RayDistribution(T, SHAPE / 2).cross_entropy(D, STD, 0.0) - RayDistribution(T, SHAPE).cross_entropy(
        D, STD, 0.0
    )
    assert no_floor.item() == pytest.approx(0.3474925, abs=5e-8)
    assert no_floor.item() == pytest.approx(log(2) * mass)


def test_termination():
    p = gaussian_mass(T, D, STD)
    values = [termination(T, w, D, STD).item() for w in (p, UNIFORM, SPIKE, p / 2)]
    assert values == pytest.approx([-2e-6, 1.56648, 10.81378, 0.69314], abs=6e-6)


@pytest.mark.parametrize("judge_ray", [gaussian, termination])
def test_the_optimum_is_the_gaussian_shape_not_a_spike(judge_ray):
    w = descended(lambda w: judge_ray(T, w, D, STD).sum())
    expected = gaussian_mass(T, D, STD) if judge_ray is termination else SHAPE
    torch.testing.assert_close(w, expected, rtol=0, atol=2e-3)
    assert float(judge_ray(T, w, D, STD)) < float(judge_ray(T, SPIKE, D, STD)) - 3


def test_no_interval_of_infinite_length():
    """The original's last bin of 1e10 makes its kernel explode: 1e10 exp(-gap^2/2). Here bins have their lengths."""
    one = double(1.0)
    for gap, exploded in ((2.0, 1.35e9), (4.0, 3.35e6), (6.0, 152.0), (7.0, 0.229), (10.0, 1.9e-12)):
        t = torch.linspace(0, 20, 65, dtype=torch.float64)[None]
        value = gaussian(t, torch.full((1, 64), 1 / 64, dtype=torch.float64), one * (20 - gap), one)
        assert 1e10 * torch.exp(-0.5 * one * gap**2).item() == pytest.approx(exploded, rel=0.02)
        assert 0 < value.item() < 2.51 * log(64) + 0.1  # the whole kernel has the integral 2.5066


def test_relative_knows_no_scale_and_mse_goes_with_its_square():
    w = torch.rand(5, 40, generator=seeded(), dtype=torch.float64) / 40
    t, distance = T.expand(5, -1), 0.5 + 3 * torch.rand(5, generator=seeded(1), dtype=torch.float64)
    for judgement, factor in (("relative", 1.0), ("normalised", 1.0), ("mse", 49.0), ("l1", 7.0)):
        near = judge(judgement, t, w, {"distance": distance})
        far = judge(judgement, 7 * t, w, {"distance": 7 * distance})
        torch.testing.assert_close(far, factor * near)


def test_one_estimated_distance():
    """Edges 0, 1, 2, 3 and sigma = ln 2: raw .9375, over opacity 15/14, with left edges .5."""
    t, w = double(0, 1, 2, 3)[None], double(0.5, 0.25, 0.125)[None]
    assert estimated(t, w, "raw").item() == 0.9375
    assert estimated(t, w).item() == pytest.approx(15 / 14)
    assert estimated(t, w, "left").item() == 0.5


def test_judgements_of_one_estimate():
    """Two rays that end at 1 and 3, known to end at 2 and 3.5; confidence 2 and 1; std .25."""
    t = T.expand(2, -1)
    w = torch.zeros(2, 40, dtype=torch.float64)
    w[0, 9] = w[0, 10] = w[1, 29] = w[1, 30] = 0.5
    known = {"distance": double(2, 3.5), "confidence": double(2, 1), "distance_std": double(0.25, 0.25)}
    expected = {
        "mse": (1 + 0.25) / 2,
        "weighted": (2 * 1 + 0.25) / 2,
        "normalised": (2 * 1 + 0.25) / 2 / 3.5**2,
        "relative": (0.25 + (0.5 / 3.5) ** 2) / 2,
        "l1": (2 * 1 + 0.5) / 2,
        "robust": (2 * (3 * 4 - 4.5) + 2) / 2,
    }
    for judgement, value in expected.items():
        assert judge(judgement, t, w, known).item() == pytest.approx(value), judgement


def test_huber():
    torch.testing.assert_close(huber(double(-1, 2, 3, -5, 100)), double(0.5, 2, 4.5, 10.5, 295.5))


def test_line_of_sight():
    p = gaussian_mass(T, D, STD)
    assert line_of_sight(T, p, D, STD).item() < 1e-6
    behind = p.clone()
    behind[0, 30:] = 0.05
    assert line_of_sight(T, behind, D, STD).item() == line_of_sight(T, p, D, STD).item()
    before = p.clone()
    before[0, 3] += 0.2
    torch.testing.assert_close(line_of_sight(T, before, D, STD), double(0.04), rtol=0, atol=1e-6)
    inside = p.clone()
    inside[0, 20] += 0.3
    torch.testing.assert_close(line_of_sight(T, inside, D, STD), double(0.09), rtol=0, atol=1e-6)


def test_mass_of_a_gaussian_in_bins():
    """Exact for any bins, to the last digit of far tails, in float32 too; cut at the edges and scaled to one."""
    t = double(0, 1.85, 2.05, 2.25, 4)[None]
    torch.testing.assert_close(gaussian_mass(t, D, STD), double(0.1586553, 0.3413447, 0.3413447, 0.1586553)[None])
    fine = gaussian_mass(T, D, STD)
    torch.testing.assert_close(stepfun.resample(T, fine, double(0, 2.0, 2.1, 4)[None])[0, 1], fine[0, 20])
    torch.testing.assert_close(gaussian_mass(T.float(), D.float(), STD.float()), fine.float(), rtol=1e-3, atol=1e-9)
    assert gaussian_mass(T, double(0.0), STD).sum().item() == pytest.approx(1)
    assert gaussian_mass(T, double(3.0), double(1e6)).sum().item() == pytest.approx(1)
    far = gaussian_mass(T.float(), torch.tensor([0.5]), torch.tensor([0.1]))
    assert 0 < float(far[0, 12]) < 1e-11


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judgement", JUDGEMENTS)
@pytest.mark.parametrize("estimate", ["mean", "raw", "left"])
def test_gradients(judgement, estimate):
    w = (torch.rand(3, 12, generator=seeded(3), dtype=torch.float64) / 12 + 0.01).requires_grad_()
    t = torch.linspace(2, 6, 13, dtype=torch.float64).expand(3, -1)
    known = {"distance": double(3.1, 4.4, torch.nan), "distance_std": double(0.3, 0.5, 0.1)}
    known["confidence"] = double(1.5, 0.5, 1)
    assert torch.autograd.gradcheck(lambda w: judge(judgement, t, w, known, estimate=estimate), w)


@pytest.mark.parametrize("judgement", JUDGEMENTS)
@pytest.mark.parametrize("opacity", [0.0, 1.0], ids=["empty", "wall"])
def test_empty_rays_and_walls_have_finite_gradients(judgement, opacity):
    w = torch.zeros(4, 12)
    w[:, 2] = opacity
    w.requires_grad_()
    t = torch.linspace(2, 6, 13).expand(4, -1)
    known = {"distance": torch.tensor([2.0, 3.0, 4.5, 6.0])}
    loss = judge(judgement, t, w, known)
    loss.backward()
    assert loss.isfinite()
    assert w.grad is not None
    assert w.grad.isfinite().all()
    assert (w.grad[1:] != 0).any(dim=1).all()


# -- what is known of rays ---------------------------------------------------------------------------------------------

INVALID = {
    "nan": (torch.nan, 0.1),
    "zero": (0.0, 0.1),
    "negative": (-3.0, 0.1),
    "infinite": (torch.inf, 0.1),
    "before near": (1.9, 0.1),
    "beyond far": (6.1, 0.1),
    "of no certainty": (4.0, torch.inf),
}


@pytest.mark.parametrize("judgement", JUDGEMENTS)
@pytest.mark.parametrize("wrong", INVALID.values(), ids=INVALID)
def test_rays_without_a_valid_distance_do_not_count(judgement, wrong):
    t = torch.linspace(2, 6, 13).expand(3, -1)
    w = torch.rand(3, 12, generator=seeded(5)) / 12
    distance, std = torch.tensor([3.0, wrong[0], 4.0]), torch.tensor([0.3, wrong[1], 0.3])
    known = {"distance": distance, "distance_std": std, "confidence": torch.tensor([1.0, torch.nan, 0.5])}
    kept = [0, 2]
    w = w.requires_grad_()
    both = judge(judgement, t, w, known)
    alone = judge(judgement, t[kept], w[kept], {name: value[kept] for name, value in known.items()})
    torch.testing.assert_close(both, alone)
    both.backward()
    assert w.grad is not None
    assert not w.grad[1].any()
    nothing = {name: value[1:2] for name, value in known.items()}
    w = w.detach()[:1].requires_grad_()
    none = judge(judgement, t[:1], w, nothing)
    none.backward()
    assert none.item() == 0
    assert w.grad is not None
    assert not w.grad.any()


def test_std_is_at_least_half_the_bin_there():
    t = double(0, 1, 2, 6)[None].expand(4, -1)
    known = {"distance": double(0.5, 3, 3, 3), "distance_std": double(0.1, 0.1, 3.0, torch.nan)}
    torch.testing.assert_close(measured(t, known).std, double(0.5, 2, 3, 2))
    torch.testing.assert_close(measured(t, known, std_scale=2.0).std, double(0.5, 2, 6, 2))
    torch.testing.assert_close(measured(t, known, std=2.5).std, double(2.5, 2.5, 2.5, 2.5))
    torch.testing.assert_close(measured(t, {"distance": known["distance"]}).std, double(0.5, 2, 2, 2))


def test_permuted_distances_are_worse():
    """The control of every study: right distances on wrong rays."""
    t = torch.linspace(2, 6, 41, dtype=torch.float64).expand(6, -1)
    distance = torch.linspace(2.5, 5.5, 6, dtype=torch.float64)
    w = gaussian_mass(t, distance, torch.full_like(distance, 0.1))
    for judgement in JUDGEMENTS:
        right = judge(judgement, t, w, {"distance": distance}, std=0.1)
        wrong = judge(judgement, t, w, {"distance": distance.roll(1)}, std=0.1)
        assert wrong > right + 1e-3, judgement


def test_an_outlier_pulls_robustly():
    """A ray that ends 20 std off: the pull of mse grows with the error, that of robust does not."""
    pulls = {}
    for judgement in ("mse", "robust"):
        for off in (1.0, 2.0):
            w = SPIKE.clone().requires_grad_()
            judge(judgement, T, w, {"distance": D - off}, std=0.05).backward()
            assert w.grad is not None
            pulls[judgement, off] = float(w.grad.abs().max())
    assert pulls["mse", 2.0] == pytest.approx(2 * pulls["mse", 1.0])
    assert pulls["robust", 2.0] == pytest.approx(pulls["robust", 1.0], rel=0.01)


# -- the term ----------------------------------------------------------------------------------------------------------


def test_both_levels_are_judged():
    known = {"distance": D}
    fine, coarse = termination(T, SHAPE, D, double(0.05)).item(), termination(T, UNIFORM, D, double(0.05)).item()
    seen = rendering(T, SHAPE, rendering(T, UNIFORM))
    assert Depth().loss(seen, known).item() == pytest.approx(fine + coarse)
    assert Depth(coarse=0.5).loss(seen, known).item() == pytest.approx(fine + 0.5 * coarse)
    assert Depth(coarse=0.0).loss(seen, known).item() == pytest.approx(fine)


def test_keypoint_rays_judge_their_colour_too():
    seen = rendering(T, SHAPE)
    known = {"distance": D, "rgb": torch.ones(1, 3).double()}
    depth = Depth().loss(seen, known)
    both = Depth(colour=0.5).loss(seen, known | {"colour": known["rgb"]})
    torch.testing.assert_close(both, depth + 0.5 * Photometric().loss(seen, known))


def test_the_width_follows_a_schedule():
    term = Depth(std_scale=Schedule(((0.0, 5.0), (1 / 3, 1.0)), of="budget"))  # type: ignore[arg-type]
    known = {"distance": D, "distance_std": STD}
    for progress, scale in ((0.0, 5.0), (1 / 6, 3.0), (1.0, 1.0)):
        value = resolve(term, 0, progress).loss(rendering(T, UNIFORM), known)
        torch.testing.assert_close(value, termination(T, UNIFORM, D, scale * STD).mean())


def test_options_as_typed():
    name, term = parse_prior("depth:loss=mse,weight=0.05,at=keypoints,estimate=left", {"depth": Depth})
    assert name == "depth"
    assert term == Depth(weight=0.05, judgement="mse", at="keypoints", estimate="left")
    with pytest.raises(UserError, match=r"'loss' is \"msr\".*did you mean 'mse'"):
        parse_prior("depth:loss=msr", {"depth": Depth})
    with pytest.raises(UserError, match=r"std is -1\.0; expected a positive length"):
        parse_prior("depth:std=-1", {"depth": Depth})


# -- which rays --------------------------------------------------------------------------------------------------------

SCENE = replace(synthetic_scene("shapes", size=16, views=4, test_views=1, supersample=1), points=None)
BARE = replace(SCENE, depth=None)


def with_points(scene: Scene) -> Scene:
    """The middle of the scene, as two training views see it."""
    cameras = torch.tensor(scene.split.train[:2])
    return replace(
        scene,
        points=Points(
            position=torch.zeros(1, 3, dtype=torch.float64),
            rgb=torch.zeros(1, 3, dtype=torch.uint8),
            error_px=torch.tensor([0.5], dtype=torch.float64),
            track_point=torch.zeros(2, dtype=torch.long),
            track_camera=cameras,
            track_pixel=torch.zeros(2, 2, dtype=torch.float64),
        ),
    )


def test_pixels_where_there_are_maps_else_keypoints():
    assert ask_for_depth(SCENE, "auto", 8, seeded()) is None
    assert ask_for_depth(with_points(SCENE), "pixels", 8, seeded()) is None
    for scene, at in ((with_points(SCENE), "keypoints"), (with_points(BARE), "auto")):
        query = ask_for_depth(scene, at, 8, seeded())  # type: ignore[arg-type]
        assert query is not None
        assert len(query) == 8
    query = Depth(rays=8).query(with_points(BARE), seeded())
    assert query is not None
    assert torch.equal(query.known["colour"], query.known["rgb"])
    assert Depth(rays=8).loss(rendering(T.float().expand(8, -1), torch.rand(8, 40) / 40), query.known).isfinite()


def test_photographed_rays_are_judged_by_their_own_depth():
    photo = SCENE.photo_rays(64, seeded())
    assert Depth().query(SCENE, seeded()) is None
    share = torch.linspace(0, 1, 41)
    t = torch.lerp(photo.rays.near[:, None], photo.rays.far[:, None], share)
    truth = measured(t, photo.known)
    assert 5 < int(truth.valid.sum()) <= 64
    assert bool((truth.valid == photo.known["distance"].isfinite()).all())
    perfect = gaussian_mass(t, truth.distance, truth.std)
    assert Depth().loss(rendering(t, perfect), photo.known).abs() < 1e-4


@pytest.mark.parametrize("at", ["auto", "pixels", "keypoints"])
def test_without_any_depth_it_refuses_to_start(at):
    with pytest.raises(UserError) as error:
        Depth(rays=8, at=at).query(BARE, seeded())
    text = str(error.value)
    for word in ("shapes: ", "COLMAP model", "beside the pictures", "rayprior depth make", "--from RUN"):
        assert word in text, text
    assert "Get some" in text
    assert "leave at=auto" not in text


def test_what_would_help_is_said():
    with pytest.raises(UserError, match=r"at=pixels.*leave at=auto, which finds keypoints here"):
        Depth(rays=8, at="pixels").query(with_points(BARE), seeded())
    with pytest.raises(UserError, match=r"no sparse points \(at=keypoints\).*leave at=auto, which finds depth maps"):
        Depth(rays=8, at="keypoints").query(SCENE, seeded())


def test_depth_of_held_out_views_is_no_depth():
    maps = [torch.full_like(SCENE.depth[i], torch.nan) for i in range(len(SCENE))]  # type: ignore[index]
    maps[SCENE.split.test[0]][:] = 3.0
    with pytest.raises(UserError, match="no depth map covers a training view"):
        Depth(rays=8).query(replace(SCENE, depth=Pictures.of(maps)), seeded())
