"""What a session is about to do, with everything that can be wrong found out before anything runs."""

from __future__ import annotations

import difflib
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch

from pytest_maxact import outcome
from pytest_maxact.baseline import NO_BASELINE, PUBLISHED, PUBLISHED_FOLDER, Stored, look_up
from pytest_maxact.batching import length_limit
from pytest_maxact.benchmark import overhead
from pytest_maxact.checkpoint import (
    BALANCED,
    Checkpoint,
    Reference,
    Remembered,
    check_device,
    fetch,
    find,
    libraries,
    load,
    load_processor,
    load_tokenizer,
    resolve_device,
    small_files_digest,
)
from pytest_maxact.checks import Tolerance
from pytest_maxact.corpus import Corpus, check_tokenizer, check_vocabulary, load_corpus
from pytest_maxact.errors import BaselineError, CheckpointError, CorpusError, SettingsError, first_line
from pytest_maxact.forwards import Progress
from pytest_maxact.processors import ImageTextEncoder
from pytest_maxact.prompts import SpecialTokens
from pytest_maxact.published import models
from pytest_maxact.ranks import Ranks
from pytest_maxact.record import MEASUREMENT_SCHEMA, Baseline, Measurement, PolicyPeak, Site, sidecar_of
from pytest_maxact.resources import data_folder
from pytest_maxact.runner import measure
from pytest_maxact.series import Member
from pytest_maxact.settings import PREVIOUS, Settings
from pytest_maxact.vocabulary import Vocabulary

STILL_WRITING_SECONDS = 600


@dataclass(frozen=True)
class Plan:
    """The checkpoint, corpus and baseline that the settings mean."""

    settings: Settings
    reference: Reference
    corpus: Corpus
    stored: Stored
    device: torch.device
    tolerance: Tolerance

    @classmethod
    def of(cls, settings: Settings, before: Plan | None = None) -> Plan:
        """Find all that the settings name; `before` is the plan of a series' checkpoint before, for what they share.

        Raises:
            MaxactError: with one line on the first thing that is wrong.

        """
        _check_output(settings)
        device = resolve_device(settings.device)
        assert settings.model is not None
        corpus = corpus_of(settings) if before is None else before.corpus
        reference = find(settings.model, trust_remote_code=settings.trust_remote_code)
        check_device(reference, device)
        vocabulary = getattr(reference.text_config, "vocab_size", None)
        if vocabulary is None:
            raise CheckpointError(
                f"checkpoint {reference.id} has no vocabulary: {reference.config.model_type} is no language model"
            )
        check_vocabulary(corpus, int(vocabulary))
        context = getattr(reference.text_config, "max_position_embeddings", None)
        if settings.max_length is not None and context is not None and settings.max_length > context:
            raise SettingsError(f"--maxact-max-length={settings.max_length} is beyond the context of {reference.id}, {context}")
        known = before is not None and small_files_digest(before.reference) == small_files_digest(reference)
        policies = (settings.special_tokens, *settings.compared_policies)
        if not known and ("chat" in policies or reference.gguf is None or corpus.pictured):  # GGUF files take many seconds
            _check_preprocessor(settings, reference, corpus)
        return cls(
            settings=settings,
            reference=reference,
            corpus=corpus,
            stored=_stored(settings, reference),
            device=device,
            tolerance=Tolerance(**{field.name: getattr(settings, field.name) for field in fields(Tolerance)}),
        )

    @property
    def updates(self) -> bool:
        """Whether the measurement becomes the baseline."""
        return self.settings.update or (self.settings.update_new and self.stored.source != self.stored.target)

    def fetched(self, remembered: Remembered | None = None) -> Plan:
        """The plan with all of the checkpoint's files on this machine, and their fingerprint; `remembered` as for `fetch`.

        Raises:
            CheckpointError: where they cannot be downloaded.

        """
        return replace(self, reference=fetch(self.reference, remembered))

    def conditions(self) -> dict[str, object]:
        """Everything that a record follows from; of a plan that is `fetched`."""
        settings, model = self.settings, self.reference
        imaging = {"images": [_version("pillow"), _version("torchvision")]} if self.corpus.pictured else {}
        return {
            **imaging,
            "schema": MEASUREMENT_SCHEMA,
            "versions": [version(name) for name in ("pytest-maxact", "torch", "transformers", "tokenizers")] + libraries(model),
            "device": self._device_in_words(),
            "threads": torch.get_num_threads(),
            "model": [model.id, model.revision, model.fingerprint, small_files_digest(model)],
            "corpus": [self.corpus.id, self.corpus.digest],
            "settings": [settings.dtype, settings.max_length, settings.batch_tokens],
            "special tokens": [settings.special_tokens, *settings.compared_policies],
            "sites": list(settings.sites),
            "text": self.corpus.text,
        }

    def _device_in_words(self) -> str:
        if self.device.type != "cuda":
            return str(self.device)
        several = f", {torch.cuda.device_count()} of them" if self.settings.device == BALANCED else ""
        return torch.cuda.get_device_name(self.device) + several

    def load(self) -> Checkpoint:
        """Load the checkpoint.

        Raises:
            CheckpointError: where that is not possible.

        """
        balanced = self.settings.device == BALANCED
        return load(self.reference, dtype=self.settings.dtype, device=self.device, balanced=balanced)

    def run(self, progress: Progress | None, resume: Path | None = None, ranks: Ranks | None = None) -> Measurement:
        """Load the checkpoint and measure it, and what observing costs where that was asked for.

        Args:
            progress: as for `measure`.
            resume: a folder in which interrupted runs keep how far they have come, one below for each policy.
            ranks: processes that help, this one being rank 0.

        Raises:
            MaxactError: where the checkpoint cannot be loaded or does not fit the corpus, or a rank failed.

        """
        if ranks is None:
            checkpoint = self.load()
        else:
            ranks.order({"model": self.settings.model, "corpus": self.settings.corpus, "run": None})  # so that all load at once
            with ranks.loading():
                checkpoint = self.load()
        how: dict[str, Any] = {name: getattr(self.settings, name) for name in ("max_length", "batch_tokens")}

        def measured(policy: str, sites: Sequence[str] = ()) -> Measurement:
            kept = None if resume is None else resume / policy
            if ranks is not None:
                wanted = {"special_tokens": policy, "sites": list(sites), "resume": None if kept is None else str(kept)}
                ranks.order({"model": self.settings.model, "corpus": self.settings.corpus, "run": wanted})
            shared: dict[str, Any] = {"sites": sites, "progress": progress, "resume": kept, "ranks": ranks}
            try:
                return measure(checkpoint, corpus=self.corpus, special_tokens=policy, **how, **shared)  # type: ignore[arg-type]
            except BaseException as cause:
                if ranks is not None:
                    ranks.fail(first_line(cause))
                raise

        measurement = measured(self.settings.special_tokens, self.settings.sites)
        measurement = beside_policies(measurement, self.settings.compared_policies, measured)
        if not self.settings.benchmark:
            return measurement
        how["special_tokens"] = self.settings.special_tokens
        cost = overhead(checkpoint.model, checkpoint.preprocessor(self.corpus), self.corpus, **how)
        return measurement.model_copy(update={"overhead": cost})


def beside_policies(
    measurement: Measurement, others: Sequence[str], measure_under: Callable[[str], Measurement]
) -> Measurement:
    """The measurement with its M and that under other policies of special tokens beside each other."""
    if not others:
        return measurement
    found = []
    for record in (measurement, *map(measure_under, others)):
        peak = record.peak
        found.append(
            PolicyPeak(
                special_tokens=record.corpus.special_tokens,
                tokens=record.corpus.tokens,
                value=math.nan if peak is None else peak.value,
                site=None if peak is None else Site(component=peak.component, layer=peak.layer),
                sample=None if peak is None else peak.sample,
                position=None if peak is None else peak.position,
                token=None if peak is None else peak.token,
                first_fault=outcome.first_fault([site for site in record.sites if site.part_of_m]),
            )
        )
    return measurement.model_copy(update={"policies": found})


def _check_preprocessor(settings: Settings, reference: Reference, corpus: Corpus) -> None:
    """That texts can be tokenized, and images processed: tried on the sample of the most pixels, which is the longest."""
    preprocessor = load_processor(reference) if corpus.pictured else load_tokenizer(reference)
    limit = length_limit(reference.text_config, settings.max_length)
    for policy in cast(tuple[SpecialTokens, ...], (settings.special_tokens, *settings.compared_policies)):
        check_tokenizer(corpus, preprocessor, policy)
        if corpus.drawn:
            corpus.drawn_from(Vocabulary.of(preprocessor, int(reference.text_config.vocab_size), policy), limit)
        if corpus.pictured:
            largest = max(corpus.pictured, key=lambda sample: sum(image.size[0] * image.size[1] for image in sample.images))
            ImageTextEncoder.of(preprocessor, reference.config).encode(largest, policy, limit)


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def plan_series(settings: Settings) -> tuple[dict[Member, Plan], list[str]]:
    """The plans of a series, and a line that says so where the newest checkpoint is left out, since it is still being written.

    Raises:
        MaxactError: with one line on the first thing that is wrong with any of them, or that keeps them from being compared.

    """
    if settings.json is not None:
        _check_plain(settings.json, "--maxact-json")
        try:
            settings.json.mkdir(exist_ok=True)
        except OSError as cause:
            reason = f"{settings.json} is no folder and cannot be made one ({cause.strerror})"
            raise SettingsError(f"--maxact-json of a series names a folder for its records, and {reason}") from None
    plans: dict[Member, Plan] = {}
    plan, newest = None, settings.series[-1]
    for member in settings.series:
        try:
            plan = Plan.of(settings.of(member), plan)
        except (CheckpointError, CorpusError) as cause:  # the tokenizer comes after the weights
            if plan is not None and member is newest and member.matched and _being_written(Path(member.model)):
                reason = str(cause).rpartition(": ")[0] or str(cause)  # advice is no use here
                return plans, [f"{member.label} is left out: it is still being written ({reason})"]
            raise type(cause)(f"{member.label} of the series: {cause}") from None
        compared = plan.stored.wanted or settings.baseline == PREVIOUS
        plans[replace(member, compared=compared)] = plan
        first = next(iter(plans.values()))
        if _kind(plan) != _kind(first):
            raise SettingsError(
                f"a series is of one architecture and dtype: {next(iter(plans)).label} is {_kind(first)}, {member.label} is "
                f"{_kind(plan)}; run them apart"
            )
    return plans, []


def _kind(plan: Plan) -> str:
    config = plan.reference.text_config
    dtype = plan.settings.dtype if plan.settings.dtype != "auto" else plan.reference.config.dtype
    return (
        f"{config.model_type} of {config.num_hidden_layers} layers x {config.hidden_size}, {str(dtype).removeprefix('torch.')}"
    )


def _being_written(folder: Path) -> bool:
    """Whether something in it is so new that more may come."""
    try:
        latest = max(path.stat().st_mtime for path in [folder, *folder.iterdir()])
    except OSError:
        return True  # files come and go
    return time.time() - latest < STILL_WRITING_SECONDS


def corpus_of(settings: Settings) -> Corpus:
    """The corpus that the settings mean.

    Raises:
        CorpusError: where it cannot be found or read, or has fewer samples than were asked for.

    """
    corpus = load_corpus(settings.corpus, text=not settings.no_text)
    return corpus if settings.samples is None else corpus.first(settings.samples)


def _stored(settings: Settings, reference: Reference) -> Stored:
    asked = NO_BASELINE if settings.baseline == PREVIOUS else settings.baseline
    stored = look_up(asked, reference.id, settings.baselines, reference.origin)
    if stored.baseline is not None and stored.baseline.provenance is not None and not _fits(stored.baseline, reference):
        raise BaselineError(_not_the_published(stored.baseline, reference))
    if stored.baseline is not None and stored.baseline.provenance is not None and settings.rtol_given:
        stored = replace(stored, baseline=stored.baseline.model_copy(update={"tolerances": []}))
    if settings.baseline == "auto" and stored.source != stored.target and not _fits(stored.baseline, reference):
        stored = replace(stored, baseline=None, source=None)  # the package's baseline is of another model of this name
    if settings.series and asked == "auto" and stored.baseline is None:
        stored = replace(stored, wanted=False)  # `growth` compares with the checkpoints before
    writing = settings.update or settings.update_new
    if writing and settings.baseline == NO_BASELINE:
        raise SettingsError("--maxact-baseline=none leaves an update nothing to write: drop one of them")
    if writing and stored.baseline is not None and stored.baseline.provenance is not None:
        raise SettingsError(
            f"--maxact-baseline={settings.baseline} is figures that others published, and an update would replace them with "
            "yours: name another --maxact-baseline, or leave it out"
        )
    if writing:
        _check_writable(stored.target, "--maxact-update")
    elif stored.baseline is None and asked == PUBLISHED:
        raise BaselineError(_not_published(reference))
    elif stored.baseline is None and asked not in ("auto", NO_BASELINE):
        named_file = settings.baseline.endswith(".json")
        asked = stored.target.name if named_file else settings.baseline
        shipped = [data_folder("baselines"), data_folder(PUBLISHED_FOLDER)]
        places = [stored.target.parent.absolute(), *([] if named_file else shipped)]
        searched = " and ".join(map(str, dict.fromkeys(places)))
        raise BaselineError(
            f"no baseline {asked}: looked for {stored.target.name} in {searched}; "
            "name an existing one, or write it with --maxact-update"
        )
    return stored


def _fits(baseline: Baseline | None, reference: Reference) -> bool:
    return baseline is not None and _shape(reference) == (baseline.model.layers, baseline.model.hidden_size)


def _shape(reference: Reference) -> tuple[int, int]:
    config = reference.text_config
    return int(config.num_hidden_layers), int(config.hidden_size)


def _not_the_published(baseline: Baseline, reference: Reference) -> str:
    assert baseline.provenance is not None
    layers, width = _shape(reference)
    return (
        f"{reference.id} is not the {baseline.model.id} that {baseline.provenance.source} measured: it has {layers} layers x "
        f"{width}, that one {baseline.model.layers} x {baseline.model.hidden_size}; choose another --maxact-baseline, or none"
    )


def _not_published(reference: Reference) -> str:
    known = [model.hub_id for model in models().values()]
    named = reference.origin or reference.id
    alike = difflib.get_close_matches(named, known, cutoff=0.5) or difflib.get_close_matches(f"Qwen/{named}", known, cutoff=0.5)
    return (
        f"no figures of {reference.id} are published: looked for this id, and for what its config names, in "
        f"{data_folder(PUBLISHED_FOLDER)} ({len(known)} checkpoints); where it is one of them under another name, say which, "
        f"as in --maxact-baseline={(alike or known)[0]}"
    )


def _check_output(settings: Settings) -> None:
    if settings.json is not None:
        _check_plain(settings.json, "--maxact-json")
        if not settings.json.parent.is_dir():
            raise SettingsError(f"--maxact-json={settings.json} cannot be written: there is no folder {settings.json.parent}")
        sidecar = sidecar_of(settings.json)
        if sidecar.exists() and not settings.json.exists():
            raise SettingsError(
                f"--maxact-json={settings.json} would overwrite {sidecar}, which no record beside it names: name another file"
            )
        _check_writable(settings.json, "--maxact-json")
        _check_writable(sidecar, "--maxact-json")


def _check_plain(file: Path, option: str) -> None:
    """Refuse to write where another place is meant than the one that a path seems to name."""
    if ".." in file.parts:
        raise SettingsError(f"{option} cannot write {file}: there is a .. in it; give the plain path, {file.resolve()}")
    if file.is_symlink():
        raise SettingsError(f"{option} cannot write {file}: it is a symbolic link; remove it, or name {file.resolve()}")


def _check_writable(file: Path, option: str) -> None:
    _check_plain(file, option)
    folder = file.parent
    while not folder.exists():
        folder = folder.parent
    if file.exists() and not file.is_file():
        raise SettingsError(f"{option} cannot write {file}: it is a folder or a special file")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as cause:
        reason = f"nothing can be written in {folder} ({cause.strerror})"
        raise SettingsError(f"{option} cannot write {file}: {reason}; name another place") from None
