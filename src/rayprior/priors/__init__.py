"""Terms: every judgement of a rendering, one idea a file. `TERMS` names those that ship with rayprior."""

from rayprior.priors.adversarial import Adversarial
from rayprior.priors.code_size import CodeSize
from rayprior.priors.depth import Depth
from rayprior.priors.distortion import Distortion
from rayprior.priors.entropy import Entropy
from rayprior.priors.follow import Follow
from rayprior.priors.free_space import FreeSpace
from rayprior.priors.information_gain import InformationGain
from rayprior.priors.latent import LatentKL, SceneLikelihood
from rayprior.priors.occlusion import Occlusion
from rayprior.priors.patches import Patches
from rayprior.priors.perceptual import Perceptual
from rayprior.priors.photometric import Photometric
from rayprior.priors.surface import Surface
from rayprior.priors.term import Adversary, Likelihood, Prior, Term
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
    "patches": Patches,
    "perceptual": Perceptual,
    "adversarial": Adversarial,
    "follow": Follow,
    "scene_likelihood": SceneLikelihood,
    "latent_kl": LatentKL,
}

__all__ = [
    "TERMS",
    "Adversarial",
    "Adversary",
    "CodeSize",
    "Depth",
    "Distortion",
    "Entropy",
    "Follow",
    "FreeSpace",
    "Heteroscedastic",
    "InformationGain",
    "LatentKL",
    "Likelihood",
    "Occlusion",
    "Patches",
    "Perceptual",
    "Photometric",
    "Prior",
    "SceneLikelihood",
    "Surface",
    "Term",
    "Transient",
]
