"""What a training step of the scene functions costs beside its matrix products and activations alone.

    python bench/scene_function.py               the 64-wide field of each kind, 512 rays of 32 samples; a minute
    python bench/scene_function.py --width 128
    python bench/scene_function.py --keep-memory what is freed stays with the process (glibc's mallopt)

A step is forward and backward of density and colour on 16,384 points, parameters and latents getting gradients. The
floor runs the same products (forward, for the weights, and for what needs a gradient of its inputs) and activations
(forward and backward) on tensors that exist, and nothing else: no encoding, no modulation, no biases, no sums, no
memory asked for. Both take turns, so that a machine that slows down does so for both. One thread, and its CPU time, of
which what else runs takes no part.

Without --keep-memory a step may give its memory back to the kernel and get it anew, page by page, the next time: how
much that costs changes from process to process and with what else runs.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F

from rayprior.fields.encodings import frequency
from rayprior.fields.scene_function import KINDS, SceneFunction
from rayprior.fields.space import Space
from rayprior.maths.space import Box

RAYS, SAMPLES, ROUNDS = 512, 32, 25
POINTS = RAYS * SAMPLES


def product(points: int, before: int, after: int, inputs_learn: bool = True) -> Callable[[], None]:
    """A linear layer's products: outputs, gradient of the weights, and where something below learns, of the inputs."""
    x, weight, out = torch.randn(points, before), torch.randn(after, before), torch.randn(points, after)
    slope, below = torch.empty(after, before), torch.empty(points, before)

    def run() -> None:
        torch.mm(x, weight.T, out=out)
        torch.mm(out.T, x, out=slope)
        if inputs_learn:
            torch.mm(out, weight, out=below)

    return run


def relu(width: int) -> Callable[[], None]:
    x, out = torch.randn(POINTS, width), torch.empty(POINTS, width)

    def run() -> None:
        torch.clamp_min(x, 0, out=out)
        torch.ops.aten.threshold_backward(x, out, 0)

    return run


def softplus_and_sigmoid() -> Callable[[], None]:
    density, colour = torch.randn(POINTS, 1), torch.randn(POINTS, 3)

    def run() -> None:
        torch.ops.aten.softplus_backward(density, F.softplus(density), 1, 20)
        torch.ops.aten.sigmoid_backward(colour, torch.sigmoid(colour))

    return run


def attention(config: SceneFunction) -> Callable[[], None]:
    """Two batches of products and the softmax between them, forward and backward, as torch's own kernel does them."""
    each = config.attended // config.heads
    asked, keys, values = (
        torch.randn(RAYS, config.heads, count, each, requires_grad=True)
        for count in (SAMPLES, config.tokens, config.tokens)
    )
    slope = torch.randn(RAYS, config.heads, SAMPLES, each)

    def run() -> None:
        told = F.scaled_dot_product_attention(asked, keys, values)
        torch.autograd.grad(told, (asked, keys, values), slope)

    return run


def floor(config: SceneFunction, latent: int) -> list[Callable[[], None]]:
    """All products and activations of a step of this field."""
    width, half, encoded = config.width, config.width // 2, 3 + 6 * config.octaves
    layers = [product(POINTS, width, width) for _ in range(config.depth - 1)]
    parts = [*layers, *(relu(width) for _ in range(config.depth)), relu(half), softplus_and_sigmoid()]
    parts += [product(POINTS, width, 1), product(POINTS, width, half), product(POINTS, half, 3)]
    parts += [product(RAYS, 3 + 6 * config.view_octaves, half, inputs_learn=False)]
    if config.kind == "mlp":
        parts += 2 * [product(POINTS, encoded, width, inputs_learn=False)] + 2 * [product(RAYS, latent, width)]
        return parts
    parts += [product(POINTS, encoded, width)]  # its input is modulated, and so has a gradient
    told, rows = (config.attended, POINTS) if config.kind == "attention" else (latent, RAYS)
    for size in [encoded] + [width] * (config.depth - 2):
        parts += [product(rows, told, size), product(rows, told, size)]
    if config.kind == "attention":
        parts += [product(POINTS, encoded, told, inputs_learn=False), attention(config)]
        parts += 2 * [product(RAYS * config.tokens, latent // config.tokens, told)]
    return parts


def step(config: SceneFunction, latent: int) -> Callable[[], None]:
    """Forward and backward of a field as a training asks it: a latent and a direction for each ray."""
    field = config.build(Space("box", Box((-1.5, -1.5, -1.5), (1.5, 1.5, 1.5))), latent=latent)
    x = torch.rand(RAYS, SAMPLES, 3) * 3 - 1.5
    directions = F.normalize(torch.randn(RAYS, 3), dim=1)[:, None].expand(-1, SAMPLES, -1)
    code = torch.randn(RAYS, latent, requires_grad=True)
    slopes = torch.randn(RAYS, SAMPLES), torch.randn(RAYS, SAMPLES, 3)

    def run() -> None:
        density, feature = field.density(x, None, code)
        torch.autograd.backward((density, field.colour(feature, directions)), slopes)
        code.grad = None
        field.zero_grad()

    return run


def timed(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return 1000 * (time.process_time() - begun)


def keep_memory() -> None:
    """Free memory is not given back, and large tensors come from the heap (glibc alone)."""
    trim_threshold, mmap_threshold = -1, -3
    libc = ctypes.CDLL("libc.so.6")
    for what in (trim_threshold, mmap_threshold):
        libc.mallopt(what, 1 << 30)


def main() -> None:
    """Print a table: ms of a step, of its floor, the ratio; and of the encoding alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--keep-memory", action="store_true")
    options = parser.parse_args()
    width: int = options.width
    if options.keep_memory:
        keep_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encode = partial(frequency, torch.rand(RAYS, SAMPLES, 3), SceneFunction().octaves)
    print(f"{'kind':12s} {'latent':>6s} {'step ms':>8s} {'floor ms':>9s} {'ratio':>6s} {'encoding ms':>12s}")
    for kind in KINDS:
        config, latent = SceneFunction(kind=kind, width=width), 1024 if kind == "attention" else 128
        whole, parts = step(config, latent), floor(config, latent)
        times: list[tuple[float, float, float]] = []
        for _ in range(ROUNDS + 2):
            bare = sum(timed(part) for part in parts)
            times.append((timed(whole), bare, timed(encode)))
        took, bare, encoding = (median(column) for column in zip(*times[2:], strict=True))
        print(f"{kind:12s} {latent:6d} {took:8.1f} {bare:9.1f} {took / bare:6.2f} {encoding:12.1f}")


if __name__ == "__main__":
    main()
