"""Where a model stands among the published ones: one line for the summary."""

from __future__ import annotations

from pytest_maxact import published
from pytest_maxact.analyses import int8, nearest, rank, tier
from pytest_maxact.errors import BaselineError, on_one_line
from pytest_maxact.record import Measurement
from pytest_maxact.wording import decibels


def standing(measurement: Measurement) -> str | None:
    """The model's rank by M, the family nearest by trajectory, its tier, and the INT-8 SQNR of its peak site at max-abs.

    M alone misleads: a low one does not mean that a site quantizes well. A model that is itself one of the published, by its
    hub id, is ranked among the others. The line says so where the published figures of this installation cannot be read.

    Returns:
        One line, None where there is no M.

    """
    if measurement.peak is None:
        return None
    site = int8(measurement)
    own = f"tier {tier(measurement)}, INT-8 {decibels(site.maxabs, site.approximate)}"
    try:
        others = {
            name: published.figures(name) for name, model in published.models().items() if model.hub_id != measurement.model.id
        }
    except (BaselineError, OSError, ValueError) as cause:
        return f"{own}; the published figures cannot be read: {on_one_line(cause)}"
    place = rank(measurement.peak.value, (other.peak.value for other in others.values()))
    alike = nearest(measurement, others.values())
    families = {model.hub_id: model.family for model in published.models().values()}
    like = "" if alike is None else f"like {families[alike.model.id]} by depth, "
    return f"published: M {ordinal(place)} of {len(others) + 1}, {like}{own}"


def ordinal(place: int) -> str:
    """A place as in "12th"."""
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"
