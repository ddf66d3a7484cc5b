"""A descriptor network as an ONNX file, for a robot's computer without torch; checked to give the same descriptors.

Input `picture`, (1, 3, h, w), float32, red, green, blue in [0, 1]; output `descriptors`, (1, d, h, w). Any h and w.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rayprior.errors import UserError
from rayprior.files import write_atomically

OPSET = 17
LARGEST_DIFFERENCE = 1e-4  # of any number of a descriptor


def write_onnx(path: Path, network: nn.Module, sizes: Sequence[tuple[int, int]]) -> float:
    """Write a network, and return the largest difference of its descriptors in onnxruntime from those in torch.

    network  (1, 3, h, w) in [0, 1] -> (1, d, h, w)
    sizes    (width, height) of the pictures of noise that it is checked with

    Raises UserError without onnxruntime, and where the descriptors differ by more than 1e-4; nothing is written then.
    """
    runtime = _runtime()
    network = network.cpu().eval()
    width, height = sizes[0]
    file: Any = io.BytesIO()  # which the exporter takes, and does not say
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it speaks of its successor, and of shapes that are traced as they should be
        torch.onnx.export(
            network,
            (torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)),),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=["picture"],
            output_names=["descriptors"],
            dynamic_axes={name: {2: "height", 3: "width"} for name in ("picture", "descriptors")},
        )
    content = file.getvalue()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = max(_difference(session, network, size) for size in sizes)
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"{path}: not written: the descriptors of the ONNX file differ from torch's by {difference:.2g}, expected"
            f" at most {LARGEST_DIFFERENCE:g}; this is a fault of the versions of torch and onnxruntime, try others"
        )
    write_atomically(path, lambda out: out.write(content))
    return difference


def _difference(session: Any, network: nn.Module, size: tuple[int, int]) -> float:
    picture = torch.rand(1, 3, size[1], size[0], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(picture)
    (found,) = session.run(["descriptors"], {"picture": picture.numpy()})
    return float((torch.from_numpy(found) - expected).abs().max())


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "an ONNX file is checked with onnxruntime, which is not installed: pip install 'rayprior[masks]'"
        ) from None
    return onnxruntime
