"""A plan on the terminal."""

from rich.console import Console
from rich.table import Table

from perceptual_mae.estimate.plan import Figure, Plan, rounded

_STYLES = {"measured": "green", "counted": "cyan", "assumed": "yellow"}


def show(plan: Plan, console: Console) -> None:
    """Print a plan: its numbers, how each is known, and what will not go well."""
    table = Table(title=plan.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("known by")
    table.add_column("how", style="dim")
    for figure in plan.figures:
        table.add_row(figure.name, value(figure), f"[{_STYLES[figure.basis]}]{figure.basis}[/]", figure.how)
    console.print(table, highlight=False)
    for warning in plan.warnings:
        console.print(f"! {warning}", style="yellow", highlight=False, markup=False)
    for note in plan.notes:
        console.print(note, style="dim", highlight=False, markup=False)


def value(figure: Figure) -> str:
    """A number, or the two between which it lies, with its unit."""
    low, high = rounded(figure.low), rounded(figure.high)
    return f"{low if low == high else f'{low} .. {high}'} {figure.unit}".rstrip()
