"""The fast kernels against their plain PyTorch references in float64: values, gradients, extremes, threads."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch import Generator, Tensor

from rayprior.kernels.composite import composite, composite_reference
from rayprior.kernels.distortion import distortion
from rayprior.kernels.encode import encode, encode_reference, level_resolutions, unit_coordinates
from rayprior.kernels.march import march, march_reference, spaced, unspaced
from rayprior.kernels.threads import set_threads
from rayprior.kernels.unpack import LARGEST, unpack, unpack_reference
from rayprior.maths import stepfun
from rayprior.maths.space import Box

BOX = Box((-1.0, -2.0, 0.5), (3.0, 1.0, 2.5))
SPACES = pytest.mark.parametrize("box", [BOX, None], ids=["box", "contraction"])


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def close(got: Tensor, truth: Tensor, atol: float, rtol: float = 1e-4) -> None:
    torch.testing.assert_close(got.double(), truth.double(), atol=atol, rtol=rtol)


# -- encode ------------------------------------------------------------------------------------------------------------

RECIPE = level_resolutions(8, 16, 256)

# resolutions, entries: all levels dense; the last dense one fits exactly; all hashed; one cell; those of the recipes
LEVELS = pytest.mark.parametrize(
    ("resolutions", "entries"),
    [([2, 5, 9], 1024), ([7, 15, 16, 31], 4096), ([40, 128, 300], 512), ([1], 8), (RECIPE, 2**15)],
    ids=["dense", "just-dense", "hashed", "one-cell", "recipe"],
)


def corners(box: Box) -> Tensor:
    return torch.cartesian_prod(*(torch.tensor(ends) for ends in zip(box.low, box.high, strict=True)))


def places(box: Box | None, count: int = 203) -> Tensor:
    """Points inside; far outside; on faces, edges, corners and nodes; at the focus and on the unit sphere."""
    g = seeded(1)
    anywhere = torch.randn(count, 3, generator=g) * torch.logspace(-3, 3, count)[:, None]
    sphere = torch.nn.functional.normalize(torch.randn(9, 3, generator=g), dim=1)
    special = torch.cat([torch.zeros(1, 3), sphere, torch.eye(3), -torch.eye(3), torch.full((1, 3), 1e6)])
    if box is None:
        return torch.cat([anywhere, special])
    nodes = box.inverse_unit(torch.randint(0, 5, (30, 3), generator=g) / 4)
    inside = box.inverse_unit(torch.rand(count, 3, generator=g))
    return torch.cat([inside, anywhere, special, nodes, corners(box)])


@SPACES
@LEVELS
def test_encode_is_its_reference(box, resolutions, entries):
    x = places(box)
    tables = torch.randn(len(resolutions), entries, 2, generator=seeded())
    truth = encode_reference(x.double(), tables.double(), resolutions, box)
    close(encode(x, tables, resolutions, box), truth, atol=1e-4 * max(resolutions) / 16)


@SPACES
@LEVELS
def test_encode_gradient_is_its_references(box, resolutions, entries):
    """Many points a table entry, and points that ask for nothing."""
    x = places(box)
    tables = torch.randn(len(resolutions), entries, 2, generator=seeded())
    asked = torch.randn(len(x), 2 * len(resolutions), generator=seeded(2))
    asked[::3] = 0
    fast, slow = tables.clone().requires_grad_(), tables.double().requires_grad_()
    (encode(x, fast, resolutions, box) * asked).sum().backward()
    (encode_reference(x.double(), slow, resolutions, box) * asked).sum().backward()
    assert fast.grad is not None
    assert slow.grad is not None
    close(fast.grad, slow.grad, atol=1e-3 * max(resolutions) / 16)
    close(fast.grad.sum(dim=(1, 2)), asked.double().sum(dim=0).view(-1, 2).sum(dim=1), atol=1e-3)  # weights sum to 1


def test_encode_at_nodes_reads_the_table():
    """On a node of a dense level the feature is that node's entry, x fastest."""
    tables = torch.randn(1, 64, 2, generator=seeded())  # (3 + 1)^3 nodes
    node = torch.cartesian_prod(*[torch.arange(4)] * 3).flip(1)  # x changes fastest
    x = Box((0.0, 0.0, 0.0), (3.0, 3.0, 3.0)).inverse_unit(node / 3)
    close(encode(x, tables, [3], Box((0.0, 0.0, 0.0), (3.0, 3.0, 3.0))), tables[0], atol=1e-5)


@SPACES
def test_encode_outside_is_the_nearest_place_inside(box):
    """A box is clamped; contracted space ends at radius 2, which is infinity."""
    tables = torch.randn(2, 512, 2, generator=seeded())
    if box is not None:
        outside, edge = torch.tensor([[9.0, 0.3, 1.1]]), torch.tensor([[3.0, 0.3, 1.1]])
    else:
        outside, edge = torch.tensor([[0.0, 3e7, 0.0]]), torch.tensor([[0.0, 1e7, 0.0]])
    close(encode(outside, tables, [4, 9], box), encode(edge, tables, [4, 9], box), atol=1e-5)


@SPACES
def test_encode_of_no_number_reads_inside_the_table(box):
    """A training that went astray ends with a message, not with a crash: what is nan is read at the box's corner."""
    tables = torch.randn(2, 512, 2, generator=seeded()).requires_grad_()
    out = encode(torch.full((5, 3), torch.nan), tables, [4, 50], box)
    torch.testing.assert_close(out, tables[:, 0].flatten().expand(5, -1))
    out.sum().backward()
    assert tables.grad is not None
    assert tables.grad.sum() == 20


@SPACES
def test_encode_where_positions_ask_for_a_gradient(box):
    """And in float64: the reference itself."""
    tables = torch.randn(2, 512, 2, generator=seeded()).double()
    x = (0.4 * torch.rand(5, 3, generator=seeded(3), dtype=torch.float64) + 0.6).requires_grad_()
    encode(x, tables, [3, 11], box).sum().backward()
    assert x.grad is not None
    assert x.grad.any(dim=1).all()
    assert torch.autograd.gradcheck(lambda x: encode(x, tables, [3, 11], box), (x,))


def test_contracted_coordinates_are_those_of_the_paper():
    x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, -1e9]], dtype=torch.float64)
    truth = torch.tensor([[0.5, 0.5, 0.5], [0.75, 0.5, 0.5], [0.5, 0.875, 0.5], [0.5, 0.5, 0.0]], dtype=torch.float64)
    close(unit_coordinates(x, None), truth, atol=1e-8)


# -- composite ---------------------------------------------------------------------------------------------------------


def bins(rays: int, count: int, channels: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Densities from next to nothing to opaque, a fifth of them zero; lengths, one of them zero; values."""
    g = seeded(seed)
    density = 10 ** (4 * torch.rand(rays, count, generator=g) - 2)
    density[torch.rand(rays, count, generator=g) < 0.2] = 0
    lengths = torch.rand(rays, count, generator=g)
    lengths[:, count // 2] = 0
    return density, lengths, torch.randn(rays, count, channels, generator=g)


SIZES = pytest.mark.parametrize(("rays", "count", "channels"), [(37, 24, 15), (5, 1, 3), (1, 192, 27), (0, 8, 3)])


@SIZES
def test_composite_is_its_reference(rays, count, channels):
    given = bins(rays, count, channels)
    density, lengths, values = (x.double() for x in given)
    for got, truth in zip(composite(*given), composite_reference(density, lengths, values), strict=True):
        close(got, truth, atol=1e-6)


@SIZES
@pytest.mark.parametrize("judged", [(0,), (1,), (2,), (0, 1, 2)], ids=["weights", "opacity", "seen", "all"])
def test_composite_gradients_are_its_references(rays, count, channels, judged):
    """In density and values, for a loss on each of the outputs and on all."""
    density, lengths, values = bins(rays, count, channels)
    shapes = ((rays, count), (rays,), (rays, channels))
    asked = [torch.randn(shape, generator=seeded(i)) for i, shape in enumerate(shapes)]
    grads = []
    for function, dtype in ((composite, torch.float32), (composite_reference, torch.float64)):
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in (density, values)]
        out = function(leaves[0], lengths.to(dtype), leaves[1])
        torch.stack([(out[i] * asked[i]).sum() for i in judged]).sum().backward()
        grads.append([leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves])
    for fast, slow in zip(*grads, strict=True):
        close(fast, slow, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["twin", "reference"])
@pytest.mark.parametrize("density", [0.0, 1e6, 1e30], ids=["empty", "wall", "beyond"])
def test_composite_at_the_extremes(density, dtype):
    """Closed forms, 1.6: nothing is weight 0; a wall takes all that reaches it. Finite values and gradients."""
    wall = torch.zeros(2, 6, dtype=dtype)
    wall[:, 2:] = density
    wall[1, 0] = log(2)
    wall.requires_grad_()
    values = torch.randn(2, 6, 3, generator=seeded()).to(dtype).requires_grad_()
    weights, opacity, seen = composite(wall, torch.ones(2, 6, dtype=dtype), values)
    stop = float(density > 0)
    truth = [[0, 0, stop, 0, 0, 0], [0.5, 0, 0.5 * stop, 0, 0, 0]]
    close(weights.detach(), torch.tensor(truth), atol=1e-6)
    close(opacity.detach(), torch.tensor(truth).sum(dim=1), atol=1e-6)
    (weights.square().sum() + opacity.sum() + seen.square().sum()).backward()
    for leaf in (wall, values):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["twin", "reference"])
def test_composite_closed_forms(dtype):
    """Closed forms, 1.1 and 1.5: halves of what is left; d opacity / d density = length (1 - opacity)."""
    density = torch.full((1, 3), log(2), dtype=dtype, requires_grad=True)
    weights, opacity, _ = composite(density, torch.ones(1, 3, dtype=dtype), torch.zeros(1, 3, 1, dtype=dtype))
    close(weights.detach(), torch.tensor([[0.5, 0.25, 0.125]]), atol=1e-6)
    opacity.sum().backward()
    assert density.grad is not None
    close(density.grad, torch.full((1, 3), exp(-3 * log(2))), atol=1e-6)


@pytest.mark.parametrize("opaque_tail", [False, True])
def test_composite_reference_gradcheck(opaque_tail):
    density, lengths, values = (x.double() for x in bins(3, 5, 2))
    density = (density.clamp_max(2) + 0.01).requires_grad_()
    asked = (density, values.requires_grad_())
    assert torch.autograd.gradcheck(lambda d, v: composite_reference(d, lengths, v, opaque_tail), asked)


def test_composite_opaque_tail():
    """The last bin ends the ray where it has any density at all, and in float64 the reference answers."""
    density = torch.tensor([[1.0, 1e-6], [1.0, 0.0]])
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(2, 2, 1, dtype=dtype)
        weights, opacity, _ = composite(density.to(dtype), one[..., 0], one, opaque_tail=True)
        assert weights.dtype == dtype
        close(opacity, torch.tensor([1.0, 1 - exp(-1)]), atol=1e-6)


def test_composite_once_differentiable():
    """A second derivative is refused, not wrong."""
    density, lengths, values = bins(3, 5, 2)
    density.requires_grad_()
    first = torch.autograd.grad(composite(density, lengths, values)[0].square().sum(), density, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


# -- march -------------------------------------------------------------------------------------------------------------

SIDE, READ, SAMPLES = 16, 64, 24
CAP, UNIFORM = 0.1, 0.3


def rays(box: Box | None, count: int = 61) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Through the box from outside, or around the focus and far away; some miss what there is."""
    g = seeded(4)
    middle = torch.zeros(3) if box is None else torch.tensor([1.0, -0.5, 1.5])
    target = middle + torch.randn(count, 3, generator=g)
    origins = target + 4 * torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=1)
    directions = torch.nn.functional.normalize(target - origins, dim=1)
    near = 0.05 + torch.rand(count, generator=g)
    return origins, directions, near, near + (6.0 if box is not None else 10 ** (3 * torch.rand(count, generator=g)))


def quantiles(count: int, jitter: bool = True) -> Tensor:
    u = torch.linspace(0, 1, SAMPLES + 1).repeat(count, 1)
    if jitter:
        u[:, 1:-1] += (torch.rand(count, SAMPLES - 1, generator=seeded(5)) - 0.5) / SAMPLES
    return u


def blobs() -> Tensor:
    """A grid that is mostly empty, here thin, there opaque."""
    grid = 10 ** (5 * torch.rand(SIDE, SIDE, SIDE, generator=seeded(6)) - 2)
    return grid * (torch.rand(SIDE, SIDE, SIDE, generator=seeded(7)) < 0.2)


def asked(box: Box | None, grid: Tensor, cap: float = CAP, uniform: float = UNIFORM) -> tuple:
    given = rays(box)
    return (*given, quantiles(len(given[0])), grid, box, READ, cap, uniform)


def in_double(given: tuple) -> tuple:
    return tuple(x.double() if isinstance(x, Tensor) else x for x in given)


def assert_edges(edges: Tensor, near: Tensor, far: Tensor) -> None:
    """In order, from near to far exactly."""
    assert edges.isfinite().all()
    assert (stepfun.widths(edges) >= 0).all()
    assert torch.equal(edges[:, 0], near)
    assert torch.equal(edges[:, -1], far)


@SPACES
@pytest.mark.parametrize("cap", [0.02, CAP, 0.39, 0.9])
def test_march_is_its_reference(box, cap):
    """Edges agree to a thousandth of the ray, in the coordinate in which bins are even."""
    given = asked(box, blobs(), cap)
    got, truth = march(*given).double(), march_reference(*in_double(given))
    even = (lambda t: t) if box is not None else spaced
    reach = even(given[3]) - even(given[2])
    error = (even(got) - even(truth)).abs() / reach[:, None]
    assert error.quantile(0.999) < 1e-3  # a midpoint on a cell's face may fall to either side
    assert error.max() < 1 / READ


@SPACES
@pytest.mark.parametrize("content", ["blobs", "empty", "opaque", "beyond"])
def test_march_edges_are_in_order(box, content):
    full = torch.ones(SIDE, SIDE, SIDE)
    grid = {"blobs": blobs(), "empty": 0 * full, "opaque": 1e6 * full, "beyond": 1e30 * full}[content]
    given = asked(box, grid)
    assert_edges(march(*given), *given[2:4])
    moved = (*given[:4], given[4] + 0.3 / SAMPLES, *given[5:])  # the outer quantiles are not even looked at
    assert_edges(march(*moved), *given[2:4])
    assert_edges(march_reference(*moved), *given[2:4])


@SPACES
@pytest.mark.parametrize("uniform", [UNIFORM, 0.0])
def test_march_of_nothing_is_even(box, uniform):
    """An empty grid: quantiles of the ray itself, in distance in a box, in `spaced` distance else."""
    given = asked(box, torch.zeros(SIDE, SIDE, SIDE), uniform=uniform)
    near, far, u = given[2:5]
    got = march(*given)
    if box is not None:
        truth = near[:, None] + (far - near)[:, None] * u
    else:
        truth = unspaced(spaced(near)[:, None] + (spaced(far) - spaced(near))[:, None] * u)
    torch.testing.assert_close(got, truth, rtol=2e-3, atol=1e-5)


@SPACES
def test_march_without_padding_stays_on_what_is_there(box):
    """No share for empty space: still in order, finite, inside the ray."""
    given = asked(box, blobs(), uniform=0.0)
    edges = march(*given)
    assert edges.isfinite().all()
    assert (stepfun.widths(edges) >= 0).all()
    assert (edges >= given[2][:, None] * (1 - 1e-5)).all()
    assert (edges <= given[3][:, None] * (1 + 2e-3)).all()


@SPACES
def test_march_of_no_number_reads_inside_the_grid(box):
    """Rays and densities that are nan: no crash, and nan does not stay hidden."""
    origins, directions, near, far, *rest = asked(box, blobs())
    nan = torch.full_like(origins, torch.nan)
    assert march(nan, directions, near, far, *rest).shape == rest[0].shape
    assert march(origins, nan, near, far, *rest).shape == rest[0].shape
    assert march(origins, directions, near * torch.nan, far, *rest).isnan().any()
    assert march(*asked(box, blobs() * torch.nan)).isnan().any()


def test_march_follows_density():
    """Most samples lie where a wall is, and the share `uniform` everywhere."""
    grid = torch.zeros(SIDE, SIDE, SIDE)
    grid[:, :, SIDE // 2 :] = 50  # the half x > 1 of the box
    ray = torch.tensor([[-3.0, -0.5, 1.5]]), torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([2.0]), torch.tensor([6.0])
    edges = march(*ray, quantiles(1, jitter=False), grid, BOX, READ, CAP, UNIFORM)
    behind = (edges > 4).double().mean()
    assert 0.7 < behind < 1 - 0.5 * UNIFORM + 0.05


# -- distortion --------------------------------------------------------------------------------------------------------


def test_distortion_is_its_reference():
    g = seeded(8)
    t = torch.rand(33, 25, generator=g).sort(dim=1).values
    w = torch.rand(33, 24, generator=g) / 24
    w[0], w[1, 3:] = 0, 0
    fast, slow = w.clone().requires_grad_(), w.double().requires_grad_()
    got, truth = distortion(t, fast), stepfun.distortion(t.double(), slow)
    close(got.detach(), truth.detach(), atol=1e-7)
    asked = torch.randn(33, generator=g)
    (got * asked).sum().backward()
    (truth * asked).sum().backward()
    assert fast.grad is not None
    assert slow.grad is not None
    close(fast.grad, slow.grad, atol=1e-6)


# -- threads -----------------------------------------------------------------------------------------------------------


def test_unpack_is_its_reference():
    """Values and gradients, also of rows beyond the largest exponent, whose density has no slope."""
    out = torch.randn(200, 16, generator=Generator().manual_seed(3)) * 8
    found = []
    for run in (unpack, unpack_reference):
        leaf = out.clone().requires_grad_()
        density, feature = run(leaf)
        (density.log1p().sum() + (feature.square() * density.sigmoid()[:, None]).sum()).backward()
        found.append((density, feature, leaf.grad))
    assert (out[:, 0] > LARGEST).any()
    for ours, reference in zip(*found):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)


@SPACES
def test_results_do_not_depend_on_the_number_of_threads(box):
    """Bit for bit, forward and backward, for sizes that no number of threads divides."""

    def all_results() -> list[Tensor]:
        tables = torch.randn(4, 1024, 2, generator=seeded()).requires_grad_()
        encoded = encode(places(box, 1009), tables, [3, 9, 20, 64], box)
        density, lengths, values = bins(331, 23, 7)
        leaves = (density.requires_grad_(), values.requires_grad_())
        out = composite(density, lengths, values)
        w = out[0].detach().requires_grad_()
        edges = march(*asked(box, blobs()))
        spread = distortion(torch.linspace(0, 1, 24).repeat(331, 1), w)
        (encoded.square().sum() + sum(o.square().sum() for o in out) + spread.square().sum()).backward()
        grads = [x.grad for x in (tables, *leaves, w)]
        return [x.detach() for x in (encoded, *out, edges, spread, *grads) if x is not None]

    runs = []
    for count in (1, 2, 3, 4):
        set_threads(count)
        runs.append(all_results())
    assert len(runs[0]) == 10
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
