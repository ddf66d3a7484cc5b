"""Evaluation of what learned from a family: the protocol, each number against its definition, what is seen and unseen,
and how sure a prediction is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import log, pi

import pytest
import torch
from tests.families import balls
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.evaluation.family import COUNTS, PROTOCOL, evaluate_family, fixed_order, mean_of_pictures
from rayprior.evaluation.family_report import write_family_report
from rayprior.evaluation.metrics import distance_errors, psnr_of_picture
from rayprior.evaluation.predicted import Painted, Prediction, Rendered, predictor_of, rays_of
from rayprior.evaluation.uncertainty import coverage, seen_before
from rayprior.fields.codes import Codes, Posterior
from rayprior.fields.scene_function import SceneFunction
from rayprior.fields.space import Space
from rayprior.networks.encoder import Encoder
from rayprior.networks.gqn import Gqn
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.inference import Inference
from rayprior.rendering.model import Model
from rayprior.scenes.family import Family, Views


class Asked:
    """A predictor that knows the answer, or what a test says instead; remembers what it was shown."""

    def __init__(self, answer: Callable[[Views, Views], Tensor], draws: Callable[[Views], Tensor] | None = None):
        self.answer, self.draws, self.shown, self.asked = answer, draws, [], []

    def predict(self, shown: Views, asked: Views, draws: int = 0, generator: Generator | None = None) -> Prediction:
        self.shown.append(shown)
        self.asked.append(asked)
        drawn = None if self.draws is None or not draws else self.draws(asked)
        ones = torch.ones(len(asked), 2)
        return Prediction(
            self.answer(shown, asked), torch.full(asked.rgb.shape[:-1], 3.0), drawn, Posterior(ones, 0 * ones)
        )

    def unseeing(self, asked: Views) -> Prediction:
        return Prediction(torch.zeros_like(asked.rgb))


@pytest.fixture(scope="module")
def family() -> Family:
    return balls(views=7)


def test_the_truth_is_without_error(family: Family):
    found = evaluate_family(Asked(lambda shown, asked: asked.rgb), family, family.split.test)
    assert found.mean["mse@1"] == 0
    assert found.mean["psnr@5"] == float("inf")
    assert json.loads(found.to_json())["mean"]["psnr@1"] is None
    assert found.protocol["views"].startswith(PROTOCOL)
    assert found.protocol["views"].startswith("family: last 2 of each, context first n of a fixed order")


def test_the_last_two_are_asked_for_and_the_first_are_shown(family: Family):
    asked = Asked(lambda shown, asked: asked.rgb)
    found = evaluate_family(asked, family, [6, 7], (1, 3))
    assert [len(shown.present[0]) for shown in asked.shown] == [1, 3]
    for row, order in zip(found.scenes, fixed_order(family, [6, 7]).tolist()):
        assert row["context"] == order[:3]
        assert row["targets"] == order[-2:]
        assert sorted(order) == list(range(7))
    scene, views = torch.tensor([6, 7]), fixed_order(family, [6, 7])
    torch.testing.assert_close(asked.asked[0].rgb, family.shown(scene, views[:, -2:]).rgb)
    torch.testing.assert_close(asked.shown[1].rgb, family.shown(scene, views[:, :3]).rgb)


def test_the_order_is_the_scenes_own(family: Family):
    assert torch.equal(fixed_order(family, [7])[0], fixed_order(family, [3, 7])[1])
    assert not torch.equal(*fixed_order(family, [3, 7]))


def test_numbers_are_the_metrics(family: Family):
    g = Generator().manual_seed(0)
    noise = 0.1 * torch.randn(1, 2, 16, 16, 3, generator=g)
    predictor = Asked(lambda shown, asked: asked.rgb + noise)
    row = evaluate_family(predictor, family, [6], (2,)).scenes[0]
    asked = predictor.asked[0]
    pictures = [psnr_of_picture(asked.rgb[0, t] + noise[0, t], asked.rgb[0, t]) for t in (0, 1)]
    assert None not in pictures
    assert row["psnr@2"] == pytest.approx(sum(p for p in pictures if p) / 2)
    views = torch.tensor(row["targets"])
    truth = family.distances(torch.tensor([6, 6]), views)
    assert truth is not None
    assert row["distance_abs_rel@2"] == distance_errors(torch.full_like(truth, 3.0), truth)["distance_abs_rel"]
    assert row["kl@2"] == pytest.approx(1.0)  # two numbers of mean 1: a half each


def test_the_negative_elbo_is_of_all_values_of_both_targets(family: Family):
    """Every draw misses by .2 at s = .1: each value costs 2 + ln(.1) + ln(2 pi) / 2, and the KL comes once."""
    predictor = Asked(lambda shown, asked: asked.rgb, lambda asked: asked.rgb[None] + 0.2)
    found = evaluate_family(predictor, family, [6], (1,), samples=1, std=0.1, sanity=False)
    values = 2 * 16 * 16 * 3
    nats = values * (2 + log(0.1) + log(2 * pi) / 2) + 1
    assert found.mean["nats@1"] == pytest.approx(nats, rel=1e-4)
    assert found.mean["bits@1"] == pytest.approx(nats / (values * log(2)), rel=1e-4)
    assert "deviation@1" not in found.mean


def test_sanity_rows(family: Family):
    predictor = Asked(lambda shown, asked: asked.rgb)
    found = evaluate_family(predictor, family, [6], (1, 5))
    asked, shown = predictor.asked[0], predictor.shown[0]
    truth = asked.rgb[0]
    assert found.mean["nearest_view_mse@1"] == pytest.approx(float((truth - shown.rgb[0]).square().mean()), rel=1e-5)
    apart = torch.cdist(asked.poses[0, :, :, 3], predictor.shown[1].poses[0, :, :, 3])
    nearest = predictor.shown[1].rgb[0, apart.argmin(dim=1)]
    assert found.mean["nearest_view_mse@5"] == pytest.approx(float((truth - nearest).square().mean()), rel=1e-5)
    assert found.mean["prior_mean_mse"] == pytest.approx(float(truth.square().mean()), rel=1e-5)
    every = family.pictures(torch.arange(6).repeat_interleave(7), torch.arange(7).repeat(6)).double() / 255
    torch.testing.assert_close(mean_of_pictures(family), every.mean(dim=0).float())
    assert found.mean["mean_picture_mse"] == pytest.approx(float((truth - every.mean(dim=0)).square().mean()), rel=1e-5)


def test_active_units_are_those_that_tell_something(family: Family):
    class Half(Asked):
        def predict(self, shown, asked, draws=0, generator=None):
            mean = torch.zeros(len(asked), 4)
            mean[:, 0], mean[:, 1] = 1.0, 0.1  # KL .5 and .005
            return Prediction(asked.rgb, posterior=Posterior(mean, torch.zeros_like(mean)))

    found = evaluate_family(Half(lambda shown, asked: asked.rgb), family, [6, 7], (1,))
    assert found.mean["active_units@1"] == 1


def test_pictures_are_kept_of_scenes_that_are_asked_for(family: Family):
    found = evaluate_family(Asked(lambda shown, asked: asked.rgb), family, [6, 7], (1, 3), shown=[7])
    assert [scene.name for scene in found.kept] == ["balls/7"]
    kept = found.kept[0]
    assert kept.context.shape == (3, 16, 16, 3)
    assert kept.truth.shape == (2, 16, 16, 3)
    assert set(kept.predictions) == {1, 3}
    assert kept.predictions[1].rgb.shape == (1, 2, 16, 16, 3)


# -- from elsewhere ----------------------------------------------------------------------------------------------------


def elsewhere(family: Family) -> Family:
    """The same balls by cameras that are half a unit higher: pictures of another brightness, to be told apart."""
    shard = family.shards[0]
    poses = shard.poses.copy()
    poses[..., 2, 3] += 0.5
    return replace(family, name="higher", shards=[replace(shard, poses=poses, pictures=shard.pictures // 2)])


def test_targets_may_be_seen_by_other_cameras(family: Family):
    higher = elsewhere(family)
    predictor = Asked(lambda shown, asked: asked.rgb)
    found = evaluate_family(predictor, family, [6], (1,), targets_from=higher)
    assert found.protocol["targets from"] == "higher"
    order, scene = fixed_order(family, [6]), torch.tensor([6])
    torch.testing.assert_close(predictor.asked[0].rgb, higher.shown(scene, order[:, -2:]).rgb)
    torch.testing.assert_close(predictor.shown[0].rgb, family.shown(scene, order[:, :1]).rgb)


def test_other_worlds_are_refused(family: Family):
    predictor = Asked(lambda shown, asked: asked.rgb)
    with pytest.raises(UserError, match=r"not the same worlds.*number of scenes is 5, and 8 there"):
        evaluate_family(predictor, family, [6], targets_from=balls(scenes=5, views=7))
    with pytest.raises(UserError, match="its size"):
        evaluate_family(predictor, family, [6], targets_from=balls(views=7, size=8))


# -- seen and unseen ---------------------------------------------------------------------------------------------------


def test_what_a_view_sees_it_has_seen(family: Family):
    """A view against itself: all that is known was seen. The others' far sides were not."""
    scene, views = torch.tensor([6]), torch.arange(7)[None]
    shown, distance = family.shown(scene, views), family.distances(scene.expand(7), views[0])
    assert distance is not None
    distance = distance[None]
    known = distance.isfinite()
    for view in range(7):
        one = replace(shown, rgb=shown.rgb[:, view : view + 1], poses=shown.poses[:, view : view + 1])
        one = replace(one, present=shown.present[:, view : view + 1])
        seen = seen_before(family, one, distance[:, view : view + 1], shown, distance)
        assert bool((seen[:, view] == known[:, view]).all())
        assert not bool((seen & ~known).any())


def test_the_far_side_of_a_ball_is_unseen():
    """A surface point is in sight where its normal looks towards the camera: the ball is alone."""
    family = balls(views=7, size=48)
    scene, views = torch.tensor([6]), torch.arange(7)[None]
    shown, distance = family.shown(scene, views), family.distances(scene.expand(7), views[0])
    assert distance is not None
    distance = distance[None]
    first = replace(shown, poses=shown.poses[:, :1], present=shown.present[:, :1])
    seen = seen_before(family, first, distance[:, :1], shown, distance)
    points = shown.origins + shown.directions * distance[..., None]
    known = distance.isfinite()
    centre = _centre(points[known])
    normal = torch.nn.functional.normalize(points - centre, dim=-1)
    towards = torch.nn.functional.normalize(shown.poses[0, 0, :, 3] - points, dim=-1)
    facing = (normal * towards).sum(dim=-1)
    assert bool(seen[known & (facing > 0.4)].all())
    assert not bool(seen[known & (facing < 0)].any())
    assert 0.2 < float(seen[known].float().mean()) < 0.9


def _centre(points: Tensor) -> Tensor:
    """Of the sphere through these points, by least squares: |p|^2 = 2 p.c + k."""
    a = torch.cat([2 * points, torch.ones(len(points), 1)], dim=1)
    return torch.linalg.lstsq(a, points.square().sum(dim=1, keepdim=True)).solution[:3, 0]


def test_deviation_at_what_was_not_seen_is_found(family: Family):
    """Draws that vary exactly where the surface was in no shown view: the AUC is 1; noise everywhere: about a half."""
    order, scene = fixed_order(family, [6]), torch.tensor([6])
    shown, asked = family.shown(scene, order[:, :1]), family.shown(scene, order[:, -2:])
    far = [family.distances(scene.expand(n.shape[1]), n[0]) for n in (order[:, :1], order[:, -2:])]
    assert far[0] is not None
    assert far[1] is not None
    seen = seen_before(family, shown, far[0][None], asked, far[1][None])
    g = Generator().manual_seed(0)
    noise = torch.randn(16, *asked.rgb.shape, generator=g)
    for spread, low, high in ((~seen[..., None] * 0.3 * noise, 1.0, 1.0), (0.3 * noise, 0.3, 0.7)):
        predictor = Asked(lambda s, a: a.rgb, lambda a, spread=spread: a.rgb + spread)
        found = evaluate_family(predictor, family, [6], (1,), samples=16, sanity=False)
        assert low <= (found.mean["auc_unseen@1"] or 0) <= high


def test_intervals_cover_what_they_promise():
    """Truth drawn from the mixture itself: 50, 80, 95 %. Draws far too sure of themselves: almost nothing."""
    g = Generator().manual_seed(0)
    draws = 0.5 + 0.2 * torch.randn(16, 2, 1, 20, 20, 3, generator=g)
    which = torch.randint(16, (1, *draws.shape[1:]), generator=g)
    truth = draws.gather(0, which)[0] + 0.1 * torch.randn(draws.shape[1:], generator=g)
    for percent, share in coverage(draws, truth, 0.1).items():
        assert share.shape == (2,)
        torch.testing.assert_close(share, torch.full((2,), percent / 100), rtol=0, atol=0.04)
    assert float(coverage(draws, truth + 5, 0.1)[95].max()) == 0


# -- what predicts -----------------------------------------------------------------------------------------------------


def small_model(family: Family) -> Model:
    torch.manual_seed(0)
    return Model.build(
        SceneFunction(width=16, depth=3),
        CoarseField(coarse=6, fine=6),
        Space("box", family.bounds.box),
        Compositing(),
        Codes(latent=8, photographs=0),
        Inference(encoder=Encoder(side=4, hidden=16)),
    )


def test_a_field_predicts_pictures_and_distances(family: Family):
    model = small_model(family)
    order, scene = fixed_order(family, [6, 7]), torch.tensor([6, 7])
    shown, asked = family.shown(scene, order[:, :2]), family.shown(scene, order[:, -2:])
    found = Rendered(model).predict(shown, asked, 3, Generator().manual_seed(0))
    assert found.rgb.shape == asked.rgb.shape
    assert found.distance is not None
    assert found.distance.shape == asked.rgb.shape[:-1]
    assert found.draws is not None
    assert found.draws.shape == (3, *asked.rgb.shape)
    assert found.posterior is not None
    torch.testing.assert_close(found.posterior.mean, model.infer(shown)[-1].mean)
    rays, row = rays_of(asked)
    one = model.render(rays[:5], code=None)  # the model's own latent is 0
    assert torch.equal(row.unique(), torch.tensor([0, 1]))
    torch.testing.assert_close(Rendered(model).unseeing(asked).rgb.view(-1, 3)[:5], one.rgb.detach())


def test_scenes_do_not_touch_each_other(family: Family):
    model = small_model(family)
    both = evaluate_family(model, family, [6, 7], (2,), sanity=False)
    alone = evaluate_family(model, family, [7], (2,), sanity=False)
    assert both.scenes[1]["mse@2"] == pytest.approx(alone.scenes[0]["mse@2"], rel=1e-5)


def test_the_convolutional_rival_is_measured_alike(family: Family):
    torch.manual_seed(0)
    model = Gqn(representation=8, cores=1, hidden=8, latent=1).build(family.size)
    found = evaluate_family(model, family, [6], (1, 3), samples=2)
    assert isinstance(predictor_of(model), Painted)
    assert found.mean["psnr@3"] is not None
    assert "distance_abs_rel@1" not in found.mean
    assert "nats@1" not in found.mean
    assert found.mean["deviation@1"] is not None
    assert found.mean["prior_mean_psnr"] is not None


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scenes": []}, "no scene to measure"),
        ({"counts": (1, 6)}, "6 views to be shown of each scene; expected 1 to 5"),
        ({"counts": (0,)}, "expected 1 to 5"),
        ({"samples": -1}, "--samples -1: expected 0 or more"),
    ],
)
def test_mistakes(family: Family, wrong: dict, words: str):
    asked = {"scenes": [6], "counts": COUNTS, "samples": 0} | wrong
    predictor = Asked(lambda shown, asked: asked.rgb)
    with pytest.raises(UserError, match=words):
        evaluate_family(predictor, family, asked["scenes"], asked["counts"], samples=asked["samples"])


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_report_holds_numbers_and_pictures(family: Family, tmp_path):
    g = Generator().manual_seed(0)
    predictor = Asked(lambda shown, asked: asked.rgb, lambda a: a.rgb + 0.1 * torch.randn(4, *a.rgb.shape, generator=g))
    found = evaluate_family(predictor, family, [6, 7], (1, 3), samples=4, shown=[6])
    path = write_family_report(
        tmp_path / "report.html", title="a <model>", about="", command="rayprior train", machine="here", facts={},
        evaluation=found, shown=found.kept, expects="none: ours", log=[], recipe={"name": "x"},
    )  # fmt: skip
    page = path.read_text()
    assert "a &lt;model&gt;" in page
    assert page.count("<img") == 2 * 6  # shown, photograph, rendering, error, deviation, distance; at 1 and 3 views
    for words in ("nearest shown view", "AUC", "coverage of 80", "Protocol", "balls/6"):
        assert words in page


def test_a_report_without_held_out_scenes_says_so(tmp_path):
    path = write_family_report(
        tmp_path / "report.html", title="t", about="", command="", machine="", facts={}, evaluation=None, shown=(),
        expects="", log=[], recipe={},
    )  # fmt: skip
    assert "No scene was held out" in path.read_text()
