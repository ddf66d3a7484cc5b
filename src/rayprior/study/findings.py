"""Findings and tables of a study, in words, as Markdown, as JSON and as sections of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape

from rayprior.study.statistics import Interval

Table = tuple[str, list[str], list[list[str]]]  # title, heads, rows


@dataclass(frozen=True)
class Finding:
    """A claim and what became of it. said: its sentence; gains: the intervals that decide, by name, positive where the
    claim holds; reasons: why it is not shown."""

    text: str
    shown: bool
    said: str
    gains: Mapping[str, Interval] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The verdict."""
        return "shown" if self.shown else "not shown"

    @property
    def sentence(self) -> str:
        """What was found, and why it is not shown where it is not."""
        return f"{self.said} Why not: {'; '.join(self.reasons)}." if self.reasons else self.said


def as_markdown(
    name: str, about: str, findings: Sequence[Finding], tables: Sequence[Table], notes: Sequence[str], rule: str
) -> str:
    """table.md: the claims, the tables, what failed, and the rule that judged."""
    parts = [f"# {name}", about]
    if findings:
        parts.append("\n".join(f"- **{found.word}**: {found.text}. {found.sentence}" for found in findings))
    for title, heads, lines in tables:
        cells = [heads, ["---"] * len(heads), *lines]
        parts.append(f"## {title}\n" + "\n".join(f"| {' | '.join(row)} |" for row in cells))
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join([*filter(None, parts), rule]) + "\n"


def as_values(
    name: str, findings: Sequence[Finding], tables: Sequence[Table], notes: Sequence[str], rule: str
) -> dict[str, object]:
    """summary.json, before it is made strict."""
    return {
        "name": name,
        "rule": rule,
        "findings": [{**asdict(found), "verdict": found.word} for found in findings],
        "tables": [{"title": title, "heads": heads, "rows": lines} for title, heads, lines in tables],
        "notes": list(notes),
    }


def as_text(findings: Sequence[Finding], tables: Sequence[Table]) -> str:
    """For a terminal: tables with even columns, then the claims."""
    parts = []
    for title, heads, lines in tables:
        widths = [max(len(row[i]) for row in (heads, *lines)) for i in range(len(heads))]
        shown = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (heads, *lines))
        parts.append(title + "\n" + "\n".join(shown))
    parts += [f"{found.word}: {found.text}\n  {found.sentence}" for found in findings]
    return "\n\n".join(parts)


# -- sections of a page ------------------------------------------------------------------------------------------------


def claims_section(findings: Sequence[Finding]) -> str:
    """Empty where nothing was claimed; so below."""
    if not findings:
        return ""
    items = "".join(
        f"<dt><b>{found.word}</b></dt>"
        f'<dd>{escape(found.text)}<br><span class="soft">{escape(found.sentence)}</span></dd>'
        for found in findings
    )
    return f'<section><h2>Claims</h2><dl class="protocol">{items}</dl></section>'


def table_section(table: Table) -> str:
    """One table under its title."""
    title, heads, lines = table
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in lines)
    return (
        f'<section><h2>{escape(title)}</h2><div class="table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def failed_section(notes: Sequence[str]) -> str:
    """What failed, one line each."""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>Failed</h2><ul>{items}</ul></section>" if notes else ""
