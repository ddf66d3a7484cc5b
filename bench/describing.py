"""What descriptors cost and find: the small network on the still life's exact pairs, in one table.

    python bench/describing.py                        the default describer, 1,500 steps, seed 0
    python bench/describing.py loss.kind=info-nce     a line for each group of settings; several in one group by comma
    python bench/describing.py --test --seeds 3       on test views, once the settings are chosen

64 px pictures, 40 training views, 20,000 exact pairs of them. The error is the distance of the nearest descriptor in
the object from where the pixel truly is, over exact pairs of the validation views among themselves (of the test views
with --test); chance is that of a random pixel of the object. One thread, seconds of its processor.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from rayprior.descriptors.matching import at, best_match
from rayprior.descriptors.pairs import Pairs
from rayprior.descriptors.photographs import Source
from rayprior.kernels.threads import set_threads
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import correspondences, synthetic_scene, synthetic_world
from rayprior.training.budget import Budget
from rayprior.training.describer import Describer, train_descriptors
from rayprior.training.describing import DESCRIBERS, with_setting

SCENE, SIZE, STEPS, PAIRS, PER_PAIR = "still-life", 64, 1_500, 20_000, 200
DEGREES = (5.0, 75.0)  # between the axes of two views that are paired


def exact_pairs(scene: Scene, views: tuple[int, ...], count: int, seed: int = 0) -> Pairs:
    """Exact pairs of pixels on the object, `PER_PAIR` of a drawn pair of views at a time, until there are `count`."""
    generator, world = torch.Generator().manual_seed(seed), synthetic_world(SCENE)
    forward = scene.cameras.forward
    found: list[Pairs] = []
    while sum(map(len, found)) < count:
        s, t = (views[i] for i in torch.randperm(len(views), generator=generator)[:2].tolist())
        if not DEGREES[0] <= float((forward[s] @ forward[t]).clamp(-1, 1).acos().rad2deg()) <= DEGREES[1]:
            continue
        mask = scene.object_mask(s)
        assert mask is not None
        v, u = mask.nonzero().unbind(dim=1)
        drawn = torch.randint(len(u), (PER_PAIR,), generator=generator)
        jitter = torch.rand(PER_PAIR, 2, generator=generator, dtype=torch.float64)
        pixel = torch.stack([u[drawn], v[drawn]], dim=1) + jitter
        target, seen = correspondences(world, scene.cameras, s, t, pixel)
        which = torch.full((int(seen.sum()),), s)
        found.append(Pairs(which, torch.full_like(which, t), pixel[seen], target[seen], torch.ones(len(which))))
    return Pairs.cat(found)[:count]


def errors(describer: Describer, scene: Scene, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """End-point errors in pixels of the nearest descriptor in the object, and those of a random pixel of it."""
    generator = torch.Generator().manual_seed(1)
    views = torch.cat([pairs.view_s, pairs.view_t]).unique().tolist()
    described = {view: describer.describe(scene.picture(view)) for view in views}
    off, chance = [], []
    for s, t in torch.stack([pairs.view_s, pairs.view_t], dim=1).unique(dim=0).tolist():
        part = pairs[(pairs.view_s == s) & (pairs.view_t == t)]
        mask = scene.object_mask(t)
        assert mask is not None
        found, _ = best_match(described[t], at(described[s], part.pixel_s), mask)
        v, u = mask.nonzero().unbind(dim=1)
        drawn = torch.randint(len(u), (len(part),), generator=generator)
        off.append((found - part.pixel_t).norm(dim=1))
        chance.append((torch.stack([u, v], dim=1)[drawn] + 0.5 - part.pixel_t).norm(dim=1))
    return torch.cat(off), torch.cat(chance)


def main() -> None:
    """Train and print a line for each group of settings and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=[""])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--test", action="store_true")
    asked = parser.parse_args()
    set_threads(1)
    scene = synthetic_scene(SCENE, size=SIZE)
    pairs = exact_pairs(scene, scene.split.train, PAIRS)
    held = scene.split.test if asked.test else scene.split.val
    truth = exact_pairs(scene, held, 2_000, seed=1)
    print(f"{'settings':44s} seed  seconds  ms a step  median px  mean px  PCK@1  PCK@2  chance: median, PCK@2")
    for group in asked.settings:
        how = DESCRIBERS["describer"]
        for setting in filter(None, group.split(",")):
            how = with_setting(how, setting)
        for seed in range(asked.seeds):
            with tempfile.TemporaryDirectory() as folder:
                begun = time.process_time()
                where = Path(folder) / "d"
                budget = Budget(steps=asked.steps)
                of = train_descriptors([Source(scene, pairs)], how, where, budget=budget, seed=seed, threads=1)
                took = time.process_time() - begun
                off, chance = errors(of, scene, truth)
            shares = "  ".join(f"{float((off < px).float().mean()):5.2f}" for px in (1, 2))
            print(
                f"{group or 'default':44s} {seed:4d} {took:8.1f} {1000 * took / asked.steps:10.1f}"
                f" {float(off.median()):10.2f} {float(off.mean()):8.2f}  {shares}  {float(chance.median()):6.2f},"
                f" {float((chance < 2).float().mean()):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
