"""`profile`: no site has risen above its own baseline, and the sites are the same ones."""

from __future__ import annotations

import math

from pytest_maxact.checks.verdict import Tolerance, Verdict
from pytest_maxact.record import Baseline, Measurement, SiteFigures
from pytest_maxact.wording import number, ratio, token_in_context

NAME = "profile"
NEEDS_BASELINE = True
NEGLIGIBLE = 1000  # a site below M / 1000 cannot matter yet, and its relative changes are noise
SHOWN = 8


def check(measurement: Measurement, baseline: Baseline | None, tolerance: Tolerance) -> Verdict:
    """Pass where no site's peak exceeds its baseline by more than site_rtol and no site is missing or new."""
    assert baseline is not None
    known = {(site.component, site.layer): site for site in baseline.sites if site.part_of_m}
    sites = {(site.component, site.layer): site for site in measurement.sites if site.part_of_m}
    unknown = [site for key, site in sites.items() if key not in known]
    published = baseline.provenance is not None  # by others, who did not observe everything
    strange = [] if published else [f"{site}: not in the baseline" for site in unknown]
    strange += [f"{site}: in the baseline, not in the model" for key, site in known.items() if key not in sites]
    floor = baseline.peak.value / NEGLIGIBLE
    left: list[tuple[float, SiteFigures, str]] = []
    judged = waived = 0
    for key, site in sites.items():
        reference = known.get(key)
        rtol = tolerance.for_site(baseline, site)
        waived += rtol is None
        if reference is None or rtol is None or max(site.value, reference.value if tolerance.two_sided else 0) < floor:
            continue
        judged += 1
        # NaN compares false: a site without a finite value has left its baseline, too.
        if tolerance.exceeded(site.value, reference.value, rtol) or math.isnan(site.value):
            change = f"{number(reference.value)} to {number(site.value)} ({ratio(site.value, reference.value)})"
            left.append((site.value / reference.value if reference.value and site.peak else math.inf, site, change))
    scope = f"{judged} of {len(sites)} sites judged" + (f", {waived} waived" if waived else "")
    if published and unknown:
        scope += f", {len(unknown)} not published ({', '.join(dict.fromkeys(site.component for site in unknown))})"
    if not left and not strange:
        return Verdict(NAME, "passed", f"no site left its baseline ({scope})")
    # In execution order the first one is where it began; the others may only carry it on.
    details = [f"{site}: {change}" for _, site, change in left[:SHOWN]] + strange[:SHOWN]
    hidden = len(left[SHOWN:]) + len(strange[SHOWN:])
    details += [f"... and {hidden} more"] if hidden else []
    parts = []
    if left:
        _, worst, change = max(left, key=lambda entry: entry[0])
        first = left[0][1]
        parts.append(f"{len(left)} of {judged} sites left their baselines; the first is {first}, the most {worst}: {change}")
        if worst.peak is not None:
            details.append(f"{worst} peaks at {token_in_context(worst.peak)}")
    if strange:
        parts.append(f"{len(strange)} sites are missing or new")
    return Verdict(NAME, "failed", "; ".join(parts), tuple(details))
