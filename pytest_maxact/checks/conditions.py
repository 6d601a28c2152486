"""Whether a measurement and a baseline can be compared at all."""

from __future__ import annotations

from pytest_maxact.record import Baseline, Measurement


def differences(measurement: Measurement, baseline: Baseline) -> list[str]:
    """The conditions that differ, each with both values and what to type; a fact that a baseline lacks is not compared."""
    mine, theirs = measurement.corpus, baseline.corpus
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
    if theirs.special_tokens is not None and mine.special_tokens != theirs.special_tokens:
        found.append(f"special tokens {theirs.special_tokens}, now {mine.special_tokens}: see --maxact-special-tokens")
    if baseline.model.dtype is not None and measurement.model.dtype != baseline.model.dtype:
        found.append(f"dtype {baseline.model.dtype}, now {measurement.model.dtype}: see --maxact-dtype")
    if theirs.max_length is not None and mine.max_length != theirs.max_length:
        found.append(f"max length {theirs.max_length}, now {mine.max_length}: see --maxact-max-length")
    return found
