"""Codes: whose photograph a ray is of decides its colour and never its density; unknown photographs have the mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rayprior.errors import UserError
from rayprior.fields.codes import Code, Codes, CodeTable
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.maths.space import Box
from rayprior.methods import METHODS
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.model import Model
from rayprior.rendering.samplers import Uniform
from rayprior.scenes.rays import Rays
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.settle import settle

BOX = Space("box", Box((-2.0, -2.0, 1.0), (2.0, 2.0, 6.0)))
FIELDS = {
    "mlp": Mlp(depth=2, width=16, skip=1, octaves=2, view_octaves=1),
    "mlp-plain-colour": Mlp(depth=2, width=16, skip=1, octaves=2, view_directions=False),
    "grid-feature": Grid(levels=2, coarsest=4, finest=8, log2_entries=8, head="feature", hidden=8),
    "grid-mlp": Grid(levels=2, coarsest=4, finest=8, log2_entries=8, head="mlp", hidden=8),
}


def rays_of(cameras: list[int]) -> Rays:
    g = torch.Generator().manual_seed(0)
    directions = torch.tensor([0.0, 0.0, 1.0]) + 0.2 * torch.randn(len(cameras), 3, generator=g)
    rays = Rays.through(torch.zeros(len(cameras), 3), directions, 1.2, 5.5)
    return replace(rays, camera=torch.tensor(cameras))


def model_with(field, codes: Codes, sampler=None) -> Model:
    torch.manual_seed(0)
    model = Model.build(field, sampler or Uniform(8), BOX, Compositing(), codes)
    assert model.codes is not None
    model.codes.learns_from((0, 1))
    for table in (model.codes.appearance, model.codes.affine):
        if table is not None:
            torch.nn.init.normal_(table)
    return model


@pytest.mark.parametrize("sampler", [Uniform(8), CoarseField(6, 6)], ids=["uniform", "coarse"])
@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_an_appearance_code_changes_colour_and_never_density(field, sampler):
    """Gradient of density exactly 0: geometry must not flicker with the light (closed forms 7.8)."""
    model = model_with(field, Codes(appearance=3, photographs=3), sampler)
    codes = model.codes
    assert codes is not None
    assert codes.appearance is not None
    seen = model.render(rays_of([0, 1, 0, 1]), torch.Generator().manual_seed(1))
    assert torch.autograd.grad(seen.density.sum(), codes.appearance, retain_graph=True, allow_unused=True)[0] is None
    gradient = torch.autograd.grad(seen.rgb.sum(), codes.appearance)[0]
    assert gradient[:2].abs().sum(dim=1).min() > 0
    assert gradient[2].abs().sum() == 0  # no ray of it


def test_a_photograph_that_nobody_trained_on_has_the_mean_code():
    table = CodeTable(Codes(appearance=2, affine=True, photographs=4))
    table.learns_from((0, 2))
    assert table.appearance is not None
    assert table.affine is not None
    with torch.no_grad():
        table.appearance[:] = torch.tensor([[1.0, 0.0], [9.0, 9.0], [3.0, 4.0], [9.0, 9.0]])
    code = table(torch.tensor([0, 1, -1, 2]))
    torch.testing.assert_close(code.appearance, torch.tensor([[1.0, 0.0], [2.0, 2.0], [2.0, 2.0], [3.0, 4.0]]))
    assert code.own.tolist() == [True, False, False, True]
    assert torch.autograd.grad(code.appearance[1:3].sum(), table.appearance, allow_unused=True)[0].abs().sum() == 0
    table.give(1, torch.tensor([5.0, 6.0]), torch.zeros(6))
    code = table(torch.tensor([1, 3]))
    torch.testing.assert_close(code.appearance, torch.tensor([[5.0, 6.0], [2.0, 2.0]]))
    assert code.own.tolist() == [False, False]  # given, not trained: nothing stands in it alone
    table.seen_as = 2
    torch.testing.assert_close(table(torch.tensor([-1])).appearance, torch.tensor([[3.0, 4.0]]))


def test_affine_numbers_are_a_gain_and_an_offset():
    nothing, rgb = torch.zeros(1, 0), torch.tensor([[0.2, 0.4, 0.6]])
    code = Code(nothing, torch.tensor([[1.0, 0.5, 0.0, 0.1, 0.0, -0.1]]), nothing, torch.tensor([True]))
    torch.testing.assert_close(code.light(rgb, torch.tensor([0.5])), torch.tensor([[0.45, 0.6, 0.55]]))


def test_affine_numbers_start_as_the_identity():
    plain = Model.build(FIELDS["mlp"], Uniform(8), BOX, Compositing())
    lit = Model.build(FIELDS["mlp"], Uniform(8), BOX, Compositing(), Codes(affine=True, photographs=2))
    lit.load_state_dict(plain.state_dict(), strict=False)
    rays = rays_of([0, 1])
    torch.testing.assert_close(plain.render(rays).rgb, lit.render(rays).rgb, rtol=0, atol=0)


def test_the_scene_says_how_many_photographs_there_are():
    scene = synthetic_scene("shapes", size=16, views=4, test_views=2, supersample=1)
    settled = settle(replace(METHODS["grid"], codes=Codes(appearance=4)), scene)
    assert settled.codes.photographs == len(scene.names)
    assert isinstance(settled.field, Grid)
    assert settled.field.head == "feature"
    assert settle(METHODS["grid"], scene).codes == Codes()


def test_spherical_harmonics_cannot_read_a_code():
    scene = synthetic_scene("shapes", size=16, views=4, test_views=2, supersample=1)
    with pytest.raises(UserError, match=r"field.head=sh makes colour without a network.*codes.affine=true"):
        settle(replace(METHODS["grid"], field=Grid(head="sh"), codes=Codes(appearance=4)), scene)


def test_a_table_of_another_scene_is_refused():
    scene = synthetic_scene("shapes", size=16, views=4, test_views=2, supersample=1)
    recipe = replace(METHODS["grid"], codes=Codes(affine=True, photographs=3))
    with pytest.raises(UserError, match=rf"codes.photographs is 3, and .* has {len(scene.names)}.*=null"):
        settle(recipe, scene)
