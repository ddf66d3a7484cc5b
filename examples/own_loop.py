"""rayprior's judgements in a training loop that is not rayprior's: two functions of tensors are all that is imported.

    python own_loop.py            600 steps, some ten seconds each time: without the judgements, then with them

Three photographs of a striped ball, from one side. The loop asks for colour where photographs look, for the known
distance there (from a sensor that is good to .05), and that rays from anywhere else end in one place.
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

from rayprior.priors.depth import termination
from rayprior.priors.entropy import entropy_of_bins

PHOTOGRAPHED = 4 * F.normalize(torch.tensor([[1.0, 0.0, 0.3], [0.8, 0.6, 0.3], [0.8, -0.6, 0.3]]), dim=1)  # from where
STD = 0.05  # of a known distance


class Field(nn.Module):
    """Position -> density and colour; yours will differ."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(27, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, x):
        waves = [f(2.0**k * x) for k in range(4) for f in (torch.sin, torch.cos)]
        out = self.net(torch.cat([x, *waves], dim=-1))
        return F.softplus(out[..., 0]), torch.sigmoid(out[..., 1:])


def anywhere(count):
    """Eyes all around, at the distance of the photographs."""
    return 4 * F.normalize(torch.randn(count, 3), dim=1)


def draw(eyes, count):
    """Rays from some of these eyes towards a ball of radius 1, their colour before white, and where they end or nan."""
    origins = eyes[torch.randint(len(eyes), (count,))]
    directions = F.normalize(2.4 * torch.rand(count, 3) - 1.2 - origins, dim=1)
    along = -(origins * directions).sum(dim=1)
    inside = 1 - origins.square().sum(dim=1) + along.square()
    distance = torch.where(inside > 0, along - inside.clamp_min(0).sqrt(), torch.nan)
    stripes = 0.5 + 0.45 * torch.sin(5 * (origins + distance[:, None] * directions))
    return origins, directions, torch.where(inside[:, None] > 0, stripes, 1.0), distance


def render(field, origins, directions, bins=32):
    """Bin edges t, weights w and colour: volume rendering as everybody has it."""
    t = torch.linspace(2, 6, bins + 1).repeat(len(origins), 1)
    density, rgb = field(origins[:, None] + directions[:, None] * ((t[:, 1:] + t[:, :-1]) / 2)[..., None])
    depth = density * (t[:, 1:] - t[:, :-1])
    w = torch.exp(depth - depth.cumsum(dim=1)) * (1 - torch.exp(-depth))
    return t, w, (w[..., None] * rgb).sum(dim=1) + 1 - w.sum(dim=1, keepdim=True)


def bits(t, w):
    """Entropy of the rays that meet something, on bins that do not depend on the sampler."""
    hit = w.detach().sum(dim=1) > 0.1
    return entropy_of_bins(t, w, hit, bins=32).sum() / hit.sum().clamp_min(1)


def train(steps, entropy=0.0, depth=0.0, seed=0):
    """A field that saw three photographs; the two numbers are weights of the judgements."""
    torch.manual_seed(seed)
    field = Field()
    optimiser = torch.optim.Adam(field.parameters(), lr=5e-3)
    for _ in range(steps):
        origins, directions, truth, distance = draw(PHOTOGRAPHED, 128)
        t, w, rgb = render(field, origins, directions)
        known = distance.isfinite()
        ends = termination(t[known], w[known], distance[known], torch.full_like(distance[known], STD))
        unseen = render(field, *draw(anywhere(32), 128)[:2])[:2]
        loss = (rgb - truth).square().mean() + depth * ends.mean() + entropy * bits(*unseen)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return field


@torch.no_grad()
def measure(field):
    """Entropy of rays from anywhere, in bits, and mean error of the distance of photographed rays."""
    torch.manual_seed(99)
    unseen = render(field, *draw(anywhere(200), 1000)[:2])[:2]
    origins, directions, _, distance = draw(PHOTOGRAPHED, 1000)
    t, w, _ = render(field, origins, directions)
    found = (w * (t[:, 1:] + t[:, :-1]) / 2).sum(dim=1) / w.sum(dim=1).clamp_min(1e-6)
    return bits(*unseen).item(), (found - distance).abs().nanmean().item()


if __name__ == "__main__":
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    for name, weights in {"colour alone": {}, "with both": {"entropy": 1e-2, "depth": 1e-2}}.items():
        print("{}: {:.2f} bits, distance off by {:.3f}".format(name, *measure(train(steps, **weights))))
