"""The encoder: any number of views in any order, of any size, is one belief about the scene."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayprior.errors import UserError
from rayprior.networks.encoder import Encoder, SceneEncoder

VECTOR, SPATIAL = Encoder(width=8, hidden=16), Encoder(width=8, spatial=True)
both = pytest.mark.parametrize(("config", "latent"), [(VECTOR, 6), (SPATIAL, 128)], ids=["vector", "spatial"])
Shown = tuple[Tensor, Tensor, Tensor, Tensor]


def built(config: Encoder, latent: int, seed: int = 0) -> SceneEncoder:
    """An encoder some steps away from its start, where the deviation is the same for all scenes."""
    torch.manual_seed(seed)
    encoder = config.build(latent)
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


@both
def test_the_order_of_views_is_nothing(config, latent):
    encoder, views = built(config, latent), shown(views=5)
    for a, b in zip(encoder(*views), encoder(*in_order(views, [3, 0, 4, 1, 2]))):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@both
def test_views_that_are_not_present_change_nothing(config, latent):
    """Whatever their pixels hold, even nan; a batch may mix scenes of one and of three views."""
    encoder, views = built(config, latent), shown()
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


@both
@pytest.mark.parametrize("views", range(1, 6))
def test_one_to_five_views(config, latent, views):
    mean, log_std = built(config, latent)(*shown(views=views))
    assert mean.shape == log_std.shape == (2, latent)
    assert mean.isfinite().all()


@both
def test_a_scene_of_which_nothing_is_shown(config, latent):
    """Its embedding is 0, also where nothing is shown of any scene."""
    encoder, (rgb, origins, directions, present) = built(config, latent), shown()
    for seen in (present & torch.tensor([[True], [False]]), torch.zeros_like(present)):
        embedding = encoder.embed(rgb, origins, directions, seen)
        assert embedding.isfinite().all()
        assert not embedding[1].any()


@both
@pytest.mark.parametrize("size", [(16, 16), (24, 32), (32, 32), (128, 128)])
def test_sizes(config, latent, size):
    encoder = built(config, latent)
    rgb, origins, directions, present = shown(1, 1, 128)
    cut = [part[:, :, : size[0], : size[1]] for part in (rgb, origins, directions)]
    assert encoder.embed(*cut, present).shape == (1, encoder.features)
    assert encoder(*cut, present)[0].shape == (1, latent)


@both
def test_scenes_of_a_batch_do_not_touch_each_other(config, latent):
    encoder, views = built(config, latent), shown()
    changed = list(views)
    changed[0] = torch.stack([views[0][0], 1 - views[0][1]])
    before, after = encoder(*views)[0], encoder(*changed)[0]
    torch.testing.assert_close(before[0], after[0], atol=1e-6, rtol=0)
    assert (before[1] - after[1]).abs().max() > 1e-4


@both
def test_what_is_looked_at(config, latent):
    """Picture, origins and directions: each changes the belief."""
    encoder, views = built(config, latent), shown()
    before = encoder(*views)[0]
    for which in range(3):
        other = list(views)
        other[which] = views[which] + 0.5
        assert (encoder(*other)[0] - before).abs().max() > 1e-4


@both
def test_where_it_starts(config, latent):
    """Means near 0, the deviation as it was asked, for every scene and number."""
    torch.manual_seed(0)
    mean, log_std = config.build(latent)(*shown(px=32))
    assert mean.abs().max() < 1
    torch.testing.assert_close(log_std.exp(), torch.full_like(log_std, 0.3))


def test_tokens_come_one_after_the_other():
    """Cell after cell, a row of the map at a time: what is in a picture's first corner reaches the first tokens."""
    encoder, (rgb, origins, directions, present) = built(SPATIAL, 128), shown(1, 1, 64)
    for norm in [m for m in encoder.modules() if isinstance(m, nn.GroupNorm)]:
        norm.forward = lambda x: x  # it looks at the whole picture
    before = encoder(rgb, origins, directions, present)[0].view(64, 2)
    rgb = rgb.clone()
    rgb[..., :4, :4, :] += 1
    changed = (encoder(rgb, origins, directions, present)[0].view(64, 2) != before).any(dim=1).view(8, 8)
    assert changed[0, 0]
    assert not changed[4:].any()
    assert not changed[:, 4:].any()


@both
def test_gradients_reach_every_parameter(config, latent):
    encoder = built(config, latent)
    mean, log_std = encoder(*shown())
    (mean.square().sum() + log_std.exp().sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@both
def test_saved_and_loaded_it_is_the_same(config, latent):
    encoder, views = built(config, latent), shown()
    again = config.build(latent)
    again.load_state_dict(encoder.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(encoder(*views), again(*views)))
    embedding = encoder.embed(*views)
    assert all(torch.equal(a, b) for a, b in zip(encoder(*views), encoder.head(embedding)))


def test_gradients_are_right():
    encoder = built(Encoder(width=2, hidden=3), 2).double()
    rgb, origins, directions, present = shown(1, 2, 8)
    maps = [part.double().contiguous().requires_grad_() for part in (rgb, origins, directions)]
    weights = [parameter for parameter in encoder.parameters() if parameter.numel() < 12]
    assert torch.autograd.gradcheck(lambda *parts: encoder(*parts[:3], present), (*maps, *weights))


def test_size_of_the_usual_one():
    """About 300,000 parameters."""
    count = sum(parameter.numel() for parameter in Encoder().build(128).parameters())
    assert 250_000 < count < 400_000


def test_a_latent_that_tokens_cannot_share():
    with pytest.raises(UserError, match=r"a latent of 100 numbers cannot be shared by the encoder's 64 tokens.*1024"):
        Encoder(spatial=True).build(100)


def test_pictures_that_are_too_small():
    with pytest.raises(UserError, match="pictures of 4 x 4 px; expected at least 8 px a side"):
        built(VECTOR, 6)(*shown(px=4))
