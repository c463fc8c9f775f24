"""Text tables for the terminal."""

from collections.abc import Sequence, Set


def table(rows: Sequence[tuple[str, ...]], right: Set[int] = frozenset()) -> str:
    """Columns two spaces apart; those whose number is in `right` are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        cells = (text.rjust(widths[i]) if i in right else text.ljust(widths[i]) for i, text in enumerate(row))
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, rows))
