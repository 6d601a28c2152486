"""Where a model stands among the published ones: one line for the summary."""

from __future__ import annotations

from pytest_maxact import published
from pytest_maxact.analyses import int8, nearest, rank, tier
from pytest_maxact.errors import BaselineError, on_one_line
from pytest_maxact.record import Baseline, Measurement
from pytest_maxact.wording import decibels


def standing(measurement: Measurement, baseline: Baseline | None = None) -> str | None:
    """The model's rank by M, the family nearest by trajectory, its tier, and the INT-8 SQNR of its peak site at max-abs.

    M alone misleads: a low one does not mean that a site quantizes well. The line says so where the published figures of this
    installation cannot be read.

    Args:
        measurement: the model's. One that is itself among the published, by its hub id, is ranked among the others.
        baseline: what it was compared with. If that is a published one, it is left out as well: the model is taken for it.

    Returns:
        One line, None where there is no M.

    """
    if measurement.peak is None:
        return None
    site = int8(measurement)
    own = f"tier {tier(measurement)}, INT-8 max-abs {decibels(site.maxabs, site.approximate)}"
    itself = {measurement.model.id}
    if baseline is not None and baseline.provenance is not None:
        itself.add(baseline.model.id)
    try:
        others = {name: published.figures(name) for name, model in published.models().items() if model.hub_id not in itself}
    except (BaselineError, OSError, ValueError) as cause:
        return f"{own}; the published figures cannot be read: {on_one_line(cause)}"
    place = rank(measurement.peak.value, (other.peak.value for other in others.values()))
    alike = nearest(measurement, others.values())
    families = {model.hub_id: model.family for model in published.models().values()}
    like = "" if alike is None else f"like {families[alike.model.id]}, "
    return f"M {ordinal(place)} of {len(others) + 1} published, {like}{own}"


def ordinal(place: int) -> str:
    """A place as in "12th"."""
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"
