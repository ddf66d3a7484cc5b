"""Peak signal-to-noise ratio: the one quality number that the training loop shows as it runs."""

from __future__ import annotations

from math import inf, log10


def psnr(mse: float) -> float:
    """-10 log10 MSE in dB, for values in [0, 1]. MSE 5e-4 -> 33.0103 dB; 0 -> inf."""
    return -10 * log10(mse) if mse > 0 else inf
