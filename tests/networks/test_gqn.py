"""The convolutional rival: sums of views, autoregressive latents in nats, and predictions that never saw the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.distributions import Normal

from rayprior.errors import UserError
from rayprior.maths.poses import look_at
from rayprior.maths.schedules import Schedule
from rayprior.networks.gqn import Gqn, GqnModel, Tower, gaussian_kl, seven_numbers

TINY = Gqn(representation=8, cores=2, hidden=8, latent=2, kernel=3, std=0.1)


@dataclass(frozen=True)
class Views:
    rgb: Tensor
    origins: Tensor
    directions: Tensor
    poses: Tensor
    present: Tensor

    def __getitem__(self, index) -> Views:
        return Views(*(value[index] for value in vars(self).values()))


def views(b: int, v: int, size: tuple[int, int] = (16, 16), seed: int = 0) -> Views:
    """Random pictures, cameras and rays."""
    g = Generator().manual_seed(seed)
    width, height = size
    shape = (b, v, height, width, 3)
    poses = torch.randn(b, v, 3, 4, generator=g)
    poses[..., :3] = torch.linalg.qr(poses[..., :3])[0]
    return Views(
        rgb=torch.rand(shape, generator=g),
        origins=poses[:, :, None, None, :, 3].expand(shape),
        directions=F.normalize(torch.randn(shape, generator=g), dim=-1),
        poses=poses,
        present=torch.ones(b, v, dtype=torch.bool),
    )


def tiny(config: Gqn = TINY, size: tuple[int, int] = (16, 16), seed: int = 0) -> GqnModel:
    torch.manual_seed(seed)
    return config.build(size)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


BOTH = pytest.mark.parametrize("config", [TINY, replace(TINY, camera="rays")], ids=["seven", "rays"])


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std", "nats"), [(1, 1, 0.5), (0, 0.5, 0.3181472), (2, 0.1, 3.8075851)])
def test_kl_from_the_unit_gaussian(mean, std, nats):
    mean, std = torch.tensor(float(mean)).double(), torch.tensor(float(std)).double()
    zero = torch.zeros_like(mean)
    assert gaussian_kl(mean, std.log(), zero, zero).item() == pytest.approx(nats, abs=5e-8)


def test_kl_is_the_mean_of_a_log_ratio():
    mean, log_std = torch.tensor([0.3, -1.0, 2.0]).double(), torch.tensor([-0.5, 0.2, 0.0]).double()
    prior_mean, prior_log_std = torch.tensor([0.0, 0.5, 1.9]).double(), torch.tensor([0.1, -0.7, 0.4]).double()
    belief, prior = Normal(mean, log_std.exp()), Normal(prior_mean, prior_log_std.exp())
    z = mean + log_std.exp() * torch.randn(100_000, 3, generator=seeded(), dtype=torch.double)
    estimate = (belief.log_prob(z) - prior.log_prob(z)).mean(dim=0)
    torch.testing.assert_close(gaussian_kl(mean, log_std, prior_mean, prior_log_std), estimate, rtol=0, atol=0.03)


def test_kl_of_the_same_is_nothing_and_its_gradient_is_right():
    values = [torch.randn(5, generator=seeded(i), dtype=torch.double).requires_grad_() for i in range(4)]
    assert gaussian_kl(values[0], values[1], values[0], values[1]).abs().max() == 0
    assert torch.autograd.gradcheck(gaussian_kl, values)


def test_nats_of_a_picture_that_is_right_and_of_one_that_is_not():
    """-1.3836466 a value at residual 0 and s = 0.1; otherwise that of a normal distribution around the mean picture."""
    model, query = tiny(), views(2, 3)
    r = model.represent(views(2, 1, seed=1))
    nll, kl, rgb = model.loss_parts(r, query, seeded())
    assert nll.shape == kl.shape == (2, 3)
    assert rgb.shape == query.rgb.shape
    assert (kl > 0).all()
    truth = -Normal(rgb, 0.1).log_prob(query.rgb).sum(dim=(2, 3, 4))
    torch.testing.assert_close(nll, truth)
    with torch.no_grad():
        again, _, _ = model.loss_parts(r, replace(query, rgb=rgb.detach()), seeded())
    values = 16 * 16 * 3
    moved = (again / values - -1.3836466).abs()  # another answer, another posterior: near it, not at it
    assert moved.max() < 0.1
    assert (again / values).min() >= -1.3836466


def test_a_posterior_that_learned_nothing_costs_nothing():
    """And its pictures are then the prior's: the same cores, the same noise."""
    model, query = tiny(), views(2, 2)
    for core in model.cores:
        for own, prior in zip(core.posterior_head.parameters(), core.prior_head.parameters()):
            own.data.zero_()
            prior.data.zero_()
    r = model.represent(views(2, 3, seed=1))
    _, kl, rgb = model.loss_parts(r, query, seeded(3))
    assert kl.abs().max() == 0
    assert torch.equal(rgb, model.predict(r, query, seeded(3)))


# -- cameras -----------------------------------------------------------------------------------------------------------


def test_seven_numbers_of_a_camera():
    level_and_high = torch.tensor([[3.0, 4.0, 0.0], [1.0, 0.0, 1.0]])
    poses = look_at(level_and_high, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    expected = torch.tensor([[3, 4, 0, -0.6, -0.8, 1, 0], [1, 0, 1, -1, 0, 0.5**0.5, -(0.5**0.5)]])
    torch.testing.assert_close(seven_numbers(poses), expected)


def test_straight_down_has_no_yaw():
    down = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2]])
    assert seven_numbers(down).tolist() == [0, 0, 2, 0, 0, 0, -1]


def upside_down(query: Views) -> Views:
    """The same cameras, rolled by 180 degrees."""
    poses = query.poses * torch.tensor([-1.0, -1.0, 1.0, 1.0])
    return replace(query, poses=poses, directions=query.directions.flip(2, 3))


def test_roll_is_told_by_rays_alone():
    """What the seven numbers leave out is no fault of convolutions: hence the second kind."""
    query, r = views(1, 2), views(1, 3, seed=1)
    for camera, blind in (("seven", True), ("rays", False)):
        model = tiny(replace(TINY, camera=camera))
        seen = [model.predict(model.represent(r), q) for q in (query, upside_down(query))]
        assert torch.allclose(*seen, atol=1e-5) == blind


# -- views -------------------------------------------------------------------------------------------------------------


@BOTH
def test_order_and_padding_of_views_change_nothing(config):
    model, shown = tiny(config), views(3, 4)
    r = model.represent(shown)
    assert r.shape == (3, 8, 4, 4)
    torch.testing.assert_close(model.represent(shown[:, [2, 0, 3, 1]]), r, rtol=0, atol=1e-5)

    present = torch.tensor([[True, False, True, True], [True] * 4, [False, True, False, False]])
    padded = replace(shown, present=present, rgb=shown.rgb.where(present[..., None, None, None], torch.nan))
    got = model.represent(padded)
    torch.testing.assert_close(got[0], model.represent(shown[:1, [0, 2, 3]])[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(got[1], r[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(got[2], model.represent(shown[2:, 1:2])[0], rtol=0, atol=1e-6)


@BOTH
def test_what_is_known_is_a_sum_over_views(config):
    model, shown = tiny(config), views(2, 3)
    alone = torch.stack([model.represent(shown[:, i : i + 1]) for i in range(3)]).sum(dim=0)
    torch.testing.assert_close(model.represent(shown), alone)
    assert (model.represent(replace(shown, present=torch.zeros(2, 3, dtype=torch.bool))) == 0).all()


@BOTH
def test_the_answer_is_never_read(config):
    """A prediction is the same whatever the query's pictures hold; the training's pictures are not."""
    model, query = tiny(config), views(2, 2)
    noise = replace(query, rgb=torch.rand_like(query.rgb))
    nothing = replace(query, rgb=torch.full_like(query.rgb, torch.nan))
    r = model.represent(views(2, 3, seed=1))
    for other in (noise, nothing):
        assert torch.equal(model.predict(r, query), model.predict(r, other))
        assert torch.equal(model.predict(r, query, seeded()), model.predict(r, other, seeded()))
        assert torch.equal(model.samples(r, query, 3, seeded()), model.samples(r, other, 3, seeded()))
    assert not torch.equal(model.loss_parts(r, query, seeded())[2], model.loss_parts(r, noise, seeded())[2])


@BOTH
def test_queries_and_scenes_are_strangers(config):
    model, shown, query = tiny(config), views(2, 3), views(2, 2, seed=1)
    r = model.represent(shown)
    together = model.predict(r, query)
    for b in range(2):
        for v in range(2):
            alone = model.predict(model.represent(shown[b : b + 1]), query[b : b + 1, v : v + 1])
            torch.testing.assert_close(alone[0, 0], together[b, v], rtol=0, atol=1e-5)


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_predictions_and_samples():
    model, query = tiny(), views(2, 2)
    r = model.represent(views(2, 3, seed=1))
    mean = model.predict(r, query)
    assert mean.shape == query.rgb.shape
    assert ((mean > 0) & (mean < 1)).all()
    assert torch.equal(mean, model.predict(r, query))
    drawn = model.samples(r, query, 3, seeded())
    assert drawn.shape == (3, *query.rgb.shape)
    assert drawn.std(dim=0).min() > 0
    assert torch.equal(model.samples(r, query, 1, seeded())[0], model.predict(r, query, seeded()))


@pytest.mark.parametrize("size", [(16, 16), (20, 36), (64, 32), (64, 64)])
def test_any_size_from_16_to_64(size):
    model, query = tiny(size=size), views(1, 2, size)
    nll, kl, rgb = model.loss_parts(model.represent(views(1, 2, size, seed=1)), query, seeded())
    assert rgb.shape == query.rgb.shape
    assert nll.isfinite().all()
    assert kl.isfinite().all()


@pytest.mark.parametrize("size", [(30, 32), (32, 30), (12, 32), (32, 68)])
def test_other_sizes_are_refused(size):
    with pytest.raises(UserError, match=rf"pictures of {size[0]}x{size[1]}: .*multiples of 4; make the family anew"):
        TINY.build(size)


def test_an_even_kernel_is_refused():
    with pytest.raises(UserError, match=r"kernel=4: .*an odd number"):
        replace(TINY, kernel=4).build((16, 16))


# -- learning ----------------------------------------------------------------------------------------------------------


@BOTH
def test_gradients_reach_every_parameter(config):
    model = tiny(config)
    nll, kl, _ = model.loss_parts(model.represent(views(2, 3, seed=1)), views(2, 2), seeded())
    (nll.mean() + kl.mean()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_gradient_of_the_whole_is_right():
    """Along one direction through all that learns, against finite differences in float64."""
    model, shown, query = tiny().double(), views(1, 2, seed=1), views(1, 1)
    shown, query = (
        Views(*(v.double() if v.is_floating_point() else v for v in vars(q).values())) for q in (shown, query)
    )

    def loss() -> Tensor:
        nll, kl, _ = model.loss_parts(model.represent(shown), query, seeded())
        return (nll + kl).sum()

    loss().backward()
    ways = [torch.randn(p.shape, generator=seeded(i), dtype=p.dtype) for i, p in enumerate(model.parameters())]
    slope = sum((p.grad * way).sum() for p, way in zip(model.parameters(), ways))
    found = []
    for step in (1e-6, -1e-6):
        for p, way in zip(model.parameters(), ways):
            p.data += step * way
        found.append(loss().detach())
        for p, way in zip(model.parameters(), ways):
            p.data -= step * way
    torch.testing.assert_close(slope, (found[0] - found[1]) / 2e-6, rtol=1e-5, atol=1e-4)


def test_the_same_after_saving_and_loading(tmp_path):
    model, other = tiny(), tiny(seed=1)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    r = views(2, 3, seed=1)
    assert torch.equal(model.predict(model.represent(r), views(2, 2)), other.predict(other.represent(r), views(2, 2)))


def test_deviation_follows_the_config():
    """The training loop puts numbers where schedules stand; one that it forgot is an error, not a guess."""
    model, query = tiny(), views(1, 1)
    r = model.represent(query)
    sharp = model.loss_parts(r, query, seeded())[0]
    model.config = replace(TINY, std=0.5)
    blunt = model.loss_parts(r, query, seeded())[0]
    assert not torch.equal(sharp, blunt)
    model.config = replace(TINY, std=Schedule(((0, 0.5), (10, 0.1))))
    with pytest.raises(TypeError, match="was not resolved"):
        model.loss_parts(r, query, seeded())


def test_a_tower_is_told_of_the_camera():
    tower = Tower(7, 8)
    picture, told = torch.rand(1, 3, 16, 16), torch.randn(1, 7, 4, 4)
    assert tower(picture, told).shape == (1, 8, 4, 4)
    assert not torch.allclose(tower(picture, told), tower(picture, torch.zeros_like(told)))
