"""How much better a latent's posterior could be than the one that was inferred: gradient ascent on its mean and
deviation, scene by scene (the amortisation gap: Cremer et al., Inference suboptimality in variational autoencoders,
ICML 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rayprior.evaluation.family import fixed_order
from rayprior.fields.codes import Code, Posterior
from rayprior.rendering.inference import negative_log_likelihood
from rayprior.rendering.model import Model
from rayprior.scenes.family import Family, Views

SEED = 0
LOOKS, LOOK_RAYS = 8, 256  # an ELBO is the mean over so many draws of a latent, each seen in so many pixels a scene
FEW_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)  # of plain ascent; the best for it counts
RATE = 0.05  # of long ascent

Elbos = Float[Tensor, "b"]


def gap_of(model: Model, views: Views, steps: int, rays: int) -> dict[str, Elbos]:
    """ELBOs of the shown pictures, nats a scene: of the encoder's guess (`first`), after the refinements that the model
    was trained with (`refined`), after as many plain steps from the guess, each with as many pixels as a refinement
    (`plain`), and after `steps` of Adam from it (`best`).

    Each scene has the best of its own looks at plain rates: what ascent could do, not what one could know.
    """
    with torch.no_grad():
        guesses = model.infer(views)
    inferrer = model.inferrer
    assert inferrer is not None
    count = len(guesses) - 1
    first = elbo(model, views, guesses[0])
    plain = [
        elbo(model, views, ascend(model, views, guesses[0], count, rate, inferrer.config.rays)) for rate in FEW_RATES
    ]
    return {
        "elbo_first": first,
        "elbo_refined": elbo(model, views, guesses[-1]),
        "elbo_plain": torch.stack([first, *plain]).amax(dim=0),
        "elbo_best": elbo(model, views, ascend(model, views, guesses[0], steps, RATE, rays)),
    }


@torch.no_grad()
def elbo(model: Model, views: Views, belief: Posterior) -> Elbos:
    """The ELBO of the shown pictures under what is believed of their scenes, estimated from the same pixels and the
    same noise whatever is believed."""
    generator = Generator().manual_seed(SEED)
    total = -LOOKS * belief.kl().sum(dim=1)
    for _ in range(LOOKS):
        total = total + _log_likelihood(model, views, belief, LOOK_RAYS, generator)
    return total / LOOKS


def ascend(model: Model, views: Views, start: Posterior, steps: int, rate: float, rays: int) -> Posterior:
    """What is believed after some steps of Adam on the ELBO, from `rays` pixels a scene each; all scenes at once, since
    none touches another's numbers."""
    mean, log_std = (part.detach().clone().requires_grad_() for part in (start.mean, start.log_std))
    optimiser = torch.optim.Adam([mean, log_std], lr=rate)
    generator = Generator().manual_seed(SEED + 1)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - 0.9 * step / steps)
        belief = Posterior(mean, log_std)
        loss = belief.kl().sum() - _log_likelihood(model, views, belief, rays, generator).sum()
        mean.grad, log_std.grad = torch.autograd.grad(loss, (mean, log_std))
        optimiser.step()
    return Posterior(mean.detach(), log_std.detach())


def _log_likelihood(model: Model, views: Views, belief: Posterior, rays: int, generator: Generator) -> Elbos:
    """Of all shown pixels of each scene, from some of them and one draw of each latent."""
    inferrer = model.inferrer
    assert inferrer is not None
    asked = views.draw(rays, generator)
    code = Code.of_scenes(belief.sample(generator)[asked.known["row"]])
    seen = model.render(asked.rays, generator, code=code)
    missed = negative_log_likelihood(seen.rgb, asked.known["rgb"], inferrer.config.std) * asked.known["stands_for"]
    return -missed.view(len(views), rays).sum(dim=1)


def gaps(
    model: Model, family: Family, scenes: Sequence[int], views: int, steps: int, rays: int
) -> list[dict[str, float]]:
    """`gap_of` for each scene, shown its first views in the protocol's order."""
    order = fixed_order(family, scenes)
    found = gap_of(model, family.shown(torch.tensor(list(scenes)), order[:, :views]), steps, rays)
    return [{name: float(values[i]) for name, values in found.items()} for i in range(len(scenes))]
