"""A plan on the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perceptual_mae.estimate.plan import Figure, Plan, rounded

_STYLES = {"measured": "green", "counted": "cyan", "assumed": "yellow"}


def show(plan: Plan, console: Console) -> None:
    """Print a plan: its numbers, how each is known, and what will not go well."""
    # Text: brackets in the name of a folder are no markup.
    table = Table(title=Text(plan.title, "bold"), title_justify="left", title_style="", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("known by")
    table.add_column("how", style="dim")
    for figure in plan.figures:
        basis = Text(figure.basis, _STYLES[figure.basis])
        table.add_row(Text(figure.name), Text(value(figure)), basis, Text(figure.how))
    console.print(table, highlight=False)
    for warning in plan.warnings:
        console.print(f"! {warning}", style="yellow", highlight=False, markup=False)
    for note in plan.notes:
        console.print(note, style="dim", highlight=False, markup=False)


def value(figure: Figure) -> str:
    """A number, or the two between which it lies, with its unit; times of less than an hour in minutes, or seconds."""
    factor, unit = 1.0, figure.unit
    if unit == "h" and figure.high < 1:
        factor, unit = (60.0, "min") if figure.high >= 1 / 60 else (3600.0, "s")
    low, high = rounded(factor * figure.low), rounded(factor * figure.high)
    return f"{low if low == high else f'{low} .. {high}'} {unit}".rstrip()
