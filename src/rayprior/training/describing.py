"""Describing: how a network learns descriptors from photographs and matching pixels, whoever found these.

Dense Object Nets (Florence et al., CoRL 2018) as NeRF-Supervision trains it (Yen-Chen et al., ICRA 2022): a network
sees two pictures, and what shows the same point is drawn together. Where the matches come from is nobody's business
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rayprior.descriptors.augment import (
    Shown,
    half_turned,
    jittered,
    pasted,
    with_drawn_background,
)
from rayprior.descriptors.losses import Contrastive, HeatMap, InfoNce, Loss, Seen, Triplet, hinge, non_match_loss
from rayprior.descriptors.matching import at
from rayprior.descriptors.non_matches import NonMatching, draw_non_matches
from rayprior.descriptors.photographs import Mode, Photographs, check_mode
from rayprior.errors import UserError, did_you_mean
from rayprior.networks.descriptor import ResNet34, Small
from rayprior.plain import Reader, options
from rayprior.training.tasks import generator_for, load_optimiser

KINDS: dict[type, str] = {
    Small: "small",
    ResNet34: "resnet34",
    Contrastive: "contrastive",
    Triplet: "triplet",
    InfoNce: "info-nce",
    HeatMap: "heat-map",
}
Kind = Literal["within", "different", "pasted"]
T = TypeVar("T")


@dataclass(frozen=True)
class Augmenting:
    """What is done to the pictures of a step; each is drawn for each picture.

    background  the share whose background is replaced, where the scene has masks
    turn        the share that is turned by 180 degrees; it costs accuracy on pictures that are all upright
    colours     how far factors of colours, brightness and contrast are from 1
    """

    background: float = 0.5
    turn: float = 0.0
    colours: float = 0.0

    def __post_init__(self) -> None:
        for f in fields(self):
            if not 0 <= getattr(self, f.name) <= 1:
                raise UserError(f"augment.{f.name}={getattr(self, f.name):g}: expected a share, 0 to 1")


@dataclass(frozen=True)
class Describing:
    """Everything that decides how descriptors are learned from given pairs of pixels.

    net          the network, and with it the descriptor's dimension
    loss         what draws matches together and non-matches apart
    steps        the default budget
    pictures     pairs of pictures of a step
    matches      of a pair of pictures, drawn with replacement
    non_matches  how they are drawn, and how many a match
    augment      what is done to the pictures
    lr, decay, decay_every   of Adam; every so many steps the rate is multiplied by `decay`
    weight_decay             of Adam, as a squared penalty
    """

    net: Small | ResNet34 = field(default_factory=Small)
    loss: Loss = field(default_factory=Contrastive)
    steps: int = 1_500
    pictures: int = 2
    matches: int = 128
    non_matches: NonMatching = field(default_factory=lambda: NonMatching(count=32))
    augment: Augmenting = field(default_factory=Augmenting)
    lr: float = 2e-3
    decay: float = 0.9
    decay_every: int = 100
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("steps", "pictures", "matches", "decay_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected at least 1")
        if not self.lr > 0 or not 0 < self.decay <= 1 or not self.weight_decay >= 0:
            raise UserError(
                f"lr={self.lr:g}, decay={self.decay:g}, weight_decay={self.weight_decay:g}: expected more than 0, more"
                " than 0 and at most 1, and at least 0"
            )

    def lr_at(self, step: int) -> float:
        return self.lr * self.decay ** (step // self.decay_every)


# `dense-object-nets` has the values of that code: one pair of pictures a step, nothing excluded around a match.
DESCRIBERS: dict[str, Describing] = {
    "describer": Describing(),
    "dense-object-nets": Describing(
        net=ResNet34(),
        loss=Contrastive(),
        steps=3_500,
        pictures=1,
        matches=10_000,
        non_matches=NonMatching(count=150, exclude_px=0.0, exclude_share=0.0),
        augment=Augmenting(background=0.5, turn=0.5),
        lr=1e-4,
        decay=0.9,
        decay_every=250,
        weight_decay=1e-4,
    ),
}


def with_setting(how: T, assignment: str) -> T:
    """A value with one of its parts changed: `lr=1e-3`, `net.width=24`, `loss.kind=info-nce` (its defaults).

    UserError names what is not there, with a suggestion.
    """
    path, equals, text = assignment.partition("=")
    where = f"--set {assignment}"
    if not equals or not path.strip():
        raise UserError(f"{where}: expected KEY=VALUE, as in --set lr=1e-3")
    reader = Reader(where, KINDS, fill=True)

    def changed(part: Any, walked: list[str], annotation: Any) -> Any:
        key, rest = walked[0], walked[1:]
        if key == "kind" and type(part) in KINDS:
            return reader.read({"kind": text.strip()}, annotation, path.strip().rpartition(".")[0])
        known = options(type(part))
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'{did_you_mean(key, known)}")
        now, expected = getattr(part, key), known[key].annotation
        if is_dataclass(now):
            if not rest:
                choices = ", ".join(f"{key}.{name}" for name in options(type(now)))
                raise UserError(f"{where}: '{key}' has parts; choices: {choices}")
            value = changed(now, rest, expected)
        elif rest:
            raise UserError(f"{where}: '{key}' has no parts")
        else:
            value = reader.read_text(text.strip(), expected, path.strip())
        try:
            return replace(part, **{key: value})
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    return changed(how, path.strip().split("."), type(how))


# -- the task ----------------------------------------------------------------------------------------------------------


class TrainDescriptors:
    """One step: draw pairs of pictures and of pixels, describe, judge, step. `rays` counts matches and non-matches."""

    def __init__(
        self, how: Describing, photographs: Sequence[Photographs], mode: Mode, seed: int, device: torch.device
    ) -> None:
        """UserError where the photographs are not what the mode needs, and as of the network's `build`."""
        check_mode(mode, photographs)
        self.how, self.photographs, self.mode, self.seed, self.device = how, photographs, mode, seed, device
        torch.manual_seed(seed)
        self.model = how.net.build().to(device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=how.lr, weight_decay=how.weight_decay, fused=True)
        count = how.pictures * how.matches
        self.rays = {"pairs": count, "non-matches": count * how.non_matches.count}
        self._step = 0

    def losses(self, step: int, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """The losses by name, each the mean over pairs of pictures (0 where one has no such loss), and the mean
        squared distance of matches in the space of descriptors (detached)."""
        self._step = step
        return self.judge(step, range(self.how.pictures))

    def judge(self, step: int, numbers: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """The same of some of a step's pairs of pictures."""
        drawn = [self.draw(step, number, self.kind(step, number)) for number in numbers]
        described = self._describe([shown for one in drawn for shown in (one.first, one.second)])
        parts: list[dict[str, Tensor]] = []
        near: list[Tensor] = []
        for number, one, (a, _), (b, b_map) in zip(numbers, drawn, described[::2], described[1::2], strict=True):
            source, target = (at(d, shown.pixel.to(self.device)) for d, shown in ((a, one.first), (b, one.second)))
            if one.kind == "different":
                parts.append({"cross": self._cross(source, target)})
                continue
            seen = self._seen(one, source, target, b, b_map, generator_for(self.seed, step, f"{number}/non-matches"))
            parts.append(self.how.loss.of(seen))
            near.append((source - target).detach().square().sum(dim=1).mean())
        names = dict.fromkeys(name for part in parts for name in part)
        losses = {name: torch.stack([p[name] for p in parts if name in p]).sum() / len(parts) for name in names}
        return losses, torch.stack(near).mean() if near else torch.zeros((), device=self.device)

    def kind(self, step: int, number: int) -> Kind:
        """Of a pair of pictures: where instances are told apart a third each within one scene, of two objects, and
        of two objects in one picture."""
        if self.mode != "instance":
            return "within"
        kinds: tuple[Kind, ...] = ("within", "different", "pasted")
        return kinds[int(torch.randint(3, (1,), generator=generator_for(self.seed, step, f"{number}/kind")))]

    def draw(self, step: int, number: int, kind: Kind) -> Drawn:
        """One pair of pictures of a step, augmented, and its matches."""
        generator = generator_for(self.seed, step, f"{number}/{kind}")
        which = torch.randperm(len(self.photographs), generator=generator)[:2].tolist()
        of, matches = [self.photographs[i] for i in which], self.how.matches
        if kind == "different":
            first, second = (one.draw_object(matches, generator) for one in of)
            weight = torch.ones(matches)
        elif kind == "pasted":
            (a, b, one), (c, d, other) = (photographs.draw(matches // 2 or 1, generator) for photographs in of)
            first, second, weight = pasted(a, c), pasted(b, d), torch.cat([one, other])
        else:
            first, second, weight = of[0].draw(matches, generator)
        first, second = (self.augmented(shown, generator) for shown in (first, second))
        return Drawn(kind, first, second, (weight * (first.valid & second.valid)).float())

    def augmented(self, shown: Shown, generator: Generator) -> Shown:
        how = self.how.augment
        background, turn = (torch.rand(2, generator=generator) < torch.tensor([how.background, how.turn])).tolist()
        if background and shown.mask is not None:
            shown = with_drawn_background(shown, generator)
        if turn:
            shown = half_turned(shown)
        return jittered(shown, how.colours, generator) if how.colours else shown

    def _describe(self, shown: Sequence[Shown]) -> list[tuple[Tensor, Tensor]]:
        """(h w d) and (d i j) at the output stride of each picture; those of one size at once."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for size in dict.fromkeys(one.size for one in shown):
            which = [number for number, one in enumerate(shown) if one.size == size]
            coarse = self.model.coarse(torch.stack([shown[number].picture for number in which]).to(self.device))
            full = self.model.full(coarse, (size[1], size[0]))
            found |= {number: (d.permute(1, 2, 0), c) for number, d, c in zip(which, full, coarse)}
        return [found[number] for number in range(len(shown))]

    def _seen(self, one: Drawn, source: Tensor, target: Tensor, b: Tensor, b_map: Tensor, generator: Generator) -> Seen:
        """What the loss judges of one pair of pictures."""
        shown = one.second
        height, width, dimension = b.shape
        inside, outside = draw_non_matches(shown.pixel, shown.size, shown.mask, self.how.non_matches, generator)
        flat = b.reshape(-1, dimension)

        def others(pixel: Float[Tensor, "m k 2"]) -> Float[Tensor, "m k d"]:
            """Non-matches are pixel centres: nothing is between them."""
            index = pixel[..., 1].long() * width + pixel[..., 0].long()
            return flat.index_select(0, index.flatten().to(self.device)).view(*index.shape, dimension)

        scale = torch.tensor([b_map.shape[2] / width, b_map.shape[1] / height])
        return Seen(
            source=source,
            target=target,
            weight=one.weight.to(self.device),
            masked=others(inside.pixel),
            masked_valid=inside.valid.to(self.device),
            masked_off_px=inside.off_px.to(source),
            background=others(outside.pixel),
            background_valid=outside.valid.to(self.device),
            background_off_px=outside.off_px.to(source),
            map=b_map,
            at=(shown.pixel * scale).to(source),
        )

    def _cross(self, first: Float[Tensor, "m d"], second: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
        """Hinges between pixels of two objects, as they were drawn: a loss of every kind has this one beside it."""
        loss = self.how.loss
        margin, hard = (loss.background, loss.hard) if isinstance(loss, Contrastive) else (Contrastive.background, True)
        apart = hinge(first, second, margin)[:, None]
        return non_match_loss([apart], [torch.ones_like(apart, dtype=torch.bool)], hard=hard)

    def step(self) -> None:
        """Step at the rate of the last `losses`, and forget the gradients."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.how.lr_at(self._step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, object]:
        return {"optimiser": self.optimiser.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """UserError where it is not that of this network."""
        load_optimiser(self.optimiser, state)


@dataclass(frozen=True, eq=False)
class Drawn:
    """One pair of pictures with matching pixels, or, where the kind is 'different', pixels of two objects."""

    kind: Kind
    first: Shown
    second: Shown
    weight: Float[Tensor, "m"]
