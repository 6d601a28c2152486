"""Where baselines live, how one is looked up, and how an update lists what changed."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pytest_maxact.errors import BaselineError
from pytest_maxact.record import (
    Baseline,
    BaselinePeak,
    BaselineSite,
    Dominance,
    Measurement,
    Site,
    SunOutcome,
)
from pytest_maxact.resources import data_folder
from pytest_maxact.wording import number

LONGEST = 200  # bytes: what a file system takes (255), less the ends of names that are made from it
NO_BASELINE = "none"
PUBLISHED = "published"
PUBLISHED_FOLDER = f"baselines/{PUBLISHED}"


@dataclass(frozen=True)
class Stored:
    """The baseline a session uses. `baseline` is None where none was found or wanted; `target` is what an update writes."""

    baseline: Baseline | None
    source: Path | None
    target: Path
    wanted: bool


def file_name(model_id: str) -> str:
    """The file a model's baseline is kept in: its id with `/` as `--`, as in the Hub's own cache.

    It is a bare name, whatever the id: what is neither letter nor digit nor one of `_.-` is a `-`, and where it is too long for
    a file system a digest stands for its end.
    """
    name = re.sub(r"[^\w.-]+", "-", model_id.replace("/", "--"))
    if len(name.encode()) > LONGEST:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        name = f"{name.encode()[: LONGEST - 17].decode(errors='ignore')}-{digest}"
    return f"{name}.json"


def published_file(hub_id: str) -> Path | None:
    """The published baseline of a hub id, None where there is none."""
    file = data_folder(PUBLISHED_FOLDER) / file_name(hub_id)
    return file if re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) and os.path.isfile(file) else None  # a name may be too long for one


def look_up(setting: str, model_id: str, folder: Path, origin: str | None = None) -> Stored:
    """Find the baseline that a setting means.

    Args:
        setting: `auto` (the project's baseline of this model, else the package's), `published`, `none`, a name (looked up
            like a model id, and then among the published ones), or a file.
        model_id: the model's id.
        folder: the project's baselines.
        origin: the hub id that the model's config names, for `published` where `model_id` is none of those.

    Raises:
        BaselineError: where a named baseline is not found, or the one found cannot be read.

    """
    if setting == NO_BASELINE:
        return Stored(None, None, folder / file_name(model_id), wanted=False)
    if setting.endswith(".json"):
        path = Path(os.path.expanduser(setting))
        return Stored(Baseline.load(path) if os.path.exists(path) else None, path, path, wanted=True)
    own = folder / file_name(model_id if setting in ("auto", PUBLISHED) else setting)
    if setting == PUBLISHED:
        files = [published_file(hub_id) for hub_id in (model_id, origin or "")]
    else:
        files = [own, data_folder("baselines") / own.name, None if setting == "auto" else published_file(setting)]
    for file in files:
        if file is not None and os.path.isfile(file):
            return Stored(Baseline.load(file), file, own, wanted=True)
    return Stored(None, None, own, wanted=True)


def update(stored: Stored, measurement: Measurement) -> list[str]:
    """Write the measurement as the baseline, keeping the old one's tolerances, and say in lines what changed.

    Where neither figures nor conditions changed, nothing is written.

    Raises:
        BaselineError: where the measurement is not fit to be a baseline, or the file cannot be written.

    """
    old = stored.baseline
    new = Baseline.of(measurement, old.tolerances if old else ())
    lines = changes(old, new)
    if stored.source == stored.target and not lines:
        return [f"baseline {stored.target} is unchanged"]
    try:
        stored.target.parent.mkdir(parents=True, exist_ok=True)
        new.save(stored.target)
    except OSError as cause:
        raise BaselineError(f"baseline {stored.target} cannot be written: {cause}") from None
    return [f"baseline {stored.target} was {'rewritten' if old else 'written'}", *lines]


def changes(old: Baseline | None, new: Baseline) -> list[str]:
    """What differs between two baselines, a line each; other weights or files with the same figures are no change."""
    if old is None:
        return [f"new: M = {number(new.peak.value)} at {Site(component=new.peak.component, layer=new.peak.layer)}"]
    lines = []
    for part in ("corpus", "model"):
        before, after = getattr(old, part), getattr(new, part)
        for name in type(after).model_fields:
            if name not in ("fingerprint", "revision") and getattr(before, name) != getattr(after, name):
                lines.append(f"{part} {name}: {getattr(before, name)} -> {getattr(after, name)}")
    if old.peak.token is not None and new.peak.token is None:
        lines.append("peak: token and sample are no longer told")
        untold = {"token": None, "sample": new.peak.sample}
        old = old.model_copy(update={"peak": old.peak.model_copy(update=untold)})
    for part in ("peak", "dominance", "sun"):
        if getattr(old, part) != getattr(new, part):
            lines.append(f"{part}: {_brief(getattr(old, part))} -> {_brief(getattr(new, part))}")
    alone = {joined.corpus: joined.value for joined in old.parts}
    for joined in new.parts:
        stored = alone.pop(joined.corpus, None)
        if stored != joined.value:
            lines.append(f"{joined.corpus} alone: {'unknown' if stored is None else number(stored)} -> {number(joined.value)}")
    lines += [f"{corpus} alone: gone" for corpus in alone]
    known = {(site.component, site.layer): site for site in old.sites}
    for site in new.sites:
        before = known.pop((site.component, site.layer), None)
        if before is None:
            lines.append(f"{site}: new, {number(site.value)}")
        elif (before.max, before.min) != (site.max, site.min):
            lines.append(f"{site}: {number(before.value)} -> {number(site.value)}")
        elif _decibels(before) != _decibels(site):
            lines.append(f"{site}: SQNR {_decibels(before)} -> {_decibels(site)}")
    return lines + [f"{site}: gone" for site in known.values()]


def _decibels(site: BaselineSite) -> str:
    return ", ".join(f"{key} {value:.2f} dB" for key, value in (site.sqnr or {}).items()) or "none"


def _brief(part: object) -> str:
    if isinstance(part, BaselinePeak):
        token = "" if part.token is None else f", token {part.token!r}"
        return f"{number(part.value)} at {Site(component=part.component, layer=part.layer)}{token}"
    if isinstance(part, Dominance):
        return f"{part.component} ({number(part.ratio)}x)"
    if isinstance(part, SunOutcome):
        return f"{'passes' if part.passes else 'fails'} in {len(part.layers)} layers, margin {number(part.margin)}"
    return "none"
