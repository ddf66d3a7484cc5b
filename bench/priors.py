"""What a prior costs: the median time of a training step with and without it, the photographed rays being the same.

    python bench/priors.py            about a minute; embedded scenes alone

Arms take turns, so that a machine that slows down does so for all. One thread.
"""

from __future__ import annotations

import time
from statistics import median

import torch

from rayprior import load_scene
from rayprior.kernels.threads import set_threads
from rayprior.methods import recipe_from
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene

SCENE, ROUNDS, STEPS, WARM = "synthetic:still-life", 8, 40, 40
ARMS: dict[str, tuple[str, ...]] = {
    "grid": (),
    "grid + entropy": ("entropy",),
    "grid + information gain": ("information_gain",),
    "grid + depth, maps": ("depth:at=pixels",),
    "grid + depth, sparse points": ("depth:at=keypoints",),
    "grid + depth + free space, sparse points": ("depth:at=keypoints,rays=64", "free_space:at=keypoints,rays=64"),
    "grid + entropy + depth + occlusion": ("entropy", "depth:at=keypoints", "occlusion"),
}


def main() -> None:
    """Print a table: rays of a step, its time, the ratio to `grid`."""
    set_threads(1, kernels_only=True)
    scene = load_scene(SCENE)
    tasks = {}
    for name, priors in ARMS.items():
        recipe = settle(recipe_from("grid", priors=priors), scene)
        tasks[name] = FitScene(recipe, scene, seed=0, device=torch.device("cpu"))
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    done = dict.fromkeys(ARMS, 0)
    for turn in range(ROUNDS + 1):
        for name, task in tasks.items():
            for _ in range(STEPS if turn else WARM):
                begun = time.perf_counter()
                losses, _ = task.losses(done[name], 0.3)
                torch.stack(list(losses.values())).sum().backward()
                task.step()
                done[name] += 1
                if turn:
                    times[name].append(time.perf_counter() - begun)
    plain = median(times["grid"])
    print(f"{'arm':42s} {'rays':>6s} {'ms a step':>10s} {'x grid':>7s}")
    for name, task in tasks.items():
        took = median(times[name])
        print(f"{name:42s} {sum(task.rays.values()):6d} {1000 * took:10.2f} {took / plain:7.2f}")


if __name__ == "__main__":
    main()
