"""How many correspondences a second a field gives from what is kept of its views, and where the time goes.

    python bench/correspond.py            half a minute; an embedded scene alone

One thread. The field is not trained: what a match costs does not depend on what is seen. Views of 400 x 400 pixels,
100,000 pixels at a time; the best of five.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from rayprior.descriptors.correspond import SAME, CycleChecked, FieldLabels, between, land
from rayprior.descriptors.pairs import Labels
from rayprior.kernels.threads import set_threads
from rayprior.methods import recipe_from
from rayprior.networks.gqn import Gqn
from rayprior.rendering.model import Model
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.settle import settle

SIZE, COUNT, TURNS = 400, 100_000, 5


def main() -> None:
    """Print pairs a second of some kinds, then microseconds a pair of the parts."""
    set_threads(1)
    scene = synthetic_scene("still-life", size=SIZE, views=2, test_views=1, supersample=1)
    recipe = settle(recipe_from("grid", size="small"), scene)
    assert not isinstance(recipe.field, Gqn)
    torch.manual_seed(0)
    model = Model.build(recipe.field, recipe.sampler, recipe.space, recipe.compositing, recipe.codes)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(COUNT, 2, generator=generator, dtype=torch.float64) * SIZE
    kinds: dict[str, Labels] = {}
    for kind in ("median", "draw"):
        kinds[kind] = labels = FieldLabels(model, scene, kind)
        labels.prepare([0, 1])
    kinds["draw, cycle check"] = CycleChecked(kinds["draw"])
    for name, labels in kinds.items():
        took = best(lambda labels=labels: labels.match(0, pixels, 1, generator))
        print(f"{name:24s} {COUNT / took:12,.0f} pairs/s")
    camera, target = scene.cameras[0], scene.cameras[1]
    distance, first = torch.full((COUNT,), 4.0), torch.zeros(COUNT, dtype=torch.long)
    table = torch.full((SIZE * SIZE, 32), 4.0)
    parts: dict[str, Callable[[], object]] = {
        "drawing u": lambda: torch.rand(COUNT, generator=generator),
        "distance, interpolated": lambda: between(table, camera.size[0], pixels, first, SAME),
        "directions": lambda: camera.directions(first, pixels),
        "landing (directions too)": lambda: land(camera, pixels, distance, target),
    }
    for name, part in parts.items():
        print(f"{name:24s} {1e6 * best(part) / COUNT:12.2f} us a pair")


def best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls, after one to warm up."""
    call()
    times = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)


if __name__ == "__main__":
    main()
