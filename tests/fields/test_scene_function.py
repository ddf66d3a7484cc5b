"""Scene functions: three ways to tell a network which scene it is, each held to its formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rayprior.errors import UserError
from rayprior.fields.encodings import frequency
from rayprior.fields.scene_function import (
    Attending,
    Concatenating,
    Modulating,
    SceneFunction,
    SceneFunctionField,
    equal_budget,
    parameters,
)
from rayprior.fields.space import Space
from rayprior.maths.space import Box

MLP = SceneFunction(kind="mlp", width=12, depth=4, octaves=3, view_octaves=2)
AIN = replace(MLP, kind="ain")
ATTENTION = replace(MLP, kind="attention", heads=2, attended=6, tokens=4)
LATENT = 8
kinds = pytest.mark.parametrize("config", [MLP, AIN, ATTENTION], ids=lambda config: config.kind)


def built(config: SceneFunction, latent: int = LATENT, appearance: int = 0, seed: int = 0) -> SceneFunctionField:
    """A field some steps away from its start, where modulation is the identity."""
    torch.manual_seed(seed)
    field = config.build(Space("free"), appearance, latent)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return field


def inputs(rays: int = 5, samples: int = 7, latent: int = LATENT, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, unit directions of each sample, latents."""
    g = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(rays, 3, generator=g), dim=1)[:, None].expand(-1, samples, -1)
    return torch.rand(rays, samples, 3, generator=g) * 2 - 1, directions, torch.randn(rays, latent, generator=g)


# -- the three formulas ------------------------------------------------------------------------------------------------


def test_mlp_is_a_network_of_the_concatenation():
    """Split linear layers are the layer of [position, latent], and at the middle of [h, position, latent]."""
    field, (x, _, z) = built(MLP), inputs()
    trunk = field.trunk
    assert isinstance(trunk, Concatenating)
    read = torch.cat([frequency(x, 3), z[:, None].expand(-1, 7, -1)], dim=-1)
    h = read
    for i, layer in enumerate(trunk.layers):
        weight = layer.weight
        if i == 0:
            weight = torch.cat([weight, trunk.latents[0].weight], dim=1)
        if i == 2:
            weight = torch.cat([weight, trunk.again.weight, trunk.latents[1].weight], dim=1)
            h = torch.cat([h, read], dim=-1)
        h = F.relu(F.linear(h, weight, layer.bias))
    density, feature = field.density(x, None, z)
    torch.testing.assert_close(feature, h)
    torch.testing.assert_close(density, F.softplus(field.density_head(h)[..., 0] - 3))


def test_ain_shifts_then_scales_before_each_layer_but_the_last():
    field, (x, _, z) = built(AIN), inputs()
    trunk = field.trunk
    assert isinstance(trunk, Modulating)
    assert len(trunk.shifts) == len(trunk.scales) == AIN.depth - 1
    feature = field.density(x, None, z)[1]
    for ray in range(len(x)):
        h = frequency(x[ray], 3)
        for i, layer in enumerate(trunk.layers):
            if i < AIN.depth - 1:
                h = (h + trunk.shifts[i](z[ray])) * (1 + trunk.scales[i](z[ray]))
            h = F.relu(layer(h))
        torch.testing.assert_close(feature[ray], h)


def test_attention_asks_every_token():
    """A loop over rays, samples and heads: softmax(q . k / sqrt(dim)), values without a place."""
    field, (x, _, z) = built(ATTENTION), inputs(rays=3, samples=2)
    trunk = field.trunk
    assert isinstance(trunk, Attending)
    feature = field.density(x, None, z)[1]
    each = ATTENTION.attended // ATTENTION.heads
    for ray in range(3):
        tokens = z[ray].view(ATTENTION.tokens, -1)
        keys, values = trunk.keys(tokens) + trunk.places, trunk.values(tokens)
        for sample in range(2):
            encoded = frequency(x[ray, sample], 3)
            asked = trunk.queries(encoded)
            told = []
            for head in range(ATTENTION.heads):
                part = slice(head * each, (head + 1) * each)
                shares = torch.softmax(keys[:, part] @ asked[part] / each**0.5, dim=0)
                told.append(shares @ values[:, part])
            wanted = trunk.trunk(encoded[None, None], torch.cat(told)[None, None])
            torch.testing.assert_close(feature[ray, sample], wanted[0, 0])


@pytest.mark.parametrize("config", [AIN, ATTENTION], ids=["ain", "attention"])
def test_modulation_starts_as_the_identity(config):
    """Whatever the latent, a new field is the field of no latent, bit for bit."""
    torch.manual_seed(0)
    field, (x, _, z) = config.build(Space("free"), latent=LATENT), inputs()
    for with_latent, without in zip(field.density(x, None, 100 * z), field.density(x)):
        assert torch.equal(with_latent, without)


# -- what a latent does, and does not ----------------------------------------------------------------------------------


@kinds
def test_no_latent_is_the_latent_of_zeros(config):
    field, (x, _, z) = built(config), inputs()
    for zeros, none in zip(field.density(x, None, torch.zeros_like(z)), field.density(x)):
        torch.testing.assert_close(zeros, none)


@kinds
def test_built_without_a_latent_it_is_a_field_of_one_scene(config):
    field, (x, directions, _) = built(config, latent=0), inputs()
    density, feature = field.density(x)
    assert torch.equal(density, field.density(x, None, torch.zeros(5, 0))[0])
    assert density.shape == (5, 7)
    assert feature.shape == (5, 7, field.features)
    density, feature = field.density(x.reshape(-1, 3))  # positions of no ray: a mesh's
    assert field.colour(feature, directions.reshape(-1, 3)).shape == (35, 3)
    assert field.density(x[0, 0])[0].shape == ()


@kinds
def test_another_latent_is_another_scene(config):
    field, (x, directions, z) = built(config), inputs()
    seen = []
    for latent in (z, z.flip(0)):
        density, feature = field.density(x, None, latent)
        assert (density >= 0).all()
        colour = field.colour(feature, directions)
        assert colour.shape == (5, 7, 3)
        assert 0 <= colour.min() <= colour.max() <= 1
        seen.append((density, colour))
    assert (seen[0][0] - seen[1][0]).abs().max() > 1e-3
    assert (seen[0][1] - seen[1][1]).abs().max() > 1e-3


@kinds
def test_a_rays_latent_touches_no_other_ray(config):
    field, (x, directions, z) = built(config), inputs()

    def seen(latent: Tensor) -> tuple[Tensor, Tensor]:
        density, feature = field.density(x, None, latent)
        return density, field.colour(feature, directions)

    other = z.clone()
    other[2] = torch.randn(LATENT)
    for before, after in zip(seen(z), seen(other)):
        changed = (before != after).flatten(start_dim=1).any(dim=1)
        assert changed.tolist() == [False, False, True, False, False]
    z.requires_grad_()
    (slope,) = torch.autograd.grad(sum(part[2].sum() for part in seen(z)), z)
    assert (slope.abs().sum(dim=1) > 0).tolist() == [False, False, True, False, False]


@kinds
def test_one_latent_for_all(config):
    """A row of its own for each ray, one that was spread without being copied, and one row alone are the same."""
    field, (x, _, z) = built(config), inputs()
    copied = field.density(x, None, z[:1].repeat(5, 1))
    for given in (z[:1].expand(5, -1), z[:1]):
        for a, b in zip(field.density(x, None, given), copied):
            torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="2 latents for 5 rays"):
        field.density(x, None, z[:2])


@kinds
def test_no_rays_at_all(config):
    field, (x, directions, z) = built(config), inputs()
    density, feature = field.density(x[:0], None, z[:0])
    assert density.shape == (0, 7)
    assert field.colour(feature, directions[:0]).shape == (0, 7, 3)


def test_directions_that_are_copied_and_that_are_spread_give_the_same():
    field, (x, directions, z) = built(AIN, appearance=4), inputs()
    feature = field.density(x, None, z)[1]
    light = torch.randn(5, 1, 4).expand(-1, 7, -1)
    torch.testing.assert_close(
        field.colour(feature, directions, light), field.colour(feature, directions.clone(), light.clone())
    )
    assert not torch.equal(field.colour(feature, directions, light), field.colour(feature, directions, 2 * light))
    assert not torch.equal(field.colour(feature, directions, light), field.colour(feature, -directions, light))


def test_positions_are_read_in_the_coordinates_of_the_space():
    free, (x, _, z) = built(MLP), inputs()
    box = MLP.build(Space("box", Box((0, 0, 0), (2, 4, 2))), latent=LATENT)
    box.load_state_dict(free.state_dict())
    inside = (x + 1) * torch.tensor([1.0, 2.0, 1.0])
    torch.testing.assert_close(box.density(inside, None, z)[0], free.density(x, None, z)[0])


# -- contracts ---------------------------------------------------------------------------------------------------------


@kinds
def test_gradients_reach_every_parameter_and_the_latent(config):
    field, (x, directions, z) = built(config, appearance=4), inputs()
    z.requires_grad_()
    density, feature = field.density(x, None, z)
    (density.sum() + field.colour(feature, directions, torch.randn(5, 7, 4)).square().sum()).backward()
    for name, value in (*field.named_parameters(), ("the latent", z)):
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
        assert value.grad.any(), name
    assert field.tables() == []


def test_at_the_start_modulation_learns_before_the_latent_does():
    """Zero weights pass no gradient on: for the first step alone."""
    torch.manual_seed(0)
    field, (x, _, z) = AIN.build(Space("free"), latent=LATENT), inputs()
    z.requires_grad_()
    optimiser = torch.optim.Adam(field.parameters(), 1e-2)
    for learns in (False, True):
        z.grad = None
        field.density(x, None, z)[0].sum().backward()
        assert z.grad is not None
        assert bool(z.grad.any()) == learns
        optimiser.step()


@kinds
def test_saved_and_loaded_it_is_the_same(config):
    field, (x, directions, z) = built(config, appearance=4), inputs()
    again = config.build(Space("free"), 4, LATENT)
    again.load_state_dict(field.state_dict())
    seen = []
    for one in (field, again):
        density, feature = one.density(x, None, z)
        seen.append((density, one.colour(feature, directions, torch.ones(5, 7, 4))))
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])


@kinds
def test_gradients_are_right(config):
    small = replace(config, width=4, depth=3, octaves=2, view_octaves=1)
    field = built(small).double()
    x, directions, z = (part.double() for part in inputs(2, 2))
    weights = [parameter for parameter in field.parameters() if parameter.numel() < 40]

    def seen(x, directions, z, *_):
        density, feature = field.density(x, None, z)
        return density, field.colour(feature, directions)

    given = [part.clone().requires_grad_() for part in (x, directions, z)]
    assert torch.autograd.gradcheck(seen, (*given, *weights))


# -- equal budgets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "latent"),
    [
        (SceneFunction(kind="ain"), 128),
        (SceneFunction(kind="ain"), 256),
        (SceneFunction(kind="ain"), 1024),
        (SceneFunction(kind="mlp", width=128), 256),
        (SceneFunction(kind="attention", width=320), 1024),
    ],
)
def test_three_kinds_of_equal_cost(config, latent):
    """As many parameters to 3 %, for as many latent values; the one that was given stays as it is."""
    found = equal_budget(config, latent)
    assert set(found) == {"mlp", "ain", "attention"}
    assert found[config.kind] == config
    for kind, one in found.items():
        assert one.kind == kind
        assert replace(one, kind=config.kind, width=config.width) == config
        assert parameters(one, latent) == pytest.approx(parameters(config, latent), rel=0.03)


def test_parameters_are_those_of_the_field():
    for config in (MLP, AIN, ATTENTION):
        field = config.build(Space("free"), latent=LATENT)
        assert parameters(config, LATENT) == sum(parameter.numel() for parameter in field.parameters())


def test_a_budget_that_one_kind_cannot_keep():
    """Adaptive normalisation pays 2 numbers for each latent one and each input of a layer."""
    with pytest.raises(
        UserError, match=r"no width gives field.conditioning=ain the 118,\d+ parameters of field.conditioning=attention"
    ):
        equal_budget(SceneFunction(kind="attention", width=128), 1024)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "latent", "message"),
    [
        ({"kind": "attentoin"}, 64, "field.conditioning is 'attentoin'; did you mean 'attention'?"),
        ({"depth": 1}, 64, "field.depth is 1; expected at least 2 layers"),
        ({"kind": "attention", "tokens": 0}, 60, "field.tokens is 0; expected at least 1"),
        ({"kind": "attention"}, 100, "a latent of 100 numbers cannot be shared by field.tokens=64"),
        ({"kind": "attention", "heads": 3}, 64, "field.attended is 32; expected a multiple of field.heads=3"),
    ],
)
def test_values_that_make_no_field(changes, latent, message):
    with pytest.raises(UserError) as error:
        replace(SceneFunction(), **changes).build(Space("free"), latent=latent)
    assert message in str(error.value)
