"""Terms: every judgement of a rendering, one idea a file. `TERMS` names those that ship with rayprior."""

from rayprior.priors.code_size import CodeSize
from rayprior.priors.depth import Depth
from rayprior.priors.distortion import Distortion
from rayprior.priors.entropy import Entropy
from rayprior.priors.free_space import FreeSpace
from rayprior.priors.information_gain import InformationGain
from rayprior.priors.occlusion import Occlusion
from rayprior.priors.photometric import Photometric
from rayprior.priors.surface import Surface
from rayprior.priors.term import Likelihood, Prior, Term
from rayprior.priors.transient import Heteroscedastic, Transient

TERMS: dict[str, type[Term]] = {
    "photometric": Photometric,
    "distortion": Distortion,
    "entropy": Entropy,
    "information_gain": InformationGain,
    "occlusion": Occlusion,
    "depth": Depth,
    "free_space": FreeSpace,
    "surface": Surface,
    "heteroscedastic": Heteroscedastic,
    "transient": Transient,
    "code_size": CodeSize,
}

__all__ = [
    "TERMS",
    "CodeSize",
    "Depth",
    "Distortion",
    "Entropy",
    "FreeSpace",
    "Heteroscedastic",
    "InformationGain",
    "Likelihood",
    "Occlusion",
    "Photometric",
    "Prior",
    "Surface",
    "Term",
    "Transient",
]
