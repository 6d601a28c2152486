"""What the figures of the sites say about the model: M and its place, dominance, Sun outcome, trajectory. All pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

from pytest_maxact.record import BaselineSite, Dominance, Fault, Peak, Site, SiteFigures, SunOutcome, Trajectory

BFLOAT16_STEP = 2.0**-7
JUMP = 10.0
SHOWN = 6

SomeSite = TypeVar("SomeSite", bound=SiteFigures | BaselineSite)


def within_one_step(value: float, largest: float) -> bool:
    """Whether a value lies less than one bfloat16 step below the largest."""
    return value > (1 - BFLOAT16_STEP) * largest


def times(value: float, reference: float) -> float:
    """How many times the reference a value is, both at least 0: from 0 to more inf, from 0 to 0 one."""
    return value / reference if reference else (math.inf if value else 1.0)


def hidden(sites: Sequence[SomeSite]) -> list[SomeSite]:
    """The `hidden` sites that hold a finite value, by depth."""
    found = [site for site in sites if site.component == "hidden" and math.isfinite(site.value)]
    return sorted(found, key=lambda site: site.layer or 0)


def _finite_part_of_m(sites: Sequence[SiteFigures]) -> list[SiteFigures]:
    return [site for site in sites if site.part_of_m and site.peak is not None]


def plateau(sites: Sequence[SiteFigures]) -> list[int]:
    """The `hidden` layers whose peak is within one bfloat16 step of the largest `hidden` peak."""
    layers = hidden(sites)
    largest = max((site.value for site in layers), default=math.nan)
    return [site.layer for site in layers if site.layer is not None and within_one_step(site.value, largest)]


def peak(sites: Sequence[SiteFigures]) -> Peak | None:
    """M over sites in execution order: of sites that tie, the one executed first. None without a finite value."""
    observed = _finite_part_of_m(sites)
    if not observed:
        return None
    first = max(observed, key=lambda site: site.value)  # the first of equals
    assert first.peak is not None
    ties = [Site(component=s.component, layer=s.layer) for s in observed if s is not first and s.value == first.value]
    return Peak(
        **first.peak.model_dump(),
        component=first.component,
        layer=first.layer,
        value=first.value,
        plateau=plateau(sites),
        ties=ties,
    )


def first_fault(sites: Sequence[SiteFigures]) -> Fault | None:
    """The first NaN or infinity over sites in execution order; None where all is finite, but for a router's -inf."""
    for site in sites:
        if site.fault is not None:
            return Fault(**site.fault.model_dump(), component=site.component, layer=site.layer)
    return None


def dominance(sites: Sequence[SiteFigures]) -> Dominance | None:
    """Which component holds M, and the largest `hidden` peak over the largest of any other component of M."""
    observed = _finite_part_of_m(sites)
    residual = max((site.value for site in observed if site.component == "hidden"), default=None)
    other = max((site.value for site in observed if site.component != "hidden"), default=None)
    if residual is None or other is None:
        return None
    holder = max(observed, key=lambda site: site.value)
    return Dominance(component=holder.component, ratio=times(residual, other))


def sun(sites: Sequence[SiteFigures]) -> SunOutcome | None:
    """The Sun outcome over the `hidden` layers; None where no token could be judged."""
    judged = [(site.layer, site.sun) for site in hidden(sites) if site.sun is not None]
    if not judged:
        return None
    layers = [layer for layer, figures in judged if layer is not None and figures.passing]
    return SunOutcome(passes=bool(layers), layers=layers, margin=max(figures.margin for _, figures in judged))


def trajectory(sites: Sequence[SiteFigures] | Sequence[BaselineSite]) -> Trajectory | None:
    """How the `hidden` peaks grow with depth; None for a single layer.

    The rule: jump-and-plateau where some layer's peak is at least 10 times the one before it, else gradual accumulation.
    Of the 27 checkpoints published with arXiv 2605.15572 the largest step is 17 or more in the Qwen2.5, Qwen2.5-VL,
    Qwen3, Ling and GPT-OSS families, and 5.8 or less in Qwen3.5 and Gemma.
    """
    layers = hidden(sites)
    steps = [times(after.value, before.value) for before, after in itertools.pairwise(layers)]
    if not steps:
        return None
    largest = max(steps)
    return Trajectory(
        pattern="jump-and-plateau" if largest >= JUMP else "gradual accumulation",
        largest_step=largest,
        largest_step_layer=layers[steps.index(largest) + 1].layer or 0,
    )


def unused_experts(sites: Sequence[SiteFigures]) -> list[str]:
    """A line about the experts to which no token was sent, where there are any."""
    idle = {
        site.layer: [expert for expert, tokens in enumerate(site.experts) if not tokens]
        for site in sites
        if site.experts is not None
    }
    count = sum(map(len, idle.values()))
    if not count:
        return []
    total = sum(len(site.experts) for site in sites if site.experts is not None)
    layers = [f"layer {layer}: {_few(experts, ', ')}" for layer, experts in idle.items() if experts]
    return [f"{count:,} of {total:,} experts saw no token, so what they would hold is not known ({_few(layers, '; ')})"]


def _few(things: Sequence[object], between: str) -> str:
    more = [f"and {len(things) - SHOWN} more"] if len(things) > SHOWN else []
    return between.join([*map(str, things[:SHOWN]), *more])
