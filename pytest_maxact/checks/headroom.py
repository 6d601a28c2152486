"""`headroom`: every site fits the number formats that were asked for, and quantizes no worse than it did."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_maxact.checks.verdict import Tolerance, Verdict
from pytest_maxact.formats import FORMATS, FloatFormat
from pytest_maxact.record import Baseline, Measurement, SiteFigures
from pytest_maxact.wording import number

NAME = "headroom"
NEEDS_BASELINE = False  # overflow needs none
SQNR_LOSS = 1.0  # dB
SHOWN = 8


def check(measurement: Measurement, baseline: Baseline | None, tolerance: Tolerance) -> Verdict:
    """Pass where no site that is part of M overflows a format, or has an SQNR more than 1 dB below its baseline."""
    if not tolerance.formats:
        return Verdict(NAME, "skipped", "no number format was asked for: see --maxact-format")
    sites = [site for site in measurement.sites if site.part_of_m]
    overflows: list[str] = []
    held = []
    for name in tolerance.formats:
        floating = FORMATS[name].floating
        if floating is None:  # it is scaled to each site
            continue
        over = [(site, _overflow(site, floating)) for site in sites]
        found = [f"{site}: {what} beyond {name} (largest {floating.largest:,.0f})" for site, what in over if what]
        overflows += found
        if not found:
            held.append(f"{name} holds every site")
    pairs = list(_pairs(sites, baseline, [key for name in tolerance.formats for key in FORMATS[name].sqnr_keys]))
    losses = [
        f"{site}: {key} {then:.2f} dB to {now:.2f} dB{' (approximate)' if site.approximate else ''}"
        for site, key, then, now in pairs
        if then - now > SQNR_LOSS or (math.isnan(now) and not math.isnan(then))
    ]
    if overflows or losses:
        parts = [f"{len(overflows)} overflow{'s' if len(overflows) > 1 else ''}"] if overflows else []
        parts += [f"SQNR fell by more than {SQNR_LOSS:g} dB in {len(losses)} of {len(pairs)} figures"] if losses else []
        first = (overflows or losses)[0]
        details = overflows[:SHOWN] + losses[:SHOWN]
        hidden = len(overflows) + len(losses) - len(details)
        details += [f"... and {hidden} more"] if hidden else []
        return Verdict(NAME, "failed", f"{'; '.join(parts)}; the first is {first}", tuple(details))
    if pairs:
        about = " (approximate)" if any(site.approximate for site, *_ in pairs) else ""
        held.append(f"no SQNR of {len(pairs)} more than {SQNR_LOSS:g} dB below the baseline{about}")
    if not held:
        asked = ", ".join(tolerance.formats)
        return Verdict(NAME, "skipped", f"{asked} is scaled to each site: needs a baseline that holds SQNR")
    compared = {key for _, key, *_ in pairs}
    unknown = [name for name in tolerance.formats if FORMATS[name].sqnr_keys and not compared & set(FORMATS[name].sqnr_keys)]
    if unknown:
        held.append(f"SQNR of {', '.join(unknown)} not judged: no baseline holds it")
    return Verdict(NAME, "passed", "; ".join(held))


def _overflow(site: SiteFigures, floating: FloatFormat) -> str | None:
    """What of a site does not fit: infinities have overflowed the dtype of the model already."""
    if site.inf:
        return f"{site.inf:,} infinities"
    return number(site.value) if site.peak is not None and floating.overflows(site.value) else None


def _pairs(
    sites: list[SiteFigures], baseline: Baseline | None, keys: list[str]
) -> Iterator[tuple[SiteFigures, str, float, float]]:
    """Site, key, the baseline's dB and today's, wherever both are known."""
    for site in sites:
        stored = None if baseline is None else baseline.site(site.component, site.layer)
        for key in keys:
            if stored is not None and stored.sqnr is not None and key in stored.sqnr and key in site.sqnr:
                yield site, key, stored.sqnr[key], site.sqnr[key]
