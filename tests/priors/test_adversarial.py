"""The adversarial prior: losses in closed form, what its penalty is, and what a free picture becomes against it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rayprior.errors import UserError
from rayprior.methods import recipe_from
from rayprior.priors.adversarial import Adversarial
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene, Opponent

TERM = Adversarial(patch=32, tile=16)


class Linear(nn.Module):
    """logit = slope x sum of the tile's pixels, which are in [-1, 1]."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, tiles: Tensor) -> Tensor:
        return self.slope * tiles.sum(dim=(1, 2, 3))


def rendering(rgb: Tensor) -> Rendering:
    t = torch.linspace(2, 6, 3, dtype=rgb.dtype).expand(len(rgb), -1)
    return Rendering(rgb, RayDistribution(t, torch.zeros(len(rgb), 2)), torch.zeros(len(rgb), 2))


def patch(seed: int = 0, side: int = 32) -> Tensor:
    return torch.rand(side**2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_a_critic_of_zero():
    """2 ln 2 for the critic, ln 2 for the field (closed forms, 7.1)."""
    critic, seen, known = Linear(0.0), rendering(patch(0)), {"rgb": patch(1)}
    assert TERM.critic_loss(critic, seen, known).item() == pytest.approx(1.3862944, abs=1e-7)
    assert TERM.loss(seen, known, critic).item() == pytest.approx(0.6931472, abs=1e-7)


@pytest.mark.parametrize(("side", "tiles"), [(64, 1), (256, 16)])
def test_the_penalty_is_of_a_tile(side: int, tiles: int):
    """1/2 (.01)^2 64 64 3 = .6144, of one tile and of 16 alike; times r1 (closed forms, 7.2)."""
    term = Adversarial(patch=side, tile=64, r1=1.0)
    known = {"rgb": patch(2, side)}
    penalty = term.critic_penalty(Linear(0.01), known)
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.6144)
    faithful = replace(term, r1=3.2).critic_penalty(Linear(0.01), known)
    assert faithful is not None
    assert faithful.item() == pytest.approx(0.2 * 16 * 0.6144)
    assert side**2 // 64**2 == tiles


def test_without_a_penalty_the_critic_still_has_its_loss():
    term, critic, known = replace(TERM, r1=0.0), Linear(0.01), {"rgb": patch(1)}
    assert term.critic_penalty(critic, known) is None
    opponent = Opponent("adversarial", replace(term, patch=16), 0, torch.device("cpu"))
    opponent.judge(replace(term, patch=16), rendering(patch(0, 16).float()), {"rgb": patch(1, 16).float()}, 0)
    assert all(p.grad is not None and p.grad.any() for p in opponent.critic.parameters())


def test_the_gradient_of_the_field_s_side():
    """d/dpixel of mean f(-slope sum(2 x - 1)) = -sigmoid(-logit) 2 slope / tiles."""
    rgb = patch(3).requires_grad_()
    critic = Linear(0.003)
    TERM.loss(rendering(rgb), {"rgb": patch(1)}, critic).backward()
    assert rgb.grad is not None
    first = (2 * rgb.detach().view(32, 32, 3)[:16, :16] - 1).sum() * 0.003
    expected = -torch.sigmoid(-first) * 2 * 0.003 / 4
    torch.testing.assert_close(rgb.grad.view(32, 32, 3)[:16, :16], expected.expand(16, 16, 3))


def test_the_gradient_through_a_critic_by_finite_differences():
    torch.manual_seed(0)
    term = Adversarial(patch=8, tile=8)
    critic = term.critic().double()
    rgb = patch(4, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: term.loss(rendering(x), {"rgb": patch(1, 8)}, critic), (rgb,))


def test_masked_pixels_move_nothing():
    torch.manual_seed(0)
    kept = torch.ones(16, 16, dtype=torch.bool)
    kept[:, :5] = False
    term = Adversarial(patch=16, tile=16)
    critic, rgb = term.critic(), patch(5, 16).float().requires_grad_()
    term.loss(rendering(rgb), {"rgb": patch(6, 16).float(), "kept": kept.view(-1)}, critic).backward()
    assert rgb.grad is not None
    moved = rgb.grad.view(16, 16, 3).abs().sum(dim=2) > 0
    assert not moved[:, :5].any()
    assert moved[:, 5:].any()


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("r1=-1", r"r1=-1; expected 0 \(no penalty\) or more"),
        ("r1_every=0", "r1_every=0; expected at least 1"),
        ("tile=12", "tile=12: the small critic"),
        ("tile=24,network=residual", "tile=24: the residual critic"),
        ("tile=0", "tile=0: the small critic"),
        ("patches=0", "patches=0; expected at least 1"),
    ],
)
def test_options_that_no_critic_has(options: str, expected: str, scene: Scene):
    with pytest.raises(UserError, match=expected):
        task_with(scene, f"adversarial:{options}")


def test_as_typed():
    recipe = recipe_from("grid", priors=["adversarial:r1=0,optimiser=adam,lr=0.002,r1_every=16,weight=0.001"])
    term = recipe.terms["adversarial"]
    assert isinstance(term, Adversarial)
    assert (term.r1, term.optimiser, term.lr, term.r1_every) == (0, "adam", 0.002, 16)
    assert isinstance(term.optimiser_of(term.critic()), torch.optim.Adam)
    assert isinstance(Adversarial().optimiser_of(term.critic()), torch.optim.RMSprop)


def test_the_recipe_has_the_paper_s_numbers():
    recipe = recipe_from("ganerf")
    term = recipe.terms["adversarial"]
    assert isinstance(term, Adversarial)
    assert (term.weight, term.lr, term.largest, term.tile, term.r1, term.r1_every) == (3e-4, 1e-3, 256, 64, 3.2, 1)
    assert (term.network, term.optimiser, recipe.photo.rays) == ("residual", "rmsprop", 4096)
    assert recipe.terms["perceptual"].weight == 3e-4
    assert "patches" not in recipe.terms  # no colour loss on patch rays
    room = synthetic_scene("shapes", size=135, views=3, test_views=1, supersample=1)
    patch = settle(recipe, room).terms["adversarial"]
    assert isinstance(patch, Adversarial)
    assert patch.patch == 128  # the largest multiple of its tile that fits


# -- in a task ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene() -> Scene:
    return synthetic_scene("shapes", size=24, views=5, test_views=1, supersample=1)


def task_with(scene: Scene, *priors: str) -> FitScene:
    return FitScene(settle(recipe_from("grid", size="small", priors=priors), scene), scene, 0, torch.device("cpu"))


def stepped(task: FitScene, step: int) -> dict[str, float]:
    losses, _ = task.losses(step, 0.1)
    torch.stack(list(losses.values())).sum().backward()
    task.step()
    return {name: loss.item() for name, loss in losses.items()}


def test_without_an_adversary_nothing_is_different(scene: Scene):
    """The same first weights and photographed rays; no key more in a checkpoint."""
    plain, with_one = task_with(scene), task_with(scene, "adversarial")
    assert plain.state().keys() == {"optimiser"}
    assert with_one.state().keys() == {"optimiser", "adversaries"}
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), with_one.model.parameters(), strict=True))
    assert plain.losses(0, 0.0)[0]["photometric"].item() == pytest.approx(
        with_one.losses(0, 0.0)[0]["photometric"].item(), rel=1e-6
    )


def test_the_critic_s_first_weights_are_the_seed_s_and_the_name_s(scene: Scene):
    state = torch.get_rng_state()
    first = [opponent(name, seed) for name, seed in (("a", 0), ("a", 0), ("b", 0), ("a", 1))]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[3])


def opponent(name: str, seed: int) -> Tensor:
    return next(Opponent(name, Adversarial(), seed, torch.device("cpu")).critic.parameters())


def test_judging_moves_no_critic_and_stepping_does(scene: Scene):
    task = task_with(scene, "adversarial")
    critic = task.opponents["adversarial"].critic
    before = [p.clone() for p in critic.parameters()]
    a, b = (task.losses(3, 0.1)[0]["adversarial"].item() for _ in range(2))
    assert a == b
    assert all(torch.equal(p, q) for p, q in zip(before, critic.parameters(), strict=True))
    stepped(task, 3)
    assert not any(torch.equal(p, q) for p, q in zip(before, critic.parameters(), strict=True))
    assert all(p.requires_grad and p.grad is None for p in critic.parameters())


def test_the_field_s_loss_leaves_no_gradient_in_the_critic(scene: Scene):
    task = task_with(scene, "adversarial")
    losses, _ = task.losses(0, 0.0)
    kept = [p.grad.clone() for p in task.opponents["adversarial"].critic.parameters() if p.grad is not None]
    losses["adversarial"].backward()
    after = [p.grad for p in task.opponents["adversarial"].critic.parameters() if p.grad is not None]
    assert len(kept) == len(after) > 0
    assert all(torch.equal(p, q) for p, q in zip(kept, after, strict=True))
    assert any(p.grad is not None and p.grad.any() for p in task.model.parameters())


def test_a_lazy_penalty_comes_now_and_then_and_counts_for_all(scene: Scene):
    def slope(step: int, spec: str) -> Tensor:
        task = task_with(scene, spec)
        task.losses(step, 0.1)
        return torch.cat([p.grad.flatten() for p in task.opponents["adversarial"].critic.parameters()])  # type: ignore[union-attr]

    none, every, lazy = "adversarial:r1=0", "adversarial:r1=3.2", "adversarial:r1=3.2,r1_every=4"
    torch.testing.assert_close(slope(3, lazy), slope(3, none))
    once = slope(4, every) - slope(4, none)
    assert once.abs().max() > 1e-6
    torch.testing.assert_close(slope(4, lazy) - slope(4, none), 4 * once, rtol=1e-3, atol=1e-6)


def test_a_step_that_is_not_finite_is_skipped_and_counted(scene: Scene):
    task = task_with(scene, "adversarial")
    one = task.opponents["adversarial"]
    before = [p.clone() for p in one.critic.parameters()]
    task.losses(0, 0.0)[0]["photometric"].backward()
    next(one.critic.parameters()).grad.view(-1)[0] = torch.nan  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="critic of 'adversarial' got a gradient that is not finite"):
        task.step()
    assert one.skipped == 1
    assert all(torch.equal(p, q) for p, q in zip(before, one.critic.parameters(), strict=True))
    assert task.state()["adversaries"]["adversarial"]["skipped"] == 1  # type: ignore[index]
    stepped(task, 1)
    assert one.skipped == 1
    assert not torch.equal(before[0], next(one.critic.parameters()))


def test_the_critic_s_rate_follows_its_schedule(scene: Scene):
    spec = 'adversarial:lr={"schedule": [[0, 0.01], [1, 0.001]], "of": "budget"}'
    task = task_with(scene, spec)
    stepped(task, 0)  # at a share of .1
    assert task.opponents["adversarial"].optimiser.param_groups[0]["lr"] == pytest.approx(0.0091)


def test_a_checkpoint_of_another_critic_is_refused(scene: Scene):
    task, other = task_with(scene, "adversarial"), task_with(scene, "adversarial:tile=8")
    with pytest.raises(UserError, match="critic of 'adversarial' is not that of this recipe"):
        task.load_state(other.state())
    with pytest.raises(UserError, match="critic of 'adversarial' is not that of this recipe"):
        task.load_state(task_with(scene).state())


def test_a_free_picture_learns_what_photographs_look_like():
    """Against a critic that learns beside it, without any loss of colour: stripes, in the colours of the photographs.

    The optimum of an adversary depends on its critic, so this is what stands here for 'a free histogram goes to its
    optimum' of the other terms."""
    torch.manual_seed(0)
    term = Adversarial(patch=16, tile=8, r1=0.1, r1_every=4, lr=1e-3)
    one = Opponent("adversarial", term, 0, torch.device("cpu"))
    stripes = torch.tensor([[0.2, 0.3, 0.9], [0.8, 0.6, 0.1]]).repeat(8, 1)[:, None].expand(16, 16, 3)
    known = {"rgb": stripes.reshape(-1, 3)}
    free = nn.Parameter(0.3 * torch.randn(256, 3))
    adam = torch.optim.Adam([free], lr=0.05, betas=(0.5, 0.9))

    def missed() -> float:
        return (free.sigmoid() - known["rgb"]).abs().mean().item()

    begin = missed()
    for step in range(120):
        adam.zero_grad()
        one.judge(term, rendering(free.sigmoid()), known, step).backward()
        adam.step()
        one.step(term.lr)
    assert missed() < 0.4 * begin
