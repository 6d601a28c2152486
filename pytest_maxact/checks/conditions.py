"""Whether a measurement and a baseline can be compared at all, and what is let pass where others made the baseline."""

from __future__ import annotations

from pytest_maxact import outcome
from pytest_maxact.record import Baseline, BaselineCorpus, BaselineModel, CorpusFacts, Measurement, Model


def differences(measurement: Measurement, baseline: Baseline) -> list[str]:
    """The conditions that differ, each with both values and what to type; a fact that a baseline lacks is not compared."""
    mine, theirs = measurement.corpus, baseline.corpus
    found = _corpora(mine, theirs) if baseline.provenance is None else _shapes(measurement.model, baseline.model)
    if theirs.special_tokens is not None and mine.special_tokens != theirs.special_tokens:
        found.append(f"special tokens {theirs.special_tokens}, now {mine.special_tokens}: see --maxact-special-tokens")
    if baseline.model.dtype is not None and measurement.model.dtype != baseline.model.dtype:
        found.append(f"dtype {baseline.model.dtype}, now {measurement.model.dtype}: see --maxact-dtype")
    if theirs.max_length is not None and mine.max_length != theirs.max_length:
        found.append(f"max length {theirs.max_length}, now {mine.max_length}: see --maxact-max-length")
    return found


def let_pass(measurement: Measurement, baseline: Baseline) -> list[str]:
    """What differs from a published baseline without keeping the two from being compared, in words."""
    if baseline.provenance is None:
        return []
    mine, hardware = measurement.model, baseline.provenance.hardware
    found = [
        f"corpus {_told(baseline.corpus)}, here {_told(measurement.corpus)}",
        f"measured on {hardware}, here on {measurement.environment.device}",
    ]
    if mine.id != baseline.model.id:
        found.append(f"{mine.id} is taken for {baseline.model.id}")
    if mine.quantization is not None:
        found.append(f"here quantized by {mine.quantization}")
    return found


def shared(measurement: Measurement, baseline: Baseline) -> Measurement:
    """The measurement as far as a published baseline tells of its sites: M, its place and dominance are of those alone."""
    known = {(site.component, site.layer) for site in baseline.sites}
    sites = [site for site in measurement.sites if (site.component, site.layer) in known or not site.part_of_m]
    if baseline.provenance is None or len(sites) == len(measurement.sites):
        return measurement
    derived = {"peak": outcome.peak(sites), "dominance": outcome.dominance(sites)}
    return measurement.model_copy(update={"sites": sites, **derived})


def _told(corpus: CorpusFacts | BaselineCorpus) -> str:
    counts = [f"{count:,} {name}" for name in ("samples", "tokens") if (count := getattr(corpus, name)) is not None]
    return f"{corpus.id} ({', '.join(counts)})" if counts else corpus.id


def _corpora(mine: CorpusFacts, theirs: BaselineCorpus) -> list[str]:
    found = []
    if theirs.digest is not None and mine.digest != theirs.digest:
        now = mine.digest[:12] if mine.digest else "ready batches"
        found.append(
            f"corpus {theirs.id} ({theirs.digest[:12]}), now {mine.id} ({now}): see --maxact-corpus and --maxact-samples"
        )
    if theirs.digest is None and mine.digest is None:  # ready batches on both sides: all that is known of them
        for name in ("samples", "tokens"):
            if getattr(theirs, name) not in (None, getattr(mine, name)):
                found.append(f"{getattr(theirs, name)} {name}, now {getattr(mine, name)}")
    elif theirs.id == "batches" and theirs.digest is None:
        found.append(f"ready batches, now corpus {mine.id}: measure the same batches")
    return found


def _shapes(mine: Model, theirs: BaselineModel) -> list[str]:
    if (mine.layers, mine.hidden_size) == (theirs.layers, theirs.hidden_size):
        return []
    shape = f"{theirs.layers} layers x {theirs.hidden_size}"
    return [f"{shape}, now {mine.layers} x {mine.hidden_size}: this is not the published {theirs.id}"]
