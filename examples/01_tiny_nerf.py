"""A whole NeRF in one file (Mildenhall et al. 2020), to be read from top to bottom.

    python 01_tiny_nerf.py                        a striped ball of its own; a minute on a CPU
    python 01_tiny_nerf.py nerf_synthetic/lego    pictures with alpha and transforms_*.json, at full size (wants a GPU)

Writes tiny_nerf.png: held-out photograph | rendering. Needs torch, numpy and pillow alone.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def encode(x, octaves):
    """Raw numbers, then their sines and cosines at 1, 2, 4, ... radians a unit: lets a small network see detail."""
    waves = [f(2.0**k * x) for k in range(octaves) for f in (torch.sin, torch.cos)]
    return torch.cat([x, *waves], dim=-1)


class Nerf(nn.Module):
    """(position, direction) -> (density, colour). The encoded position enters twice, the direction only at the end."""

    def __init__(self, depth=8, width=256):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(63 if i == 0 else width + 63 * (i == 5), width) for i in range(depth))
        self.density = nn.Linear(width, 1)
        self.feature = nn.Linear(width, width)
        self.view = nn.Linear(width + 27, width // 2)
        self.rgb = nn.Linear(width // 2, 3)

    def forward(self, position, direction):
        x = h = encode(position, 10)
        for i, layer in enumerate(self.layers):
            h = torch.relu(layer(torch.cat([x, h], dim=-1) if i == 5 else h))
        view = torch.relu(self.view(torch.cat([self.feature(h), encode(direction, 4)], dim=-1)))
        return torch.relu(self.density(h))[..., 0], torch.sigmoid(self.rgb(view))


def look(network, origins, directions, t, background):
    """Composite the network at distances t (rays, points): colours (rays, 3) and weights (rays, points); eq. 3."""
    points = origins[:, None] + directions[:, None] * t[..., None]
    density, rgb = network(points, directions[:, None].expand_as(points))
    gaps = torch.cat([t[:, 1:] - t[:, :-1], torch.full_like(t[:, :1], 1e10)], dim=1)
    alpha = 1 - torch.exp(-density * gaps)
    through = torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1]], dim=1).cumprod(dim=1)
    weights = through * alpha
    return (weights[..., None] * rgb).sum(dim=1) + (1 - weights.sum(dim=1))[:, None] * background, weights


def even(near, far, count, jitter):
    """Distances from near to far, each moved at random between the midpoints to its neighbours; eq. 2."""
    t = near[:, None] + (far - near)[:, None] * torch.linspace(0, 1, count, device=near.device, dtype=near.dtype)
    if not jitter:
        return t
    middle = (t[:, 1:] + t[:, :-1]) / 2
    low, high = torch.cat([t[:, :1], middle], dim=1), torch.cat([middle, t[:, -1:]], dim=1)
    return low + (high - low) * torch.rand_like(t)


def finer(t, weights, count, jitter):
    """More distances where the weights are, by inverting their cumulative sum; section 5.2."""
    middle, p = (t[:, 1:] + t[:, :-1]) / 2, weights[:, 1:-1] + 1e-5
    cdf = torch.cat([torch.zeros_like(p[:, :1]), (p / p.sum(dim=1, keepdim=True)).cumsum(dim=1)], dim=1)
    u = torch.linspace(0, 1, count, device=t.device, dtype=t.dtype).repeat(len(t), 1)
    if jitter:
        u = (torch.arange(count, device=t.device) + torch.rand_like(u)) / count
    right = torch.searchsorted(cdf, u, right=True).clamp(1, p.shape[1])
    low, high = cdf.gather(1, right - 1), cdf.gather(1, right)
    start, end = middle.gather(1, right - 1), middle.gather(1, right)
    return start + (end - start) * (u - low) / (high - low)


def render(coarse, fine, rays, samples, background, jitter):
    """Colours by the coarse and the fine network. rays: origins, unit directions, near, far; samples: (64, 128)."""
    origins, directions, near, far = rays
    t = even(near, far, samples[0], jitter)
    first, weights = look(coarse, origins, directions, t, background)
    t = torch.cat([t, finer(t, weights.detach(), samples[1], jitter)], dim=1).sort(dim=1).values
    return first, look(fine, origins, directions, t, background)[0]


def train_step(coarse, fine, optimiser, rays, rgb, samples, background, jitter=True):
    """One step of Adam on both networks' squared errors; eq. 6."""
    first, second = render(coarse, fine, rays, samples, background, jitter)
    loss, final = ((first - rgb) ** 2).mean(), ((second - rgb) ** 2).mean()
    optimiser.zero_grad()
    (loss + final).backward()
    optimiser.step()
    return final.item()


def camera_rays(pose, side, focal):
    """Rays of a square picture, OpenGL pose: x right, y up, looks along -z. 2 and 6 are depths along that axis."""
    v, u = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    local = torch.stack([(u - side / 2) / focal, (side / 2 - v) / focal, -torch.ones_like(u)], dim=-1).view(-1, 3)
    length = local.norm(dim=1)
    directions = (local / length[:, None]) @ pose[:3, :3].T
    return pose[:3, 3].expand_as(directions), directions, 2 * length, 6 * length


def blender(folder, split):
    """A list of (rays, colours on white), one a picture, of a nerf_synthetic scene."""
    about, found = json.loads((folder / f"transforms_{split}.json").read_text()), []
    for frame in about["frames"]:
        rgba = torch.from_numpy(np.asarray(Image.open(folder / (frame["file_path"] + ".png")).convert("RGBA")) / 255)
        focal = rgba.shape[0] / 2 / np.tan(about["camera_angle_x"] / 2)
        rgb = (rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]).float().view(-1, 3)
        found.append((camera_rays(torch.tensor(frame["transform_matrix"]), rgba.shape[0], focal), rgb))
    return found


def ball(views, side=50, radius=1.2):
    """The same of a striped ball before white, seen from `views` places at distance 4."""
    found = []
    for turn in torch.arange(views) * 2.4:  # close to the golden angle: all around, at many heights
        back = nn.functional.normalize(torch.stack([turn.cos(), turn.sin(), 0.6 * (turn * 7).sin()]), dim=0)
        right = nn.functional.normalize(torch.stack([-turn.sin(), turn.cos(), torch.tensor(0.0)]), dim=0)
        pose = torch.stack([right, torch.linalg.cross(back, right), back, 4 * back], dim=1)
        rays = camera_rays(pose, side, focal=1.4 * side)
        along = (rays[0] * rays[1]).sum(dim=1, keepdim=True)
        inside = along**2 - 4**2 + radius**2
        hit = rays[0] - (along + inside.clamp_min(0).sqrt()) * rays[1]
        found.append((rays, torch.where(inside > 0, 0.5 + 0.45 * torch.sin(5 * hit), 1.0)))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", nargs="?", type=Path, help="folder of a nerf_synthetic scene")
    parser.add_argument("--steps", type=int, help="default: 600 for the ball, 200,000 for a folder")
    parser.add_argument("--out", type=Path, default=Path("tiny_nerf.png"))
    asked = parser.parse_args()
    torch.manual_seed(0)
    if asked.scene:
        train, test = blender(asked.scene, "train"), blender(asked.scene, "test")
        size, samples, batch, steps, lr = {}, (64, 128), 1024, 200_000, 5e-4  # the paper's
    else:
        train, test = ball(20), ball(21)[20:]
        size, samples, batch, steps, lr = {"depth": 4, "width": 64}, (24, 24), 256, 600, 2e-3
    coarse, fine = Nerf(**size).to(DEVICE), Nerf(**size).to(DEVICE)
    optimiser = torch.optim.Adam([*coarse.parameters(), *fine.parameters()], lr=lr)
    pixels = [torch.cat(parts) for parts in zip(*((*rays, rgb) for rays, rgb in train), strict=True)]
    for step in range(asked.steps or steps):
        optimiser.param_groups[0]["lr"] = lr * 0.1 ** (step / 500_000)
        drawn = torch.randint(len(pixels[0]), (batch,))
        *rays, rgb = (values[drawn].to(DEVICE) for values in pixels)
        error = train_step(coarse, fine, optimiser, rays, rgb, samples, background=1.0)
        if step % 50 == 0:
            print(f"step {step}: PSNR {-10 * np.log10(error):.2f} dB", flush=True)
    rays, rgb = test[0]
    chunks = zip(*(values.to(DEVICE).split(2048) for values in rays), strict=True)
    with torch.no_grad():
        seen = torch.cat([render(coarse, fine, chunk, samples, 1.0, jitter=False)[1].cpu() for chunk in chunks])
    side = int(len(rgb) ** 0.5)
    picture = torch.cat([rgb.view(side, side, 3), seen.view(side, side, 3)], dim=1).clamp(0, 1)
    Image.fromarray((picture.numpy() * 255).round().astype(np.uint8)).save(asked.out)
    print(f"held-out view: PSNR {-10 * ((seen - rgb) ** 2).mean().log10():.2f} dB, in {asked.out}")


if __name__ == "__main__":
    main()
