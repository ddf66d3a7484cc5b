"""`methods` and `priors`: what there is."""

from __future__ import annotations

from rich.table import Table

from rayprior.methods import METHODS
from rayprior.priors import TERMS
from rayprior.priors.spec import options_text
from rayprior.training.recipe import Expects
from rayprior.verbs.terminal import console


def show_methods() -> None:
    """A table of the recipes."""
    table = Table("recipe", "what it is", "terms", "expects")
    for name, recipe in METHODS.items():
        expects = recipe.expects
        number = (
            f"{expects.metric} {expects.value:g} on {expects.protocol} [{expects.mark}]"
            if isinstance(expects, Expects)
            else "-"
        )
        table.add_row(name, recipe.about, ", ".join(recipe.terms), number)
    console.print(table)


def show_priors() -> None:
    """A table of the built-in priors and their options."""
    table = Table("prior", "what it judges", "options")
    for name, term in TERMS.items():
        table.add_row(name, (term.__doc__ or "").strip().split("\n")[0], options_text(term))
    console.print(table)
    console.print("your own: --prior FILE.py:CLASS:option=value (examples/own_prior.py)")
