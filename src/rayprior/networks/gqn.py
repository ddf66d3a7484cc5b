"""The convolutional rival of a radiance-field decoder: an autoregressive VAE from pictures to pictures (GQN).

Eslami et al., Neural scene representation and rendering (Science 2018). A scene is the sum of what each view's picture
says; a picture of it from another camera is painted by recurrent cores, each with a latent of its own. No ray is traced
and no geometry is kept: what another camera sees must be learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as default
from math import log, pi
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from rayprior.errors import UserError
from rayprior.maths.schedules import Schedule, number

COARSE = 4  # cores work at a quarter of the picture's resolution
LARGEST_LOG_STD = 4.0  # of every latent, either way: neither a KL nor a sample can overflow


class Pictured(Protocol):
    """What is shown, or asked for: views of a batch of scenes. `scenes.family.Views` is one.

    rgb in [0, 1]; origins and unit directions of the pixels' rays and camera-to-world poses (OpenCV), in working units;
    present: False where a view is padding.
    """

    @property
    def rgb(self) -> Float[Tensor, "b v h w 3"]: ...
    @property
    def origins(self) -> Float[Tensor, "b v h w 3"]: ...
    @property
    def directions(self) -> Float[Tensor, "b v h w 3"]: ...
    @property
    def poses(self) -> Float[Tensor, "b v 3 4"]: ...
    @property
    def present(self) -> Bool[Tensor, "b v"]: ...


@dataclass(frozen=True)
class Gqn:
    """An autoregressive VAE over pictures; small beside public ones (12 cores of 128 channels, kernel 5).

    camera          seven: x, y, z, cosine and sine of yaw and pitch (the paper's; it cannot say roll or focal length);
                    rays: maps of ray origins and directions, all that a radiance field is told
    representation  channels of what is known of a scene, at a quarter of the picture's resolution
    cores           recurrent cores, each with weights of its own
    hidden          channels of a core's state
    latent          channels of a core's latent z: cores x latent x (h/4 w/4) numbers a picture
    kernel          side of a core's convolutions, odd
    std             standard deviation of the pixel likelihood, in colour units; a schedule anneals it to the value that
                    all compared models have
    size            (width, height) of all pictures; settled by the family
    """

    camera: Literal["seven", "rays"] = "seven"
    representation: int = 64
    cores: int = 4
    hidden: int = 64
    latent: int = 4
    kernel: int = 3
    std: float | Schedule = default(default_factory=lambda: Schedule(((0.0, 0.5), (0.3, 0.1)), "budget", "log"))
    size: tuple[int, int] | None = None

    def build(self, size: tuple[int, int]) -> GqnModel:
        """size: (width, height) of all pictures, each a multiple of 4 from 16 to 64; UserError otherwise, and where
        `kernel` is even."""
        if self.kernel % 2 == 0:
            raise UserError(
                f"kernel={self.kernel}: a core's convolutions have an odd number of pixels a side, as 3 or 5"
            )
        if not all(16 <= side <= 64 and side % COARSE == 0 for side in size):
            width, height = size
            raise UserError(
                f"pictures of {width}x{height}: the convolutional model takes sides of 16 to 64 pixels that are "
                f"multiples of {COARSE}; make the family anew with --size 32 or --size 64"
            )
        return GqnModel(self, size)


class GqnModel(nn.Module):
    """Represents scenes by the pictures shown, and paints what is asked for.

    `config` may be replaced while training by one with its schedules resolved; only `std` is read after construction.
    """

    def __init__(self, config: Gqn, size: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        self.size = size
        told = 7 if config.camera == "seven" else 6
        known, hidden = config.representation, config.hidden
        self.tower = Tower(told, known)
        self.given = nn.Sequential(
            nn.Conv2d(2 * known + told, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1)
        )
        self.answer = Tower(hidden, hidden)
        self.start = nn.Conv2d(hidden, 2 * hidden, 1)
        self.cores = nn.ModuleList(Core(config) for _ in range(config.cores))
        self.paint = nn.Sequential(nn.Conv2d(hidden // 4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a step is a tenth faster on a CPU

    def represent(self, views: Pictured) -> Float[Tensor, "b c h4 w4"]:
        """What the views that are present say of each scene, summed; their order changes nothing. No view: zeros."""
        present = views.present
        told = _coarse_cameras(self.config.camera, views)[present]
        said = self.tower(_channels_first(views.rgb[present]), told)
        of_view = said.new_zeros(*present.shape, *said.shape[1:])
        of_view[present] = said
        return of_view.sum(dim=1)

    def loss_parts(
        self, r: Float[Tensor, "b c h4 w4"], query: Pictured, generator: Generator
    ) -> tuple[Float[Tensor, "b v"], Float[Tensor, "b v"], Float[Tensor, "b v h w 3"]]:
        """Negative log likelihood and KL of each query picture, in nats, and its mean picture.

        Their sum bounds -ln p(picture | r) from above. All three are the posterior's, which has seen the answer: they
        train, and measure the bound; a picture to be judged is `predict`ed.
        """
        given = self._given(r, query)
        truth = query.rgb.flatten(0, 1)
        answer = self.answer(_channels_first(truth), given)
        rgb, kl = self._painted(given, answer, generator)
        std = number(self.config.std)
        error = (rgb - truth).square().flatten(1).sum(dim=1)
        nll = error / (2 * std**2) + truth[0].numel() * (log(std) + 0.5 * log(2 * pi))
        shape = query.present.shape
        return nll.view(shape), kl.view(shape), rgb.view_as(query.rgb)

    def predict(
        self, r: Float[Tensor, "b c h4 w4"], query: Pictured, generator: Generator | None = None
    ) -> Float[Tensor, "b v h w 3"]:
        """The pictures that the query's cameras would see, from the prior: the query's own pictures are never read.

        generator None: every latent is its prior's mean.
        """
        return self._painted(self._given(r, query), None, generator)[0].view(*query.present.shape, *self._shape)

    def samples(
        self, r: Float[Tensor, "b c h4 w4"], query: Pictured, count: int, generator: Generator
    ) -> Float[Tensor, "n b v h w 3"]:
        """`count` predictions of each query picture, each with latents of its own."""
        given = self._given(r, query).repeat(count, 1, 1, 1)
        return self._painted(given, None, generator)[0].view(count, *query.present.shape, *self._shape)

    @property
    def _shape(self) -> tuple[int, int, int]:
        width, height = self.size
        return height, width, 3

    def _given(self, r: Tensor, query: Pictured) -> Float[Tensor, "bv k h4 w4"]:
        """All that a query may be answered from: the representation, where a thing may lie anywhere in it, and the
        query's camera."""
        told = _coarse_cameras(self.config.camera, query)
        whole = torch.cat([r, r.mean(dim=(2, 3), keepdim=True).expand_as(r)], dim=1)
        each = whole[:, None].expand(-1, told.shape[1], -1, -1, -1)
        return F.relu(self.given(torch.cat([each, told], dim=2).flatten(0, 1)))

    def _painted(
        self, given: Tensor, answer: Tensor | None, generator: Generator | None
    ) -> tuple[Float[Tensor, "n h w 3"], Float[Tensor, "n"]]:
        """The cores in turn: mean picture, and KL of the posterior from the prior (0 where there is no answer)."""
        state, memory = self.start(given).chunk(2, dim=1)
        state = torch.tanh(state)
        canvas = given.new_zeros(())
        kl = given.new_zeros(len(given))
        for core in self.cores:
            assert isinstance(core, Core)
            prior = core.prior(state)
            belief = prior if answer is None else core.posterior(state, answer)
            if answer is not None:
                kl = kl + gaussian_kl(*belief, *prior).flatten(1).sum(dim=1)
            state, memory, stroke = core(state, memory, _drawn(*belief, generator), given)
            canvas = canvas + stroke
        rgb = torch.sigmoid(self.paint(F.pixel_shuffle(canvas, COARSE)))
        return rgb.permute(0, 2, 3, 1), kl


class Tower(nn.Module):
    """A picture to features at a quarter of its resolution, told of something else at that resolution on the way."""

    def __init__(self, told: int, features: int) -> None:
        super().__init__()
        half = max(features // 2, 8)
        self.fine = nn.Conv2d(3, half, 4, stride=2, padding=1)
        self.coarse = nn.Conv2d(half, features, 4, stride=2, padding=1)
        self.mix = nn.Conv2d(features + told, features, 3, padding=1)
        self.out = nn.Conv2d(features, features, 3, padding=1)

    def forward(
        self, picture: Float[Tensor, "n 3 h w"], told: Float[Tensor, "n t h4 w4"]
    ) -> Float[Tensor, "n f h4 w4"]:
        seen = F.relu(self.coarse(F.relu(self.fine(picture))))
        return seen + self.out(F.relu(self.mix(torch.cat([seen, told], dim=1))))


class Core(nn.Module):
    """One recurrent core: prior and posterior of its latent, a convolutional LSTM, and a stroke on the canvas."""

    def __init__(self, config: Gqn) -> None:
        super().__init__()
        hidden, z, kernel = config.hidden, config.latent, config.kernel
        padding = kernel // 2
        self.prior_head = nn.Conv2d(hidden, 2 * z, 3, padding=1)
        self.posterior_head = nn.Conv2d(2 * hidden, 2 * z, 3, padding=1)
        self.gates = nn.Conv2d(2 * hidden + z, 4 * hidden, kernel, padding=padding)
        self.stroke = nn.Conv2d(hidden, hidden // 4 * COARSE**2, 1)

    def prior(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of p(z | state)."""
        return _gaussian(self.prior_head(state))

    def posterior(self, state: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z | state, the query's picture)."""
        return _gaussian(self.posterior_head(torch.cat([state, answer], dim=1)))

    def forward(self, state: Tensor, memory: Tensor, z: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next state and memory, and what is added to the canvas."""
        keep, write, show, what = self.gates(torch.cat([state, given, z], dim=1)).chunk(4, dim=1)
        memory = torch.sigmoid(keep + 1) * memory + torch.sigmoid(write) * torch.tanh(what)
        state = torch.sigmoid(show) * torch.tanh(memory)
        return state, memory, self.stroke(state)


def gaussian_kl(
    mean: Float[Tensor, "*b"],
    log_std: Float[Tensor, "*b"],
    prior_mean: Float[Tensor, "*b"],
    prior_log_std: Float[Tensor, "*b"],
) -> Float[Tensor, "*b"]:
    """KL(N(mean, std^2) || N(prior_mean, prior_std^2)) in nats, each number by itself."""
    log_ratio = log_std - prior_log_std
    distance = (mean - prior_mean) * torch.exp(-prior_log_std)
    return 0.5 * (torch.exp(2 * log_ratio) + distance.square() - 1) - log_ratio


def seven_numbers(poses: Float[Tensor, "*b 3 4"]) -> Float[Tensor, "*b 7"]:
    """Position, and cosine and sine of the viewing direction's yaw about the working z axis and of its pitch.

    A camera that looks straight up or down has no yaw: its cosine and sine are both 0.
    """
    x, y, z = poses[..., :3, 2].unbind(dim=-1)
    level = torch.hypot(x, y)
    flat = level.clamp_min(1e-6)
    return torch.cat([poses[..., 3], torch.stack([x / flat, y / flat, level, z], dim=-1)], dim=-1)


def _coarse_cameras(kind: str, views: Pictured) -> Float[Tensor, "b v t h4 w4"]:
    """What the network is told of each view's camera, at the cores' resolution."""
    b, v, h, w = views.origins.shape[:4]
    if kind == "seven":
        return seven_numbers(views.poses)[..., None, None].expand(b, v, 7, h // COARSE, w // COARSE)
    maps = torch.cat([views.origins, views.directions], dim=-1).flatten(0, 1)
    return F.avg_pool2d(_channels_first(maps), COARSE).unflatten(0, (b, v))


def _channels_first(pictures: Float[Tensor, "n h w c"]) -> Float[Tensor, "n c h w"]:
    """A view; in memory the channels stay last, where convolutions want them."""
    return pictures.permute(0, 3, 1, 2)


def _gaussian(raw: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = raw.chunk(2, dim=1)
    return mean, LARGEST_LOG_STD * torch.tanh(log_std / LARGEST_LOG_STD)


def _drawn(mean: Tensor, log_std: Tensor, generator: Generator | None) -> Tensor:
    """One sample, with the generator's noise; without a generator the mean."""
    if generator is None:
        return mean
    noise = torch.randn(mean.shape, generator=generator, device=generator.device, dtype=mean.dtype)
    return mean + torch.exp(log_std) * noise.to(mean.device)
