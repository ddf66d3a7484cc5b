"""TensorBoard event files of a training, beside the JSONL log (extra: log). The only file that imports TensorBoard."""

from __future__ import annotations

from pathlib import Path

from rayprior.errors import UserError
from rayprior.training.run import Run


class Events:
    """Writes the rows of a run's log that it has not written yet."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs the extra 'log': pip install 'rayprior[log]'") from None
        self._open = SummaryWriter
        self._writer = None
        self._step = -1

    def update(self, run: Run) -> None:
        """Bring RUN/tensorboard up to date."""
        if self._writer is None:
            self._writer = self._open(str(Path(run.path) / "tensorboard"))
        for row in run.read_log():
            if row["step"] <= self._step:
                continue
            self._step = row["step"]
            self._writer.add_scalar("psnr/training rays", row["psnr"], row["step"])
            for name, loss in row["losses"].items():
                self._writer.add_scalar(f"loss/{name}", loss, row["step"])
        self._writer.flush()
