"""Options of the hash grid's field that the contracts do not reach."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rayprior.fields.grid import Grid
from rayprior.fields.space import Space
from rayprior.maths.space import Box

BOX = Space("box", box=Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)))


@pytest.mark.parametrize("head", ["sh", "feature", "mlp"])
@pytest.mark.parametrize(("degree", "changes"), [(0, False), (1, True), (3, True)])
def test_degree_decides_whether_colour_changes_with_the_direction(head, degree, changes):
    torch.manual_seed(0)
    field = Grid(levels=2, coarsest=4, finest=8, log2_entries=9, head=head, degree=degree).build(BOX)
    x = torch.rand(20, 3) * 2 - 1
    _, feature = field.density(x)
    one, other = (field.colour(feature, F.normalize(torch.randn(20, 3), dim=1)) for _ in range(2))
    assert one.shape == (20, 3)
    assert torch.equal(one, other) != changes
