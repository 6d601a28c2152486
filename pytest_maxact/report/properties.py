"""A measurement as names and values for a JUnit file."""

from __future__ import annotations

from pytest_maxact.record import Measurement, Site
from pytest_maxact.visible import visible
from pytest_maxact.wording import first_fault


def properties(measurement: Measurement) -> dict[str, str]:
    """M, where it stands, the first NaN or infinity, and what it was measured from.

    Names begin with `maxact.`, and values are `visible`.
    """
    found: dict[str, object] = {
        "model": measurement.model.id,
        "revision": measurement.model.revision,
        "fingerprint": measurement.model.fingerprint,
        "corpus": measurement.corpus.id,
        "corpus_digest": measurement.corpus.digest,
        "tokens": measurement.corpus.tokens,
    }
    peak = measurement.peak
    if peak is not None:
        found |= {"M": peak.value, "site": Site(component=peak.component, layer=peak.layer), "token": peak.token}
    if measurement.first_fault is not None:
        found["first_fault"] = first_fault(measurement.first_fault)
    if measurement.sun is not None:
        found["massive_activations"] = "yes" if measurement.sun.passes else "no"  # Sun's criterion
    return {f"maxact.{name}": visible(str(value)) for name, value in found.items() if value is not None}
