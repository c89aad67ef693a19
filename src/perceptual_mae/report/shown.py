"""Figures that a notebook shows by themselves."""

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A matplotlib figure, made without pyplot and its list of open figures, that is a picture where it is returned.

    Notebooks show plain figures only once pyplot has been imported.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=self.dpi)
        return file.getvalue()
