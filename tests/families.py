"""A family small enough for tests: a coloured ball on black, another in every scene, with its exact distance."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from rayprior.maths.poses import look_at
from rayprior.maths.space import Box
from rayprior.scenes.family import Family
from rayprior.scenes.formats.family import Shard
from rayprior.scenes.scene import Background, Bounds, Split

RADIUS, RING = 0.5, 3.0


def balls(scenes: int = 8, views: int = 5, size: int = 16, test: int = 2, jitter: float = 0.0) -> Family:
    """Views stand on a ring around the origin, and look at it. jitter: pictures are darker by up to exp(-jitter)."""
    g = torch.Generator().manual_seed(7)
    colours = 0.2 + 0.8 * torch.rand(scenes, 3, generator=g)
    places = torch.rand(scenes, 3, generator=g) - 0.5
    turn = torch.rand(scenes, views, generator=g) * 2 * torch.pi
    origins = torch.stack([turn.cos() * RING, turn.sin() * RING, torch.ones_like(turn)], dim=-1)
    c2w = look_at(origins.view(-1, 3), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])).view(scenes, views, 3, 4)
    focal, centre = 1.2 * size, size / 2
    v, u = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    towards = F.normalize(torch.stack([(u - centre) / focal, (v - centre) / focal, torch.ones_like(u)], -1), dim=-1)
    d = torch.einsum("svij,hwj->svhwi", c2w[..., :3], towards)
    to_ball = (places[:, None] - origins)[:, :, None, None]
    along = (to_ball * d).sum(-1)
    depth = RADIUS**2 - to_ball.square().sum(-1) + along.square()
    distance = torch.where(depth > 0, along - depth.clamp_min(0).sqrt(), torch.nan)
    shade = (depth.clamp_min(0).sqrt() / RADIUS)[..., None]
    exposure = torch.exp(-jitter * torch.rand(scenes, views, 1, 1, 1, generator=g))
    pictures = (255 * exposure * colours[:, None, None, None] * shade).round().to(torch.uint8)
    return Family(
        name="balls",
        path=Path("balls"),
        kind="folder",
        views=views,
        size=(size, size),
        focal_px=(focal, focal),
        centre_px=(centre, centre),
        split=Split("balls", tuple(range(scenes - test)), tuple(range(scenes - test, scenes))),
        bounds=Bounds(1.5, 5.0, Box((-1.2, -1.2, -1.2), (1.2, 1.2, 1.2))),
        background=Background("colour", (0.0, 0.0, 0.0)),
        shards=[Shard(pictures.numpy(), distance.float().numpy(), c2w.numpy())],
        shard_scenes=scenes,
        has_depth=True,
        focus=torch.zeros(3),
    )
