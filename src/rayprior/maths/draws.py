"""Draws: random numbers for the rows of a batch, or for some of its rows those that they have in the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Generator, Tensor


class Share(Generator):
    """A generator for some rows of a batch that is worked on in parts: they meet the numbers of the whole batch.

    rows  which of the whole's `of` rows are here. A draw for k times as many rows is k for each, side by side.
    """

    rows: Int[Tensor, "n"]
    of: int


def share_of(generator: Generator, rows: Int[Tensor, "n"], of: int) -> Share:
    """A new generator with the seed of this one, on the CPU."""
    share = Share()
    share.manual_seed(generator.initial_seed())
    share.rows, share.of = rows, of
    return share


def uniform(shape: Sequence[int], generator: Generator, dtype: torch.dtype | None = None) -> Tensor:
    """In [0, 1), on the generator's device; the first axis is the batch's."""
    return _drawn(torch.rand, shape, generator, dtype)


def normal(shape: Sequence[int], generator: Generator, dtype: torch.dtype | None = None) -> Tensor:
    """Of mean 0 and deviation 1, on the generator's device; the first axis is the batch's."""
    return _drawn(torch.randn, shape, generator, dtype)


def _drawn(
    draw: Callable[..., Tensor], shape: Sequence[int], generator: Generator, dtype: torch.dtype | None
) -> Tensor:
    if not isinstance(generator, Share):
        return draw(*shape, generator=generator, device=generator.device, dtype=dtype)
    each, rest = shape[0] // len(generator.rows), shape[1:]
    whole = draw(generator.of, each, *rest, generator=generator, dtype=dtype)
    return whole[generator.rows].flatten(0, 1)
