"""A prior of one's own: this file is the whole of it.

    rayprior train grid synthetic:still-life --seconds 5 --prior examples/own_prior.py:EmptySky:rays=64

A prior is a question (which rays?) and a judgement (a score of their rendering). The fields of the class are its
options, here and on the command line, and the run's folder keeps a copy of this file. Where no ray looks up, as in the
still life, which is seen from above, the answer is empty and nothing is judged: outdoor captures are where it counts.
"""

from dataclasses import dataclass

from rayprior import Prior


@dataclass(frozen=True)
class EmptySky(Prior):
    """Rays that look up end nowhere."""

    weight: float = 0.01
    rays: int = 256

    def query(self, scene, generator):
        asked = scene.unseen_rays(self.rays, generator)  # a Query: .rays and .known
        return asked[asked.rays.directions @ scene.up > 0.2]

    def loss(self, seen, known):
        return seen.distribution.opacity.mean()  # seen: the Rendering of just these rays
