"""What a user can mend: one exception, and the suggestion that belongs in its text."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can mend. The text names the file, the value, what was expected and the next step.

    The command line prints it without a traceback and exits with status 2.
    """


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'entropy'?"` where one choice is close to `word`, else the choices."""
    choices = sorted(choices)
    close = get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; choices: {', '.join(choices)}" if choices else ""
