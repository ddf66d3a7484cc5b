"""`make bench`: time to quality, rays a second, and each part of a step against its floor.

    python bench/speed.py                                  both cases, one and two threads, 10 and 60 s, one seed
    python bench/speed.py --seconds 10 30 60 300 --seeds 3
    python bench/speed.py --parts                          only the parts of a step

Cases are the real ones, bench_fox8 and bench_lego100 under RAYPRIOR_DATA; where that folder is absent the embedded
still-life stands in, under its own name. Every training runs in a process of its own: seconds are of the training loop
(no imports, compiling, saving, measuring), start-up is everything before it with kernels already compiled, PSNR is the
mean over all held-out views. Results are also written to bench/results/ as JSON with machine, versions and date.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

BEGUN = time.perf_counter()
CASES = ("fox8", "lego100")
ROOT = Path(__file__).resolve().parents[1]


def scene_of(case: str) -> str:
    """The case's capture, or the embedded scene where the real ones are not here."""
    folder = Path(os.environ.get("RAYPRIOR_DATA", ROOT.parent / "shared" / "data")) / f"bench_{case}"
    return str(folder) if folder.is_dir() else "synthetic:still-life"


# -- one training ------------------------------------------------------------------------------------------------------


def train_once(case: str, seconds: float, threads: int, seed: int, settings: list[str]) -> dict[str, Any]:
    """Train, measure, and say what it took. Runs in a fresh process."""
    from rayprior import fit, load_scene, methods
    from rayprior.evaluation.evaluate import evaluate
    from rayprior.kernels.threads import set_threads
    from rayprior.training.loop import Progress
    from rayprior.training.recipe_json import set_value
    from rayprior.training.settle import samples_a_ray

    set_threads(threads)
    scene = load_scene(scene_of(case))
    recipe = methods.grid
    for setting in settings:
        recipe = set_value(recipe, setting)
    seen: list[Progress] = []
    started: list[float] = []

    def watch(now: Progress) -> None:
        if not started:
            started.append(time.perf_counter() - BEGUN)
        seen[:] = [now]

    with tempfile.TemporaryDirectory() as folder:
        run = fit(recipe, scene, seconds=seconds, out=Path(folder) / "run", seed=seed, threads=threads, watch=watch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        result = evaluate(run.model, scene, scene.split.test, lpips="none", keep=0)
    now = seen[0]
    samples = samples_a_ray(run.recipe.sampler)
    return {
        "case": case if scene_of(case) != "synthetic:still-life" else "still-life",
        "seconds": seconds,
        "threads": threads,
        "seed": seed,
        "steps": now.step,
        "rays_per_second": now.rays_per_second,
        "samples_per_second": now.rays_per_second * samples,
        "psnr": result.mean["psnr"],
        "ssim": result.mean["ssim"],
        "peak_mb": peak,
        "startup_s": started[0],
    }


# -- the parts of a step -----------------------------------------------------------------------------------------------


def parts_of_step(case: str, threads: int) -> list[dict[str, Any]]:
    """Median milliseconds of each part, on a model that was trained a little, beside the part's floor.

    A part runs alone here, its data still warm in the cache; what a whole step costs beyond the parts is 'glue': small
    operations, autograd's own work, and caches that the parts of a step empty for each other.
    """
    import floors
    import torch

    from rayprior import load_scene, methods
    from rayprior.fields.grid import GridField
    from rayprior.kernels.composite import composite
    from rayprior.kernels.distortion import distortion
    from rayprior.kernels.encode import encode
    from rayprior.kernels.threads import set_threads
    from rayprior.kernels.unpack import unpack
    from rayprior.rendering.density_grid import DensityGrid, DensityGridSampler
    from rayprior.training.settle import settle
    from rayprior.training.tasks import FitScene, generator_for

    set_threads(threads)
    machine = floors.measure(threads)
    set_threads(threads, kernels_only=True)  # as a training does
    scene = load_scene(scene_of(case))
    recipe = settle(methods.grid, scene)
    task = FitScene(recipe, scene, 0, torch.device("cpu"))

    def step(number: int = 1) -> None:
        losses, _ = task.losses(number, 0.1)
        torch.stack(list(losses.values())).sum().backward()
        task.step()

    for number in range(200):
        step(number)
    model, config = task.model, recipe.sampler
    field, sampler = model.field, model.sampler
    assert recipe.photo.rays is not None
    assert isinstance(config, DensityGrid)
    assert isinstance(field, GridField)
    assert isinstance(sampler, DensityGridSampler)

    def leaf(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().contiguous().requires_grad_()

    rays = task.scene.photo_rays(recipe.photo.rays, generator_for(0, 1, "photo")).rays
    edges, _ = sampler.propose(rays, field, generator_for(0, 1, "sampler"))
    lengths = edges[:, 1:] - edges[:, :-1]
    x = rays.at(0.5 * (edges[:, 1:] + edges[:, :-1])).reshape(-1, 3).contiguous()
    encoded = leaf(encode(x, field.table, field.resolutions, model.space.box))
    out = leaf(field.linear(encoded))
    density, feature = unpack(out)
    density, feature = leaf(density.view(lengths.shape)), leaf(feature.view(*lengths.shape, -1))
    weights, _, seen = composite(density, lengths, feature)
    weights, seen = leaf(weights), leaf(seen)
    head = [p for name, p in field.named_parameters() if name.startswith("colour_net")]
    everything = sum(p.numel() for p in model.parameters())

    def both_ways(run: Callable[[], Any], inputs: list[Any]) -> Callable[[], None]:
        def timed() -> None:
            value = run()
            values = value if isinstance(value, tuple) else (value,)
            torch.autograd.backward(values, [torch.ones_like(v) for v in values], inputs=inputs)
            for tensor in inputs:
                tensor.grad = None

        return timed

    gradients = [torch.full_like(p, 1e-9) for p in model.parameters()]

    def adam() -> None:
        for parameter, gradient in zip(model.parameters(), gradients):
            parameter.grad = gradient
        task.step()

    n, r, c, levels = len(x), len(rays), feature.shape[-1], len(field.resolutions)
    corners, weight = 8 * levels * n, field.linear.weight.numel()
    refreshed = sampler.reachable.numel() * config.refresh_share / config.refresh_every
    m = machine
    rows: list[tuple[str, Callable[[], object], float]] = [
        ("draw rays", lambda: task.scene.photo_rays(r, generator_for(0, 1, "photo")), 4 * 30 * r / m.bytes),
        (
            "march",
            lambda: sampler.propose(rays, field, generator_for(0, 1, "sampler")),
            r * config.bins / m.cell_reads + 20 * r * config.bins / m.flops,
        ),
        (
            "encode",
            both_ways(lambda: encode(x, field.table, field.resolutions, model.space.box), [field.table]),
            corners / m.reads + corners / m.updates + 4 * n * (2 * 2 * levels + 6) / m.bytes,
        ),
        (
            "linear",
            both_ways(lambda: field.linear(encoded), [encoded, *field.linear.parameters()]),
            6 * n * weight / m.flops + 4 * n * 2 * (2 * levels + c + 1) / m.bytes,
        ),
        ("unpack", both_ways(lambda: unpack(out), [out]), n / m.exponentials + 4 * 4 * n * (c + 1) / m.bytes),
        (
            "composite",
            both_ways(lambda: composite(density, lengths, feature), [density, feature]),
            n / m.exponentials + 4 * n * (3 * c + 6) / m.bytes,
        ),
        ("distortion", both_ways(lambda: distortion(edges, weights), [weights]), 16 * n / m.bytes + 24 * n / m.flops),
        (
            "head",
            both_ways(lambda: field.colour(seen, rays.directions), [seen, *head]),
            6 * r * (sum(p.numel() for p in head) or c) / m.flops + 4 * 4 * r * c / m.bytes,
        ),
        ("adam", adam, 4 * 7 * everything / m.bytes),
        (
            "refresh",
            lambda: sampler.refresh(32, field, generator_for(0, 1, "refresh")),
            refreshed * (8 * levels / m.reads + 2 * weight / m.flops),
        ),
    ]
    found = []
    for name, run, floor in rows:
        spent = median_ms(run) / (config.refresh_every if name == "refresh" else 1)
        found.append({"part": name, "ms": spent, "floor_ms": floor * 1e3})
    whole = median_ms(step, rounds=300)
    timed, least = sum(row["ms"] for row in found), sum(row["floor_ms"] for row in found)
    found.append({"part": "glue", "ms": max(0.0, whole - timed), "floor_ms": 0.0})
    found.append({"part": "step", "ms": whole, "floor_ms": least})
    return found


def median_ms(run: Callable[[], object], rounds: int = 100) -> float:
    for _ in range(10):
        run()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e3


# -- tables ------------------------------------------------------------------------------------------------------------


def fresh(arguments: list[str]) -> Any:
    """This file in a new process; its last line is JSON."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], form: str) -> str:
    text = format(statistics.mean(values), form)
    return text if len(values) == 1 else f"{text} [{min(values):{form}}, {max(values):{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--seconds", nargs="+", type=float, default=[10, 60])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        case, seconds, threads, seed = asked.one
        print(json.dumps(train_once(case, float(seconds), int(threads), int(seed), asked.set)))
        return
    if asked.step:
        print(json.dumps(parts_of_step(asked.step[0], int(asked.step[1]))))
        return

    results: dict[str, Any] = {"machine": about_machine(), "parts": [], "trainings": []}
    print(json.dumps(results["machine"]))
    for case in asked.cases:
        for threads in asked.threads:
            rows = fresh(["--step", case, str(threads)])
            results["parts"].append({"case": case, "threads": threads, "rows": rows})
            print(f"\n{case}, {threads} thread{'s' * (threads > 1)}: milliseconds of a step")
            print(f"{'part':12}{'ms':>8}{'floor':>8}{'ratio':>8}")
            for row in rows:
                ratio = f"{row['ms'] / row['floor_ms']:.2f}" if row["floor_ms"] > 1e-3 else ""
                print(f"{row['part']:12}{row['ms']:8.2f}{row['floor_ms']:8.2f}{ratio:>8}")
    if not asked.parts:
        head = f"{'case':10}{'threads':>8}{'seconds':>8}{'PSNR':>24}{'rays/s':>10}{'samples/s':>11}{'MB':>6}"
        print(f"\n{head}{'start s':>8}")
        for case in asked.cases:
            for threads in asked.threads:
                for seconds in asked.seconds:
                    runs = [
                        fresh(["--one", case, str(seconds), str(threads), str(seed), "--set", *asked.set])
                        for seed in range(asked.seeds)
                    ]
                    results["trainings"] += runs
                    print(
                        f"{runs[0]['case']:10}{threads:8}{seconds:8g}{spread([r['psnr'] for r in runs], '.2f'):>24}"
                        f"{statistics.mean(r['rays_per_second'] for r in runs):10.0f}"
                        f"{statistics.mean(r['samples_per_second'] for r in runs):11.0f}"
                        f"{max(r['peak_mb'] for r in runs):6.0f}{max(r['startup_s'] for r in runs):8.1f}",
                        flush=True,
                    )
    target = Path(__file__).parent / "results" / f"{datetime.now():%Y%m%d-%H%M%S}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=2))
    print(f"\n{target.relative_to(ROOT)}")


def about_machine() -> dict[str, Any]:
    import numba
    import torch

    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": numba.__version__,
    }


if __name__ == "__main__":
    main()
