"""Histograms on a line: bin edges t (..., S+1), non-decreasing, and weights w (..., S) >= 0, one a bin.

The language of this file, and of all that build on it: m midpoints, `widths` of bins, `cdf` the running sum of w from
0, `mass` its total (the opacity of a ray, at most 1). Inside a bin mass is spread evenly. Functions know nothing of
rays; all are differentiable in w, and in t where it makes sense.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TINY = 1e-10


def midpoints(t: Float[Tensor, "*b S+1"]) -> Float[Tensor, "*b S"]:
    """The middle of each bin."""
    return 0.5 * (t[..., 1:] + t[..., :-1])


def widths(t: Float[Tensor, "*b S+1"]) -> Float[Tensor, "*b S"]:
    """The length of each bin."""
    return t[..., 1:] - t[..., :-1]


def cdf(w: Float[Tensor, "*b S"]) -> Float[Tensor, "*b S+1"]:
    """Running sum that starts at 0: the mass in front of each edge."""
    return torch.cat([torch.zeros_like(w[..., :1]), w.cumsum(dim=-1)], dim=-1)


def weights_from_density(t: Float[Tensor, "*b S+1"], density: Float[Tensor, "*b S"]) -> Float[Tensor, "*b S"]:
    """w_i = T_i (1 - exp(-density_i width_i)), T_i = exp(-sum_{j<i} density_j width_j) (NeRF, eq. 3)."""
    tau = density * widths(t)
    ahead = torch.cat([torch.zeros_like(tau[..., :1]), tau[..., :-1].cumsum(dim=-1)], dim=-1)
    return torch.exp(-ahead) * -torch.expm1(-tau)


def mean(t: Float[Tensor, "*b S+1"], w: Float[Tensor, "*b S"]) -> Float[Tensor, "*b"]:
    """sum w m / sum w; where there is no mass, the far end."""
    mass = w.sum(dim=-1)
    value = (w * midpoints(t)).sum(dim=-1) / mass.clamp_min(TINY)
    return torch.where(mass > TINY, value, t[..., -1])


def variance(t: Float[Tensor, "*b S+1"], w: Float[Tensor, "*b S"]) -> Float[Tensor, "*b"]:
    """Normalised variance of the midpoints: sum w (m - mean)^2 / sum w."""
    spread = (midpoints(t) - mean(t, w)[..., None]).square()
    return (w * spread).sum(dim=-1) / w.sum(dim=-1).clamp_min(TINY)


def quantile(t: Float[Tensor, "*b S+1"], w: Float[Tensor, "*b S"], q: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """Where the running sum of w passes q times its total, linear inside the bin. A flat histogram: uniform in t."""
    running = cdf(w)
    mass = running[..., -1:]
    empty = mass <= TINY
    flat = cdf(widths(t))
    running = torch.where(empty, flat / flat[..., -1:].clamp_min(TINY), running / mass.clamp_min(TINY)).contiguous()
    index = torch.searchsorted(running, q.clamp(0, 1).contiguous(), right=True)
    last = torch.searchsorted(running, running[..., -1:].contiguous())  # q = 1 ends with the last bin that has mass
    index = torch.minimum(index, last).clamp(1, t.shape[-1] - 1)
    low, high = running.gather(-1, index - 1), running.gather(-1, index)
    left, right = t.gather(-1, index - 1), t.gather(-1, index)
    share = ((q - low) / (high - low).clamp_min(TINY)).clamp(0, 1)
    return left + share * (right - left)


def median(t: Float[Tensor, "*b S+1"], w: Float[Tensor, "*b S"]) -> Float[Tensor, "*b"]:
    """Where half of the mass lies in front."""
    half = torch.full((*w.shape[:-1], 1), 0.5, dtype=w.dtype, device=w.device)
    return quantile(t, w, half)[..., 0]


def mode(t: Float[Tensor, "*b S+1"], w: Float[Tensor, "*b S"]) -> Float[Tensor, "*b"]:
    """Midpoint of the heaviest bin (the first of several)."""
    return midpoints(t).gather(-1, w.argmax(dim=-1, keepdim=True))[..., 0]


def sample(t: Float[Tensor, "*b S+1"], w: Float[Tensor, "*b S"], u: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """Points by inverse CDF at the uniforms u in [0, 1], detached; sorted where u is."""
    return quantile(t.detach(), w.detach(), u)


def mass_before(
    t: Float[Tensor, "*b S+1"], w: Float[Tensor, "*b S"], x: Float[Tensor, "*b n"], inclusive: bool = True
) -> Float[Tensor, "*b n"]:
    """The integral of the histogram from its start up to x; `inclusive`: with bins of no width that stand at x."""
    running = cdf(w)
    index = torch.searchsorted(t.contiguous(), x.contiguous(), right=inclusive).clamp(1, t.shape[-1] - 1)
    left, right = t.gather(-1, index - 1), t.gather(-1, index)
    low, high = running.gather(-1, index - 1), running.gather(-1, index)
    share = ((x - left) / (right - left).clamp_min(TINY)).clamp(0, 1)
    whole = x >= right if inclusive else (x > right) | ((x == right) & (right > left))
    return low + torch.where(whole, torch.ones_like(share), share) * (high - low)


def resample(
    t: Float[Tensor, "*b S+1"], w: Float[Tensor, "*b S"], edges: Float[Tensor, "*b n+1"]
) -> Float[Tensor, "*b n"]:
    """The histogram on other edges, by overlap: mass inside the edges is conserved."""
    return widths(mass_before(t, w, edges))


def outer_measure(
    t: Float[Tensor, "*b S+1"], w: Float[Tensor, "*b S"], edges: Float[Tensor, "*b n+1"]
) -> Float[Tensor, "*b n"]:
    """Per interval of `edges`, the mass of all bins that touch it (mip-NeRF 360, eq. 12's bound)."""
    running = cdf(w)
    last = w.shape[-1]
    first = (torch.searchsorted(t.contiguous(), edges[..., :-1].contiguous(), right=True) - 1).clamp(0, last)
    after = torch.searchsorted(t.contiguous(), edges[..., 1:].contiguous(), right=False).clamp(0, last)
    return (running.gather(-1, after) - running.gather(-1, torch.minimum(first, after))).clamp_min(0)


def inner_measure(
    t: Float[Tensor, "*b S+1"], w: Float[Tensor, "*b S"], edges: Float[Tensor, "*b n+1"]
) -> Float[Tensor, "*b n"]:
    """Per interval of `edges`, the mass of the bins that lie wholly inside it."""
    running = cdf(w)
    last = w.shape[-1]
    first = torch.searchsorted(t.contiguous(), edges[..., :-1].contiguous(), right=False).clamp(0, last)
    after = (torch.searchsorted(t.contiguous(), edges[..., 1:].contiguous(), right=True) - 1).clamp(0, last)
    return (running.gather(-1, after) - running.gather(-1, torch.minimum(first, after))).clamp_min(0)


def distortion(t: Float[Tensor, "*b S+1"], w: Float[Tensor, "*b S"]) -> Float[Tensor, "*b"]:
    """sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 width_i, in O(S) (mip-NeRF 360, eq. 15)."""
    m = midpoints(t)
    mass_ahead = w.cumsum(dim=-1) - w
    moment_ahead = (w * m).cumsum(dim=-1) - w * m
    between = 2 * (w * (m * mass_ahead - moment_ahead)).sum(dim=-1)
    return between + (w.square() * widths(t)).sum(dim=-1) / 3


def entropy(w: Float[Tensor, "*b S"]) -> Float[Tensor, "*b"]:
    """-sum p log2 p in bits, p = w / sum w; 0 where there is no mass (InfoNeRF, eq. 5)."""
    p = w / w.sum(dim=-1, keepdim=True).clamp_min(TINY)
    return -(p * p.clamp_min(TINY).log2()).sum(dim=-1)


def wasserstein(
    t: Float[Tensor, "*b S+1"],
    w: Float[Tensor, "*b S"],
    other_t: Float[Tensor, "*b n+1"],
    other_w: Float[Tensor, "*b n"],
) -> Float[Tensor, "*b"]:
    """1-Wasserstein distance of two normalised histograms: the area between their running sums."""
    edges = torch.cat([t, other_t], dim=-1).sort(dim=-1).values
    p, q = (v / v.sum(dim=-1, keepdim=True).clamp_min(TINY) for v in (w, other_w))
    start, end = edges[..., :-1].contiguous(), edges[..., 1:].contiguous()  # between them both sums are straight
    left = mass_before(t, p, start) - mass_before(other_t, q, start)
    right = mass_before(t, p, end, inclusive=False) - mass_before(other_t, q, end, inclusive=False)
    same = left * right >= 0
    straight = 0.5 * (left.abs() + right.abs())
    crossing = 0.5 * (left.square() + right.square()) / (left.abs() + right.abs()).clamp_min(TINY)
    return (torch.where(same, straight, crossing) * widths(edges)).sum(dim=-1)
