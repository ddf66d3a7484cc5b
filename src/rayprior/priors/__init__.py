"""Terms: every judgement of a rendering, one idea a file. `TERMS` names those that ship with rayprior."""

from rayprior.priors.distortion import Distortion
from rayprior.priors.photometric import Photometric
from rayprior.priors.term import Likelihood, Prior, Term

TERMS: dict[str, type[Term]] = {
    "photometric": Photometric,
    "distortion": Distortion,
}

__all__ = ["TERMS", "Distortion", "Likelihood", "Photometric", "Prior", "Term"]
