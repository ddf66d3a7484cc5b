"""The encoder: any number of views in any order, of any size, is one belief about the scene."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rayprior.errors import UserError
from rayprior.networks.encoder import Encoder, SceneEncoder

SMALL = Encoder(side=8, hidden=16)
Shown = tuple[Tensor, Tensor, Tensor, Tensor]


def built(config: Encoder, latent: int, seed: int = 0) -> SceneEncoder:
    """An encoder some steps away from its start, where the deviation is the same for all scenes."""
    torch.manual_seed(seed)
    encoder = SMALL.build(6)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return encoder


def shown(scenes: int = 2, views: int = 3, px: int = 16, seed: int = 1) -> Shown:
    g = torch.Generator().manual_seed(seed)
    shape = (scenes, views, px, px, 3)
    origins = torch.randn(scenes, views, 1, 1, 3, generator=g).expand(shape)
    directions = F.normalize(torch.randn(shape, generator=g), dim=-1)
    return torch.rand(shape, generator=g), origins, directions, torch.ones(scenes, views, dtype=torch.bool)


def in_order(views: Shown, order: list[int]) -> Shown:
    rgb, origins, directions, present = (part[:, order] for part in views)
    return rgb, origins, directions, present


def test_the_order_of_views_is_nothing():
    encoder, views = built(SMALL, 6), shown(views=5)
    for a, b in zip(encoder(*views), encoder(*in_order(views, [3, 0, 4, 1, 2]))):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_views_that_are_not_present_change_nothing():
    """Whatever their pixels hold, even nan; a batch may mix scenes of one and of three views."""
    encoder, views = built(SMALL, 6), shown()
    rgb, origins, directions, present = in_order(views, [0, 1, 2, 0, 1])
    present = present.clone()
    present[:, 3:] = False
    rgb = rgb.clone()
    rgb[:, 3:] = torch.nan
    for a, b in zip(encoder(*views), encoder(rgb, origins, directions, present)):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    present[1] = torch.tensor([False, True, False, False, False])
    mixed = encoder(rgb, origins, directions, present)
    alone = encoder(*(part[1:, 1:2] for part in views))
    for a, b, whole in zip(mixed, alone, encoder(*views)):
        torch.testing.assert_close(a[1:], b, atol=1e-5, rtol=0)
        torch.testing.assert_close(a[:1], whole[:1], atol=1e-5, rtol=0)
    sum(part.sum() for part in mixed).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize("views", range(1, 6))
def test_one_to_five_views(views):
    mean, log_std = built(SMALL, 6)(*shown(views=views))
    assert mean.shape == log_std.shape == (2, 6)
    assert mean.isfinite().all()


def test_a_scene_of_which_nothing_is_shown():
    """Its embedding is 0, also where nothing is shown of any scene."""
    encoder, (rgb, origins, directions, present) = built(SMALL, 6), shown()
    for seen in (present & torch.tensor([[True], [False]]), torch.zeros_like(present)):
        embedding = encoder.embed(rgb, origins, directions, seen)
        assert embedding.isfinite().all()
        assert not embedding[1].any()


@pytest.mark.parametrize("size", [(16, 16), (24, 32), (32, 32), (128, 128)])
def test_sizes(size):
    encoder = built(SMALL, 6)
    rgb, origins, directions, present = shown(1, 1, 128)
    cut = [part[:, :, : size[0], : size[1]] for part in (rgb, origins, directions)]
    assert encoder.embed(*cut, present).shape == (1, encoder.features)
    assert encoder(*cut, present)[0].shape == (1, 6)


def test_scenes_of_a_batch_do_not_touch_each_other():
    encoder, views = built(SMALL, 6), shown()
    changed = list(views)
    changed[0] = torch.stack([views[0][0], 1 - views[0][1]])
    before, after = encoder(*views)[0], encoder(*changed)[0]
    torch.testing.assert_close(before[0], after[0], atol=1e-6, rtol=0)
    assert (before[1] - after[1]).abs().max() > 1e-4


def test_what_is_looked_at():
    """Picture, origins and directions: each changes the belief."""
    encoder, views = built(SMALL, 6), shown()
    before = encoder(*views)[0]
    for which in range(3):
        other = list(views)
        other[which] = views[which] + 0.5
        assert (encoder(*other)[0] - before).abs().max() > 1e-4


def test_where_it_starts():
    """Means within a draw of the prior, the deviation as it was asked, for every scene and number."""
    torch.manual_seed(0)
    mean, log_std = SMALL.build(6)(*shown(px=32))
    assert mean.abs().max() < 1
    torch.testing.assert_close(log_std.exp(), torch.full_like(log_std, 0.3))


def test_gradients_reach_every_parameter():
    encoder = built(SMALL, 6)
    mean, log_std = encoder(*shown())
    (mean.square().sum() + log_std.exp().sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_saved_and_loaded_it_is_the_same():
    encoder, views = built(SMALL, 6), shown()
    again = SMALL.build(6)
    again.load_state_dict(encoder.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(encoder(*views), again(*views)))
    embedding = encoder.embed(*views)
    assert all(torch.equal(a, b) for a, b in zip(encoder(*views), encoder.head(embedding)))


def test_gradients_are_right():
    encoder = built(Encoder(side=2, hidden=3, blocks=1), 2).double()
    rgb, origins, directions, present = shown(1, 2, 8)
    maps = [part.double().contiguous().requires_grad_() for part in (rgb, origins, directions)]
    weights = [parameter for parameter in encoder.parameters() if parameter.numel() < 12]
    assert torch.autograd.gradcheck(lambda *parts: encoder(*parts[:3], present), (*maps, *weights))


def test_size_of_the_usual_one():
    """About a million parameters."""
    count = sum(parameter.numel() for parameter in Encoder().build(128).parameters())
    assert 900_000 < count < 1_300_000


@pytest.mark.parametrize("name", ["side", "hidden"])
def test_sizes_that_are_none(name):
    with pytest.raises(UserError, match=f"inference.encoder.{name} is 0; expected at least 1"):
        Encoder(**{name: 0}).build(6)


def test_a_latent_of_no_numbers():
    with pytest.raises(UserError, match=r"codes.latent is 0; expected at least 1"):
        Encoder().build(0)


def test_pictures_that_are_too_small():
    with pytest.raises(UserError, match="pictures of 4 x 4 px; expected at least 8 px a side"):
        built(SMALL, 6)(*shown(px=4))
