"""What a second medium took for passers-by, against what truly stood before the photographs (NeRF-W's test-bed)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from rayprior.evaluation.metrics import roc_auc
from rayprior.rendering.model import Model
from rayprior.scenes.scene import Scene


@torch.no_grad()
def transient_scores(model: Model, scene: Scene, covered: Mapping[int, Bool[Tensor, "h w"]]) -> dict[str, float | None]:
    """Over all pixels of the training views `covered`, which says where an occluder stands in each.

    transient_auc  area under the ROC of the second medium's opacity, as a guess of where the occluders stand: 1/2 is
                   chance
    std_residual   correlation of the deviation that it claims with the size of the colour's error without it
    """
    opacity, std, residual, truth = [], [], [], []
    for view, square in covered.items():
        rays, picture = scene.view_rays(view), scene.picture(view).reshape(-1, 3).to(model.device)
        whole = list(model.render_in_chunks(rays, transient=True))
        alone = torch.cat([part.rgb for part in model.render_in_chunks(rays, transient=False)])
        opacity.append(torch.cat([part.transient_opacity for part in whole]))
        std += [part.std for part in whole if part.std is not None]
        residual.append((alone - picture).abs().mean(dim=1))
        truth.append(square.reshape(-1).to(model.device))
    claimed = torch.cat(std)
    correlation = torch.corrcoef(torch.stack([claimed, torch.cat(residual)]))[0, 1]
    return {
        "transient_auc": roc_auc(torch.cat(opacity), torch.cat(truth)),
        "std_residual": float(correlation) if correlation.isfinite() else None,
    }
