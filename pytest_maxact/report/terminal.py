"""The terminal summary: M and where, what stands around it, and the largest sites, in 80 columns."""

from __future__ import annotations

import textwrap

from pytest_maxact.checks.sun import describe
from pytest_maxact.record import Baseline, Measurement, Site
from pytest_maxact.wording import number, ratio, token_in_context

WIDTH = 80
LARGEST_SITES = 5


def summary(measurement: Measurement, baseline: Baseline | None) -> list[str]:
    """Lines of at most 80 columns about one measurement, beside its baseline where there is one."""
    model, corpus, timing = measurement.model, measurement.corpus, measurement.timing
    lines = _wrapped(
        f"{model.id}: {model.architecture}, {model.layers} layers, {model.dtype} on {measurement.environment.device}; corpus "
        f"{corpus.id}, {corpus.samples:,} samples, {corpus.tokens:,} tokens, {timing.seconds:,.1f} s "
        f"({timing.tokens_per_s:,.0f} tokens/s)"
    )
    peak = measurement.peak
    if peak is None:
        return [*lines, "no site holds a finite value: there is no M", *_notes(measurement)]
    site = Site(component=peak.component, layer=peak.layer)
    against = f" ({ratio(peak.value, baseline.peak.value)} the baseline)" if baseline else ""
    lines.append(f"M = {number(peak.value)} at {site}, feature {peak.feature}{against}")
    lines += _wrapped(token_in_context(peak), indent="    ")
    facts = []
    if measurement.dominance is not None:
        facts.append(f"hidden holds {number(measurement.dominance.ratio)}x the largest other component")
    if measurement.trajectory is not None:
        facts.append(measurement.trajectory.pattern)
    if measurement.sun is not None:
        facts.append(f"Sun: {describe(measurement.sun)}")
    lines += _wrapped("; ".join(facts), indent="    ")
    return lines + _table(measurement, baseline) + _notes(measurement)


def _table(measurement: Measurement, baseline: Baseline | None) -> list[str]:
    sites = sorted((site for site in measurement.sites if site.peak is not None), key=lambda site: -site.value)
    lines = [
        f"{'largest sites':<24}{'max |a|':>14}{'baseline':>14}{'ratio':>10}"
        if baseline
        else f"{'largest sites':<24}{'max |a|':>14}"
    ]
    for site in sites[:LARGEST_SITES]:
        line = f"{site!s:<24}{number(site.value):>14}"
        stored = baseline.site(site.component, site.layer) if baseline else None
        if stored is not None:
            line += f"{number(stored.value):>14}{ratio(site.value, stored.value):>10}"
        lines.append(line)
    return lines


def _notes(measurement: Measurement) -> list[str]:
    return [line for note in measurement.notes for line in _wrapped(note, hanging="  ")]


def _wrapped(text: str, *, indent: str = "", hanging: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        drop_whitespace=True,
        break_on_hyphens=False,
    )
