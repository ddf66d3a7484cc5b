"""RayDistribution: where a ray ends, as a histogram. Every judgement is a short question to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.maths import stepfun


@dataclass(frozen=True, eq=False)
class RayDistribution:
    """Bin edges t (..., S+1), distances along the ray in working units, and weights w (..., S) that sum to at most 1.

    What is missing to 1 is the share of the ray that passes through: 1 - opacity.
    """

    t: Float[Tensor, "*r S+1"]
    w: Float[Tensor, "*r S"]

    @staticmethod
    def from_density(t: Float[Tensor, "*r S+1"], density: Float[Tensor, "*r S"]) -> RayDistribution:
        """w_i = T_i (1 - exp(-density_i width_i)), every bin with its real length."""
        return RayDistribution(t, stepfun.weights_from_density(t, density))

    def __getitem__(self, index) -> RayDistribution:
        return RayDistribution(self.t[index], self.w[index])

    def detach(self) -> RayDistribution:
        return RayDistribution(self.t.detach(), self.w.detach())

    @property
    def midpoints(self) -> Float[Tensor, "*r S"]:
        return stepfun.midpoints(self.t)

    @property
    def widths(self) -> Float[Tensor, "*r S"]:
        return stepfun.widths(self.t)

    @property
    def opacity(self) -> Float[Tensor, "*r"]:
        return self.w.sum(dim=-1)

    @property
    def mean(self) -> Float[Tensor, "*r"]:
        """Expected distance, normalised by opacity; the far end where the ray is empty."""
        return stepfun.mean(self.t, self.w)

    @property
    def median(self) -> Float[Tensor, "*r"]:
        return stepfun.median(self.t, self.w)

    @property
    def mode(self) -> Float[Tensor, "*r"]:
        return stepfun.mode(self.t, self.w)

    @property
    def variance(self) -> Float[Tensor, "*r"]:
        return stepfun.variance(self.t, self.w)

    @property
    def entropy(self) -> Float[Tensor, "*r"]:
        """Bits of the normalised weights: log2 S where they are equal, 0 for a single bin."""
        return stepfun.entropy(self.w)

    @property
    def distortion(self) -> Float[Tensor, "*r"]:
        return stepfun.distortion(self.t, self.w)

    def cross_entropy(
        self, mean: Float[Tensor, "*r"], std: Float[Tensor, "*r"], floor: float = 1e-5
    ) -> Float[Tensor, "*r"]:
        """-sum_k log(w_k + floor) exp(-(m_k - mean)^2 / (2 std^2)) width_k (DS-NeRF, eq. 6)."""
        kernel = torch.exp(-0.5 * ((self.midpoints - mean[..., None]) / std[..., None]).square())
        return -((self.w + floor).log() * kernel * self.widths).sum(dim=-1)

    def sample(self, u: Float[Tensor, "*r n"]) -> Float[Tensor, "*r n"]:
        """Distances by inverse CDF at uniforms u, detached."""
        return stepfun.sample(self.t, self.w, u)

    def resample(self, edges: Float[Tensor, "*r n+1"]) -> RayDistribution:
        """The same histogram on other edges, by overlap."""
        return RayDistribution(edges, stepfun.resample(self.t, self.w, edges))
