"""Terms: every judgement of a rendering, one idea a file. `TERMS` names those that ship with rayprior."""

from rayprior.priors.depth import Depth
from rayprior.priors.distortion import Distortion
from rayprior.priors.entropy import Entropy
from rayprior.priors.free_space import FreeSpace
from rayprior.priors.information_gain import InformationGain
from rayprior.priors.occlusion import Occlusion
from rayprior.priors.photometric import Photometric
from rayprior.priors.surface import Surface
from rayprior.priors.term import Likelihood, Prior, Term

TERMS: dict[str, type[Term]] = {
    "photometric": Photometric,
    "distortion": Distortion,
    "entropy": Entropy,
    "information_gain": InformationGain,
    "occlusion": Occlusion,
    "depth": Depth,
    "free_space": FreeSpace,
    "surface": Surface,
}

__all__ = [
    "TERMS",
    "Depth",
    "Distortion",
    "Entropy",
    "FreeSpace",
    "InformationGain",
    "Likelihood",
    "Occlusion",
    "Photometric",
    "Prior",
    "Surface",
    "Term",
]
