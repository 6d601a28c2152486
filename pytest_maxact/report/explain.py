"""Where the sites of a model are and how each was found, in 80 columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from pytest_maxact.record import Site
from pytest_maxact.report.terminal import WIDTH, wrapped

INDENT = 30


class Row(NamedTuple):
    """One site: what is read there, and the rule by which it was found."""

    site: Site
    where: str
    rule: str


def explain_lines(model: str, rows: Sequence[Row], notes: Sequence[str]) -> list[str]:
    """A line for each kind of site, those of layers that are alike together, and then what is unusual."""
    kinds: dict[tuple[str, str, str], list[int | None]] = {}
    for row in rows:
        kinds.setdefault((row.site.component, _anywhere(row), row.rule), []).append(row.site.layer)
    lines = [*wrapped(model), f"{'site':<17}{'layers':<13}read from, and why"]
    for (component, where, rule), layers in kinds.items():
        said = wrapped(f"{where}: {rule}", width=WIDTH - INDENT)
        head = component if len(component) < 17 else f"{component} "
        first = f"{head:<17}{span(layers):<13}"
        if len(first) > INDENT:
            lines.append(first.rstrip())
            first = " " * INDENT
        lines += [first + said[0], *(" " * INDENT + line for line in said[1:])]
    recorded = list(dict.fromkeys(row.site.component.partition(":")[0] for row in rows if not row.site.part_of_m))
    if recorded:
        lines += wrapped(f"recorded, and no part of M: {', '.join(recorded)}")
    for note in notes:
        lines += wrapped(note, hanging="  ")
    return lines


def span(layers: Sequence[int | None]) -> str:
    """Numbers of layers as ranges: `0-3, 8`; nothing for what a model has once."""
    runs: list[list[int]] = []
    for layer in sorted(layer for layer in layers if layer is not None):
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _anywhere(row: Row) -> str:
    """The place, with the layer's number left out."""
    return row.where if row.site.layer is None else re.sub(rf"\.{row.site.layer}(?=\.|$|,|\[| )", ".*", row.where)
