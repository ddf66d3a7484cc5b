"""What the doctor finds: a finding with its grade, evidence and remedy, and the report that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rayprior.plain import to_plain

Grade = Literal["note", "doubtful", "unusable"]
Verdict = Literal["usable", "doubtful", "unusable"]
GRADES: tuple[Grade, ...] = ("note", "doubtful", "unusable")
EXIT: dict[Verdict, int] = {"usable": 0, "doubtful": 3, "unusable": 4}
SHOWN = 4  # names in a sentence

Evidence = Mapping[str, float | int | str]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing, about a capture.

    check     what was looked at: 'poses', 'focal', 'depth', ...
    grade     'note': training will do; 'doubtful': it may disappoint; 'unusable': it can't work
    says      one sentence, with the numbers that tell
    remedy    what to do, one sentence
    evidence  the same numbers by name, for programs; lengths in the capture's unit, px of the photos as they are
    frames    the views that it is about; empty: all
    """

    check: str
    grade: Grade
    says: str
    remedy: str = ""
    evidence: Evidence = field(default_factory=dict)
    frames: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All that was found.

    facts    what was measured and is as it should be, by name
    skipped  checks that could not be made, each with the reason
    """

    scene: str
    format: str
    findings: tuple[Finding, ...]
    facts: Mapping[str, str]
    skipped: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst grade of a finding; a note leaves a capture usable."""
        worst = max((GRADES.index(finding.grade) for finding in self.findings), default=0)
        return ("usable", "doubtful", "unusable")[worst]

    @property
    def exit_status(self) -> int:
        """0 usable, 3 doubtful, 4 unusable."""
        return EXIT[self.verdict]

    def to_plain(self) -> dict[str, Any]:
        """For JSON: verdict and exit status first."""
        return {"verdict": self.verdict, "exit_status": self.exit_status, **to_plain(self)}


def some(names: tuple[str, ...] | list[str]) -> str:
    """The first few names, for a sentence."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
