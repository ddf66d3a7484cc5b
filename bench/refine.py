"""What a refiner costs beside the field: the median time of refining one finished picture.

    python bench/refine.py                              270x480, two threads and one; seconds
    python bench/refine.py --size 1080x1920 --rounds 5
    python bench/refine.py --networks refiner ganerf-refiner --rounds 3

Networks are as built, not trained: their time is the same. They take turns, so that a machine that slows down does so
for all. Rendering the picture that is refined is not in it.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from rayprior.kernels.threads import set_threads
from rayprior.training.refining import REFINERS

WARM = 2


def main() -> None:
    """Print a table: threads, network, parameters, median and slowest time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="270x480", help="width x height, in pixels")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--networks", nargs="+", choices=REFINERS, default=["refiner"])
    asked = parser.parse_args()
    width, height = map(int, asked.size.split("x"))
    picture = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    networks = {kind: REFINERS[kind].net.build().eval() for kind in asked.networks}
    print(f"{'threads':>7s} {'network':15s} {'parameters':>11s} {'median s':>9s} {'slowest':>8s}")
    for threads in asked.threads:
        set_threads(threads)
        times: dict[str, list[float]] = {kind: [] for kind in networks}
        for turn in range(WARM + asked.rounds):
            for kind, network in networks.items():
                begun = time.perf_counter()
                with torch.no_grad():
                    network(picture)
                if turn >= WARM:
                    times[kind].append(time.perf_counter() - begun)
        for kind, network in networks.items():
            count = sum(p.numel() for p in network.parameters())
            print(f"{threads:7d} {kind:15s} {count:11,d} {median(times[kind]):9.3f} {max(times[kind]):8.3f}")


if __name__ == "__main__":
    main()
