"""The terminal summary: M and where, what stands around it, and the largest sites, in 80 columns."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from pytest_maxact.analyses import int8
from pytest_maxact.checks import growth
from pytest_maxact.checks.conditions import let_pass
from pytest_maxact.checks.sun import describe
from pytest_maxact.checks.verdict import Tolerance
from pytest_maxact.history import Point
from pytest_maxact.record import INPUT, VISION, Baseline, Measurement, Overhead, Site
from pytest_maxact.report.standing import standing
from pytest_maxact.validity import brief
from pytest_maxact.visible import visible
from pytest_maxact.wording import decibels, first_fault, number, ratio, token_in_context

WIDTH = 80
LARGEST_SITES = 5


def summary(measurement: Measurement, baseline: Baseline | None, *, reused: bool = False) -> list[str]:
    """Lines of at most 80 columns about one measurement, beside its baseline where there is one."""
    model, corpus, timing = measurement.model, measurement.corpus, measurement.timing
    lines = wrapped(
        f"{model.id}: {model.architecture}, {model.layers} layers, {model.dtype} on {measurement.environment.device}; corpus "
        f"{corpus.id}, {corpus.samples:,} samples, {corpus.tokens:,} tokens, {timing.seconds:,.1f} s "
        f"({timing.tokens_per_s:,.0f} tokens/s)"
    )
    if reused:
        lines += wrapped(f"reused, measured at {timing.measured_at}; --maxact-fresh measures anew")
    peak = measurement.peak
    if peak is None:
        said = "no site holds a finite value: there is no M"
        return [*lines, said, *wrapped(_faults(measurement), indent="    "), *_notes(measurement)]
    site = Site(component=peak.component, layer=peak.layer)
    against = f" ({ratio(peak.value, baseline.peak.value)} the baseline)" if baseline else ""
    lines.append(f"M = {number(peak.value)} at {site}, feature {peak.feature}{against}")
    lines += wrapped(token_in_context(peak), indent="    ")
    lines += wrapped(_faults(measurement), indent="    ")
    facts = []
    if measurement.dominance is not None:
        facts.append(f"hidden holds {number(measurement.dominance.ratio)}x the largest other component")
    if measurement.trajectory is not None:
        facts.append(measurement.trajectory.pattern)
    if measurement.sun is not None:
        facts.append(f"Sun: {describe(measurement.sun)}")
    lines += wrapped("; ".join(facts), indent="    ")
    return [
        *lines,
        *wrapped(_quantized(measurement), indent="    "),
        *wrapped(standing(measurement, baseline) or "", indent="    "),
        *wrapped(_by_modality(measurement), indent="    "),
        *wrapped(_by_corpus(measurement), indent="    "),
        *wrapped(_by_policy(measurement), indent="    "),
        *wrapped(brief(measurement), indent="    "),
        *wrapped(_provenance(measurement, baseline), indent="    "),
        *_table(measurement, baseline),
        *_cost(measurement.overhead),
        *_notes(measurement),
    ]


class Row(NamedTuple):
    """One checkpoint of a series: what was measured, or the error that kept it from that; neither where nobody asked."""

    label: str
    step: int | None
    point: Point | None
    error: str | None
    reused: bool


def series_lines(rows: Sequence[Row], past: Sequence[Point], remarks: Sequence[str], tolerance: Tolerance) -> list[str]:
    """A line a checkpoint: step, M, the factor by which it grew, where it is; and how the newest one stands to the others.

    `past` is what records tell of checkpoints before those.
    """
    asked = [row for row in rows if row.point is not None or row.error is not None]
    if not asked:
        return []
    reused = sum(row.reused for row in rows)
    count = f"{len(asked)} of {len(rows)}" if len(asked) < len(rows) else str(len(rows))
    lines = [f"series: {count} checkpoint{'s' if len(rows) > 1 else ''}"]
    lines[0] += f", {reused} reused; --maxact-fresh measures anew" if reused else ""
    width = min(max(len("checkpoint"), *(len(row.label) for row in asked)), 30)
    lines.append(f"{'checkpoint':<{width}}{'step':>12}{'M':>13}{'growth':>9}  at")
    for before, row in itertools.pairwise([None, *rows]):
        assert row is not None
        label = row.label if len(row.label) <= width else "…" + row.label[1 - width :]
        line = f"{label:<{width}}{'' if row.step is None else format(row.step, ','):>12}"
        if row.point is not None and row.point.peak is not None:
            last = None if before is None else before.point
            grown = "" if last is None else ratio(row.point.m, last.m)
            unfit = ", NaN or infinities" if row.point.unfit else ""
            lines.append(f"{line}{number(row.point.m):>13}{grown:>9}  {row.point.peak}{unfit}")
        elif row in asked:
            lines += wrapped(f"{line}  {row.error or 'no site holds a finite value'}", hanging="  ")
    points = [*past, *(row.point for row in rows if row.point is not None)]
    if past:
        remarks = [f"{len(past)} earlier checkpoint{'s are' if len(past) > 1 else ' is'} known from records", *remarks]
    if len(points) > 1 and len(asked) == len(rows):
        lines += wrapped(growth.check(points[-1], points[:-1], tolerance).summary, hanging="  ")
    return lines + [line for remark in remarks for line in wrapped(remark, hanging="  ")]


def _provenance(measurement: Measurement, baseline: Baseline | None) -> str:
    """Whose figures a published baseline holds, what differs from here, and what it does not tell; nothing for our own."""
    if baseline is None or baseline.provenance is None:
        return ""
    origin = baseline.provenance
    others = let_pass(measurement, baseline)
    tolerance = "; ".join(f"{o.rtol:.1%} for M: {o.reason}" for o in baseline.tolerances if o.component is None and o.rtol)
    parts = [f"baseline: {baseline.model.id} as published in {origin.source}", *others]
    parts += [f"tolerance {tolerance}"] if tolerance else []
    return "; ".join([*parts, f"not told there, so not checked: {', '.join(origin.absent)}"])


def _faults(measurement: Measurement) -> str:
    """How many values are not finite, and where that began; nothing where all are."""
    sites = [site for site in measurement.sites if site.part_of_m]
    faulty = sum(site.nan + site.inf for site in sites)
    left_out = "" if measurement.peak is None else ", which M leaves out"
    count = sum(site.count for site in sites)
    parts = [f"{faulty:,} of {count:,} values are NaN or infinities{left_out}"] if faulty else []
    if measurement.first_fault is not None:
        parts.append(first_fault(measurement.first_fault))
    return "; ".join(parts)


def _quantized(measurement: Measurement) -> str:
    """How far M stands out of its site, and what INT-8 clipped at the 99.9% quantile makes of it; `standing` has max-abs."""
    site = int8(measurement)
    clipped = decibels(site.p999, site.approximate)
    return f"this site: crest factor {number(site.crest)}; INT-8 SQNR {clipped}, clipped at 99.9%"


def _by_modality(measurement: Measurement) -> str:
    """The peaks of text, of tokens that stand for images, and of the vision tower; nothing without images."""
    parts = [
        f"{found.tokens:,} {found.modality} tokens hold {number(found.value)} "
        f"({Site(component=found.component, layer=found.layer)})"
        for found in measurement.modalities
    ]
    tower = [site for site in measurement.sites if site.component == VISION and site.peak is not None]
    if tower:
        largest = max(tower, key=lambda site: site.value)
        parts.append(f"the vision tower {number(largest.value)} (layer {largest.layer}), which is not in M")
    return "; ".join(parts)


def _by_corpus(measurement: Measurement) -> str:
    """M of each corpus that was joined, and its token."""
    parts = []
    for part in measurement.parts:
        token = "" if part.token is None else f", token '{part.token}' at position {part.position}"
        parts.append(f"{part.corpus} ({part.tokens:,} tokens) holds {number(part.value)}{token}")
    return "; ".join(parts)


def _by_policy(measurement: Measurement) -> str:
    """M under each policy of special tokens, against the first; nothing where one alone ran."""
    parts: list[str] = []
    for policy in measurement.policies:
        against = "" if not parts else f" ({ratio(policy.value, measurement.policies[0].value)})"
        where = "" if policy.site is None else f" at {policy.site}"
        parts.append(f"{policy.special_tokens} {number(policy.value)}{against}{where}")
    return f"M by special tokens: {'; '.join(parts)}" if parts else ""


def _cost(overhead: Overhead | None) -> list[str]:
    if overhead is None:
        return []
    inside = "" if overhead.in_hook is None else f"in-hook {overhead.in_hook:.3f}x the plain forward, "
    speeds = f"{overhead.plain_tokens_per_s:,.0f} tokens/s plain, {overhead.hooked_tokens_per_s:,.0f} hooked"
    return wrapped(
        f"cost of observing ({overhead.kernel} kernel, {overhead.tokens:,} tokens a forward, {overhead.rounds} rounds): "
        f"{inside}wall {overhead.wall:.3f}x ({speeds}), {max(0.0, overhead.memory_mb):,.0f} MiB more memory, "
        f"{overhead.finishing_s:.2f} s to finish",
        hanging="  ",
    )


def _table(measurement: Measurement, baseline: Baseline | None) -> list[str]:
    shown = [site for site in measurement.sites if site.peak is not None and not site.component.startswith(INPUT)]
    sites = sorted(shown, key=lambda site: -site.value)[:LARGEST_SITES]
    names = [str(site) if site.part_of_m else f"{site} (not in M)" for site in sites]
    width = max(24, *map(len, names))
    lines = [f"{'largest sites':<{width}}{'max |a|':>14}" + (f"{'baseline':>14}{'ratio':>10}" if baseline else "")]
    for name, site in zip(names, sites, strict=True):
        line = f"{name:<{width}}{number(site.value):>14}"
        stored = baseline.site(site.component, site.layer) if baseline else None
        if stored is not None:
            line += f"{number(stored.value):>14}{ratio(site.value, stored.value):>10}"
        lines.append(line)
    return lines


def _notes(measurement: Measurement) -> list[str]:
    return [line for note in measurement.notes for line in wrapped(note, hanging="  ")]


def wrapped(text: str, *, indent: str = "", hanging: str | None = None, width: int = WIDTH) -> list[str]:
    """A text that may hold strangers' names as `visible` lines of at most `width` columns."""
    return textwrap.wrap(
        visible(text),
        width,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        drop_whitespace=True,
        break_on_hyphens=False,
    )
