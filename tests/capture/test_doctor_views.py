"""Two views, exactly: epipolar distance, triangulation, parallax, conventions, and whom to blame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rayprior.capture.doctor.distances import triangulate
from rayprior.capture.doctor.epipolar import (
    Matches,
    conventions,
    epipolar_px,
    in_front,
    inverted,
    parallax_px,
    triangulated,
    turns,
)
from rayprior.capture.doctor.matching import worst_first
from rayprior.capture.doctor.poses import Evidence
from rayprior.maths.poses import look_at
from rayprior.scenes.cameras import Cameras


@pytest.fixture(scope="module")
def exact() -> tuple[Cameras, Matches]:
    """Points seen by five cameras that stand and look differently, without noise."""
    g = torch.Generator().manual_seed(2)
    points = torch.rand(40, 3, generator=g).double() - 0.5
    origins = torch.tensor([[3, 0, 0.5], [2.5, 1.5, 1.0], [2.0, 2.2, 0.2], [0.5, 3, 1.2], [2.8, 0.8, 2.0]]).double()
    c2w = look_at(origins, 0.2 * torch.rand(5, 3, generator=g).double(), torch.tensor([0.1, 0.2, 1.0]).double())
    shape = torch.full((5, 2), 400)
    cameras = Cameras(c2w, torch.full((5, 2), 500.0).double(), shape.double() / 2, shape)
    pair = torch.tensor([[0, 1], [1, 2], [2, 3], [0, 4], [1, 4], [3, 4], [0, 2]])
    seen = torch.stack([cameras.project(points, torch.full((40,), i))[0] for i in range(5)])
    return cameras, Matches(pair, seen[pair], torch.full((len(pair),), 40))


def test_exact_matches_lie_on_their_lines_and_meet_in_front(exact: tuple[Cameras, Matches]):
    cameras, matches = exact
    evidence = Evidence.of(tuple("abcde"), cameras, matches)
    assert evidence.error_px() < 1e-9
    assert evidence.fit() == 1
    known = triangulate(evidence)
    pixel, distance, _ = cameras.project(known.position, known.camera)
    torch.testing.assert_close(pixel, known.at * 400)
    torch.testing.assert_close(distance, known.distance)


def test_epipolar_distance_is_the_distance_between_rows_of_a_stereo_pair():
    """Two cameras side by side: lines are rows, a match v rows off is v pixels off, to both sides."""
    c2w = torch.eye(3, 4).double().repeat(2, 1, 1)
    c2w[1, 0, 3] = 1.0
    xy = torch.tensor([[[[0.1, 0.2], [0.0, 0.0]], [[-0.1, 0.2], [-0.3, 0.004]]]]).double()
    pair, focal = torch.tensor([[0, 1]]), torch.tensor([500.0, 500.0]).double()
    torch.testing.assert_close(epipolar_px(c2w, focal, pair, xy), torch.tensor([[0.0, 2.0]]).double())
    distance, sine = triangulated(c2w, pair, xy[:, :, :1])
    torch.testing.assert_close(distance[0, 0], 5 * torch.tensor([1.05, 1.05]).double().sqrt())
    assert bool(in_front(distance, sine).all())
    assert epipolar_px(c2w[:1].repeat(2, 1, 1), focal, pair, xy).isnan().all()


def test_what_a_rotation_explains_has_no_parallax(exact: tuple[Cameras, Matches]):
    cameras, _ = exact
    turned_only = replace(cameras, c2w=torch.cat([cameras.c2w[:, :, :3], cameras.c2w[:1, :, 3:].expand(5, 3, 1)], 2))
    far = cameras.origins[:1] + 5 * torch.nn.functional.normalize(turned_only.forward[[0, 1]].mean(0, True), dim=1)
    points = far + 0.5 * torch.rand(30, 3, generator=torch.Generator().manual_seed(3)).double()
    pair = torch.tensor([[0, 1]])
    seen = torch.stack([turned_only.project(points, torch.full((30,), i))[0] for i in (0, 1)])[None]
    still = Evidence.of(("a", "b"), turned_only, Matches(pair, seen, torch.tensor([30])))
    assert float(parallax_px(still.focal_px, pair, still.xy)) < 1e-6
    moving = Evidence.of(tuple("abcde"), *exact)
    assert float(parallax_px(moving.focal_px, moving.matches.pair, moving.xy).min()) > 2


def test_every_convention_is_told_from_the_others(exact: tuple[Cameras, Matches]):
    """Poses stored with turned camera axes, as world-to-camera, or both, fit under exactly one meaning."""
    cameras, matches = exact
    assert len(turns()) == 24
    for stored in (inverted(cameras.c2w), cameras.c2w):
        for turn in turns()[1:8]:
            poses = torch.cat([stored[:, :, :3] @ turn, stored[:, :, 3:]], dim=2)
            if stored is not cameras.c2w:
                poses = inverted(torch.cat([cameras.c2w[:, :, :3] @ turn.T, cameras.c2w[:, :, 3:]], dim=2))
            evidence = Evidence.of(tuple("abcde"), replace(cameras, c2w=poses), matches)
            fits = {meaning.says for meaning in conventions(poses) if evidence.fit(meaning.c2w) > 0.95}
            assert len(fits) == 1, fits


def test_the_worst_camera_is_taken_out_before_its_partners_are_blamed():
    pair = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [1, 3]])
    error = np.array([0.2, 9.0, 8.0, 0.1, 0.3])
    assert worst_first(pair, error, limit=1.0, fewest=2) == {2: 8.5}
    assert worst_first(pair, np.full(5, 0.1), limit=1.0, fewest=2) == {}
