"""`rayprior view` and `train --watch`: what opens a page, and which model it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rayprior.errors import UserError
from rayprior.evaluation.pictures import Renders
from rayprior.kernels.threads import set_threads
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Scene
from rayprior.training.describer import Describer
from rayprior.training.fit import cores, device_named
from rayprior.training.loop import Progress
from rayprior.training.refining import RefinerRun
from rayprior.training.run import Run, is_run
from rayprior.training.tasks import scene_for
from rayprior.viewer.page import PORT, Page


def _print(text: str) -> None:
    print(text, flush=True)  # whoever reads a pipe wants the address before the end


def view(
    target: str,
    *,
    port: int = PORT,
    refiner: Path | None = None,
    describer: Path | None = None,
    threads: int | None = None,
    device: str = "auto",
    say: Callable[[str], None] = _print,
) -> None:
    """Show a run's field with its capture, or a capture alone, until Ctrl-C. `say` is told the page's address.

    refiner    of the run: its colours are shown instead of the field's
    describer  by whose descriptors a picked point is found again in the view

    UserError for what is neither, a run without a checkpoint, viser missing, a port that is taken.
    """
    set_threads(threads or cores())
    if is_run(Path(target)):
        run = Run.open(Path(target))
        model = run.model.to(device_named(device))
        scene = scene_for(run.recipe, run.reopen())
        of = None if refiner is None else RefinerRun.open(refiner, run).at_any_size(scene)
        page = Page(scene, port=port, folder=run.path, about=str(run.path))
        if describer is not None:
            page.find_again(Describer.open(describer).describe)
        page.show(model if of is None else of)
    elif refiner is not None:
        raise UserError(f"--refiner {refiner}: {target} is a capture, and a refiner is of a run; leave it out")
    elif describer is not None:
        raise UserError(f"--describer {describer}: {target} is a capture, and only a run's pictures are described here")
    else:
        page = Page(load_scene(target), port=port)
    say(f"{page.url}  (Ctrl-C ends it)")
    page.serve()
    page.close()


@dataclass
class Watch:
    """`train --watch`: called with the scene before the training, it opens a page and returns what every step is told;
    `stay` shows the result until Ctrl-C."""

    port: int = PORT
    say: Callable[[str], None] = _print
    page: Page | None = field(default=None, init=False)

    def __call__(self, scene: Scene) -> Callable[[Renders, Progress], None]:
        self.page = Page(scene, port=self.port)
        self.say(f"watch it at {self.page.url}")
        return self.page.follow

    def stay(self) -> None:
        """Go on showing what was trained."""
        if self.page is None or self.page.painter is None:
            return
        self.say(f"still at {self.page.url}  (Ctrl-C ends it)")
        self.page.serve()
        self.page.close()
