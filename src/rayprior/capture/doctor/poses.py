"""Checks of stored cameras against matched features: axes, conventions, focal length, single wrong poses, parallax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayprior.capture.doctor.epipolar import (
    Convention,
    Matches,
    conventions,
    epipolar_px,
    in_front,
    parallax_px,
    triangulated,
    undistorted,
)
from rayprior.capture.doctor.findings import Finding, some
from rayprior.capture.doctor.matching import worst_first
from rayprior.scenes.cameras import Cameras

FINE = 0.003  # of the longer side, at least FINE_PX: the epipolar error of poses that will do
FINE_PX = 0.5
BROKEN = 3.0  # times that: poses that will not
FITS = 0.55  # share of matches within 2 x fine and ahead of both cameras, from which on a convention fits
SIMPLER = 0.05  # share of matches more that a less simple explanation must fit
MENDS = 0.5  # of the error is what another convention must leave at most
FEWEST_PAIRS = 5
FACTORS = torch.logspace(-1.35, 1.35, 109, base=2.0, dtype=torch.float64)  # of the focal length, steps of 1.7 %
COARSE = (0.5, 0.71, 1.0, 1.41, 2.0)  # tried with each convention
FOCAL_OFF = 0.02  # relative, below which a better focal length is not worth a word
FOCAL_WRONG = 1.4  # a factor that makes a capture unusable, however well narrow views hide it
FOCAL_MENDS, FOCAL_SHARE = 0.7, 0.8  # of the error, what it must leave at most, and of the pairs, how many it mends
ALONE = 5.0  # times the usual error, and BROKEN / 2: what makes a pose of its own wrong
MOSTLY = 0.4  # share of matches that must fit before single poses are blamed
MOST_ALONE = 0.3  # share of the cameras from which on it is no longer a matter of single poses
TURNED_ONLY = 0.002  # of the longer side: parallax of the better pairs below which cameras only turned
NEAREST_DEG = 45.0  # between neighbours, seen from what they look at, above which views hardly overlap
LINE = 0.02  # second extent of the camera centres over the first, below which they stand on a line


@dataclass(frozen=True, eq=False)
class Evidence:
    """Matches with the cameras that took them: for photos as they are, in the capture's unit.

    xy  (p, 2, k, 2): undistorted, on the plane z = 1
    """

    names: tuple[str, ...]
    cameras: Cameras
    matches: Matches
    xy: Float[Tensor, "p 2 k 2"]

    @staticmethod
    def of(names: tuple[str, ...], cameras: Cameras, matches: Matches) -> Evidence:
        return Evidence(names, cameras, matches, undistorted(cameras, matches))

    @property
    def focal_px(self) -> Float[Tensor, "n"]:
        return self.cameras.focal_px.mean(dim=1)

    @property
    def side_px(self) -> float:
        """Median of the longer sides."""
        return float(self.cameras.size.double().amax(dim=1).median())

    @property
    def fine_px(self) -> float:
        """The epipolar error that poses may have."""
        return max(FINE_PX, FINE * self.side_px)

    def errors_px(self, c2w: Tensor | None = None, factor: float = 1.0) -> Float[Tensor, "p"]:
        """The median epipolar error of each pair, with other poses, or focal lengths `factor` times as long."""
        return self.all_px(self.cameras.c2w if c2w is None else c2w, factor).nanmedian(dim=1).values

    def error_px(self, c2w: Tensor | None = None, factor: float = 1.0) -> float:
        """The median over the pairs."""
        return float(self.errors_px(c2w, factor).nanmedian())

    def fit(self, c2w: Tensor | None = None, factor: float = 1.0) -> float:
        """Share of matches that lie within 2 x fine of their epipolar lines, and ahead of both cameras."""
        poses = self.cameras.c2w if c2w is None else c2w
        close = self.all_px(poses, factor) < 2 * self.fine_px
        return float((close & in_front(*triangulated(poses, self.matches.pair, self.xy / factor))).double().mean())

    def all_px(self, c2w: Tensor, factor: float = 1.0) -> Float[Tensor, "p k"]:
        """The epipolar error of each match."""
        return epipolar_px(c2w, self.focal_px * factor, self.matches.pair, self.xy / factor)

    def without(self, cameras: Sequence[int]) -> Evidence:
        """Without the pairs of these cameras."""
        kept = ~torch.isin(self.matches.pair, torch.tensor(list(cameras))).any(dim=1)
        return replace(self, matches=self.matches[kept], xy=self.xy[kept])


def check_poses(evidence: Evidence) -> tuple[list[Finding], str]:
    """Whether the stored cameras agree with the matches; if not, which change of convention would make them."""
    error, fine = evidence.error_px(), evidence.fine_px
    close = float((evidence.all_px(evidence.cameras.c2w) < 2 * fine).double().mean())
    fact = f"{error:.2f} px (median of {len(evidence.matches)} pairs), {close:.0%} of matches within {2 * fine:.1f} px"
    focal = _focal(evidence)
    mended = evidence if focal is None else _zoomed(evidence, float(focal.evidence["factor"]))
    wrong = _wrong_alone(mended) if mended.fit() > MOSTLY else []
    rest = mended.without(wrong)
    if len(rest.matches) < FEWEST_PAIRS:
        wrong, rest = [], mended
    findings = _alone(mended, wrong, rest) if wrong else []
    if focal is not None:
        return [*findings, focal], fact
    error = rest.error_px()
    if error <= fine:
        return findings, fact
    other = _other_meaning(rest)
    if other is not None:
        return [other], fact
    broken = error > BROKEN * fine
    says = f"stored poses do not fit the photos: epipolar error {error:.1f} px, expected below {fine:.1f} px; no other"
    finding = Finding(
        "poses",
        "unusable" if broken else "doubtful",
        f"{says} convention, focal length or size fits",
        "check that poses belong to these photos, in this order, or estimate them anew (rayprior capture)",
        {"epipolar_px": round(error, 3), "fine_px": round(fine, 3), "pairs": len(rest.matches)},
    )
    return [*findings, finding], fact


# -- conventions -------------------------------------------------------------------------------------------------------


def _other_meaning(evidence: Evidence) -> Finding | None:
    """The change of convention under which most matches fit; None where none does so."""
    error, fit = evidence.error_px(), evidence.fit()
    best = None
    for found in _meanings(evidence):
        if best is None or found[0] > best[0] + SIMPLER:
            best = found
    if best is None or best[0] < max(FITS, 1.25 * fit):
        return None
    share, check, says, mended, remedy = best
    left = mended.error_px()
    if left > MENDS * error:
        return None
    fine = evidence.fine_px
    return Finding(
        check,
        "unusable" if error > BROKEN * fine or share > 2 * fit else "doubtful",
        f"{says}: epipolar error {error:.1f} px as stored, {left:.2f} px so",
        remedy,
        {
            "epipolar_px": round(error, 3),
            "epipolar_px_mended": round(left, 3),
            "fit": round(fit, 3),
            "fit_mended": round(share, 3),
            "fine_px": round(fine, 3),
        },
    )


def _meanings(evidence: Evidence) -> Iterator[tuple[float, str, str, Evidence, str]]:
    """(share that fits, check, what it says, the evidence under it, remedy), each kind's best; simpler kinds first."""
    for mended, says, remedy in _sizes(evidence):
        yield mended.fit(), "size", says, mended, remedy
    found: tuple[float, Convention, float] | None = None
    thin = replace(evidence, xy=evidence.xy[:, :, ::3])  # a third of the matches tells as much, three times as fast
    for factor in (1.0, *(f for f in COARSE if f != 1.0)):
        for meaning in conventions(evidence.cameras.c2w):
            share = thin.fit(meaning.c2w, factor)
            if found is None or share > found[0] + SIMPLER:
                found = share, meaning, factor
        if found is not None and found[0] >= FITS:
            break  # the focal lengths are as stated, or as good as that
    assert found is not None
    share, meaning, factor = found
    if meaning.says == "as stored":
        return
    mended = _zoomed(replace(evidence, cameras=replace(evidence.cameras, c2w=meaning.c2w)), factor)
    share = mended.fit()
    says = meaning.says + ("" if factor == 1.0 else f"; and focal lengths are about {factor:g} x as long")
    yield share, "convention", says, mended, "convert the poses so, and write the description anew"


def _sizes(evidence: Evidence) -> Iterator[tuple[Evidence, str, str]]:
    """Intrinsics of another size than the photos have, which the principal point tells; or a wrong principal point."""
    cameras = evidence.cameras
    half = cameras.size.double() / 2
    ratio = half / cameras.centre_px.clamp_min(1e-6)
    factor = float(ratio.median())
    middle = bool(((cameras.centre_px - half).abs() < 0.02 * half).all())
    if middle:
        return
    if abs(factor - 1) > 0.05 and bool(((ratio / factor - 1).abs() < 0.15).double().mean() > 0.9):
        scaled = replace(cameras, focal_px=cameras.focal_px * factor, centre_px=cameras.centre_px * factor)
        meant = (cameras.size[0] / factor).round().long().tolist()
        is_now = "x".join(map(str, cameras.size[0].tolist()))
        says = f"intrinsics are for pictures of about {meant[0]}x{meant[1]}, the photos are {is_now}"
        remedy = f"multiply focal lengths and principal point by {factor:.4g}, or state the size they are for (w, h)"
        yield Evidence.of(evidence.names, scaled, evidence.matches), says, remedy
    centred = replace(cameras, centre_px=half)
    says = "the principal point is off: in the middle of the pictures it fits"
    yield Evidence.of(evidence.names, centred, evidence.matches), says, "set cx, cy to half the width and height"


def _zoomed(evidence: Evidence, factor: float) -> Evidence:
    cameras = replace(evidence.cameras, focal_px=evidence.cameras.focal_px * factor)
    return replace(evidence, cameras=cameras, xy=evidence.xy / factor)


def _focal(evidence: Evidence) -> Finding | None:
    """Another focal length, where it makes the matches fit clearly better."""
    error = evidence.error_px()
    errors = torch.tensor([evidence.error_px(factor=float(factor)) for factor in FACTORS])
    at = int(errors.argmin())
    factor, left, fine = float(FACTORS[at]), float(errors[at]), evidence.fine_px
    inside = 0 < at < len(FACTORS) - 1
    if not (inside and left < min(FOCAL_MENDS * error, 2 * fine) and abs(factor - 1) > FOCAL_OFF):
        return None
    if float((evidence.errors_px(factor=factor) < evidence.errors_px()).double().mean()) < FOCAL_SHARE:
        return None
    stated = float(evidence.focal_px.median())
    return Finding(
        "focal",
        "unusable" if error > BROKEN * fine or abs(log(factor)) > log(FOCAL_WRONG) else "doubtful",
        f"focal lengths of about {factor:.3g} x the stated ones fit better: {stated * factor:.0f} px for {stated:.0f}"
        f" px; epipolar error {error:.2f} px as stated, {left:.2f} px so",
        "correct the focal length (was it meant for another size, or for the other camera of a pair?), or estimate"
        " the cameras anew (rayprior capture)",
        {
            "factor": round(factor, 4),
            "focal_px": round(stated, 3),
            "epipolar_px": round(error, 3),
            "epipolar_px_mended": round(left, 3),
        },
    )


# -- single poses ------------------------------------------------------------------------------------------------------


def _wrong_alone(evidence: Evidence) -> list[int]:
    """Cameras that do not fit their partners, while these fit each other."""
    errors, pair = evidence.errors_px().numpy(), evidence.matches.pair.numpy()
    limit = max(ALONE * float(np.nanmedian(errors)), BROKEN / 2 * evidence.fine_px)
    wrong = list(worst_first(pair, errors, limit, fewest=2))
    return wrong if len(wrong) <= MOST_ALONE * len(np.unique(pair)) else []


def _alone(evidence: Evidence, wrong: list[int], rest: Evidence) -> list[Finding]:
    errors = evidence.errors_px()
    of = {i: float(errors[(evidence.matches.pair == i).any(dim=1)].nanmedian()) for i in wrong}
    named = tuple(evidence.names[i] for i in sorted(wrong, key=lambda i: -of[i]))
    worst, usual = max(of.values()), rest.error_px()
    angle = np.rad2deg(worst / float(evidence.focal_px.median()))
    says = f"{len(wrong)} of {len(evidence.names)} poses do not fit the others: {some(named)}; epipolar error"
    finding = Finding(
        "poses",
        "doubtful",
        f"{says} {worst:.1f} px (as a turn by {angle:.1f} degrees or more), {usual:.2f} px among the others",
        "take these photos out, or estimate the cameras anew (rayprior capture)",
        {"wrong": len(wrong), "epipolar_px_worst": round(worst, 3), "epipolar_px": round(usual, 3)},
        named,
    )
    return [finding]


# -- how the cameras moved ---------------------------------------------------------------------------------------------


def check_motion(evidence: Evidence) -> tuple[list[Finding], str]:
    """Whether the photos were taken from different places at all, by the matches alone."""
    parallax = parallax_px(evidence.focal_px, evidence.matches.pair, evidence.xy)
    better = float(torch.quantile(parallax, 0.9))
    fact = f"parallax {better:.1f} px (of the better pairs)"
    limit = TURNED_ONLY * evidence.side_px
    if better >= limit:
        return [], fact
    finding = Finding(
        "motion",
        "unusable",
        f"the camera only turned: a rotation explains the matches to {better:.2f} px; parallax below {limit:.1f} px"
        " tells no distance",
        "take photos from different places, walking around the subject",
        {"parallax_px": round(better, 3), "limit_px": round(limit, 3)},
    )
    return [finding], fact


def check_places(cameras: Cameras, focus: Float[Tensor, "3"], inward: bool) -> tuple[list[Finding], str]:
    """Where the stored cameras stand: at one place, on a line, too far from each other."""
    centres = cameras.origins
    offset = centres - centres.mean(dim=0)
    extent = torch.linalg.svdvals(offset) / len(centres) ** 0.5
    scale = float((centres - focus).norm(dim=1).median())
    if float(extent[0]) < 1e-6 * max(1.0, float(centres.abs().max())):
        says = "all stored cameras stand at one place, up to rounding: without baselines nothing tells distance"
        remedy = "take photos from different places, or estimate the cameras anew (rayprior capture)"
        return [Finding("motion", "unusable", says, remedy, {"extent": float(extent[0])})], says
    findings = []
    words = [f"extent {float(extent[0]):.3g} of the capture's unit"]
    if float(extent[1]) < LINE * float(extent[0]) and len(centres) > 2:
        says = f"all cameras stand on a line (to {float(extent[1] / extent[0]):.1%} of its length)"
        remedy = "views from above and below the line would show more; unseen directions stay vague"
        findings.append(Finding("motion", "note", says, remedy, {"line": round(float(extent[1] / extent[0]), 5)}))
    if inward and scale > 0:
        ray = torch.nn.functional.normalize(centres - focus, dim=1)
        cosine = (ray @ ray.T).fill_diagonal_(-1.0)
        nearest = torch.rad2deg(cosine.amax(dim=1).clamp(-1, 1).arccos())
        between = float(nearest.median())
        words.append(f"neighbours {between:.1f} degrees apart (median), seen from what they look at")
        if between > NEAREST_DEG:
            says = f"neighbouring views are {between:.0f} degrees apart (median): they hardly show the same"
            remedy = f"take more photos: 5 to 15 degrees apart is good, {NEAREST_DEG:.0f} is the end of matching"
            findings.append(Finding("overlap", "doubtful", says, remedy, {"nearest_deg": round(between, 2)}))
    return findings, ", ".join(words)


def partners(count: int, matches: Matches) -> Int[Tensor, "n"]:
    """With how many others each photo shares matches."""
    return matches.pair.reshape(-1).bincount(minlength=count)


def check_overlap(names: Sequence[str], features: Sequence[int], matches: Matches) -> tuple[list[Finding], str]:
    """Photos that match none of the neighbours they were compared with."""
    linked = partners(len(names), matches)
    alone = tuple(name for name, links in zip(names, linked.tolist()) if links == 0)
    fact = f"{len(matches)} pairs of {len(names)} photos share features, {float(linked.double().mean()):.1f} a photo"
    if not alone:
        return [], fact
    poor = f"; {int(np.median(features))} features a photo (median)"
    finding = Finding(
        "overlap",
        "doubtful" if len(alone) > 0.2 * len(names) else "note",
        f"{len(alone)} of {len(names)} photos share features with no neighbour: {some(alone)}{poor}",
        "their poses could not be checked; photos closer to each other, or more texture, would help",
        {"alone": len(alone), "photos": len(names), "features": int(np.median(features))},
        alone,
    )
    return [finding], fact
