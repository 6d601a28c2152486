"""The run: hooks on the sites, batches through the model, figures to a `Measurement`."""

from __future__ import annotations

import hashlib
import math
import platform
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from torch import nn

from pytest_maxact import outcome
from pytest_maxact.anatomy import Anatomy, find_sites, text_config
from pytest_maxact.batching import Texts, Work, from_batches, from_corpus
from pytest_maxact.checkpoint import Checkpoint, libraries
from pytest_maxact.corpus import Corpus, load_corpus
from pytest_maxact.errors import MeasurementError, SettingsError
from pytest_maxact.forwards import Forwards, Progress
from pytest_maxact.observer import Observer
from pytest_maxact.prompts import SpecialTokens
from pytest_maxact.quantized import method, unpack
from pytest_maxact.ranks import Ranks
from pytest_maxact.record import (
    Environment,
    Measurement,
    Model,
    PartPeak,
    SampleFigures,
    Timing,
)
from pytest_maxact.reducers.encoding import ENCODINGS
from pytest_maxact.report.explain import Row, explain_lines
from pytest_maxact.snapshot import Kept, dealt_tokens
from pytest_maxact.wrappers import as_written, input_device, unwrapped

# More tokens a forward gain nothing beyond these; less memory than they need halves them.
CPU_BATCH_TOKENS = 4096
GPU_BATCH_TOKENS = 16384
LEAST_BATCH_TOKENS = 512
LINEAR_INPUTS = "+linear-inputs"

Batches = Iterable[Mapping[str, torch.Tensor]]


def measure(
    model: nn.Module | Checkpoint,
    tokenizer: Any = None,
    corpus: str | Corpus = "core",
    *,
    batches: Batches | None = None,
    samples: int | None = None,
    max_length: int | None = None,
    special_tokens: SpecialTokens = "none",
    batch_tokens: int | None = None,
    sites: Collection[str] = (),
    text: bool = True,
    progress: Progress | None = None,
    resume: Path | None = None,
    ranks: Ranks | None = None,
) -> Measurement:
    """Run a corpus through a model once and record what every site held; M is that of arXiv 2605.15572.

    The model is observed in evaluation mode and without gradients, and is left as it was: its modes, hooks, gradients and
    compiled code, and the states of random generators.

    Args:
        model: a transformers model in memory, with adapters of PEFT or without, also inside `DistributedDataParallel`,
            `DataParallel` or `torch.compile`; or a loaded `Checkpoint`, which brings its tokenizer.
        tokenizer: the model's tokenizer, needed for a corpus of texts; or its processor, needed for a corpus with images.
        corpus: a corpus, or the name of one (see `load_corpus`).
        batches: ready batches instead of a corpus, each with `input_ids` [B, T] and optionally `attention_mask` [B, T]
            (0 for padding, at either side); sample ids are then the rows' numbers from 0.
        samples: only the first so many samples, categories kept in proportion.
        max_length: tokens kept of a sample; the least of 4096 and the model's context by default.
        special_tokens: what is put around a text: `none`, `tokenizer` or `chat`.
        batch_tokens: token budget of a batch, padding counted; by device and free memory where not given.
        sites: further ones that are recorded: `+linear-inputs`, what enters each linear layer of the decoder's layers.
        text: whether the record may hold tokens, what stands around them, and the samples' own ids and categories, which are
            numbers from 0 otherwise: for data that is private. It then has no arrays either, since from how often each value
            occurs at `embedding` and the model's weights the tokens can be told. A corpus that was loaded without stays so.
        progress: called with the tokens done and the tokens in all, at the start and after each batch.
        resume: a folder in which a `Checkpoint`'s run keeps how far it has come, every ten seconds, and from which the same
            run goes on; also when all is done, so remove it when the record is safe.
        ranks: processes that share the run, this one being rank 0; all others call `assist` with the same arguments.

    Returns:
        The record, with its arrays where it may hold texts: activations are as the model computes them, SQNR in dB, times in
        seconds.

    Raises:
        CorpusError: where the corpus cannot be found, read, or does not fit the model.
        SettingsError: where there are no such further sites, or a model in memory is to be resumed.
        AnatomyError: where the model's sites cannot be found with certainty, or it is sharded or has virtual tokens.
        MeasurementError: where a site was never reached, the activations have a dtype that cannot be judged, autocast is on,
            batches are not as above, there are no tokens, memory is too short for a single sample, or a rank is lost.

    """
    checkpoint = model if isinstance(model, Checkpoint) else None
    if resume is not None and (checkpoint is None or checkpoint.reference.fingerprint is None):
        raise SettingsError("only a checkpoint from a file can be resumed: what a model in memory holds may have changed since")
    if resume is not None and not text:
        raise SettingsError("what is kept of a run that can be resumed tells its tokens: leave out resume, or text=False")
    if resume is not None:
        batch_tokens = batch_tokens or dealt_tokens(resume)  # by the memory that was free then
    module = unwrapped(model.model if isinstance(model, Checkpoint) else model)
    with observing(module):
        source: Corpus | Batches
        if batches is None:
            source = load_corpus(corpus, text=text) if isinstance(corpus, str) else corpus
            source = source if samples is None else source.first(samples)
            source = source if text else replace(source, text=False)
            tokenizer = tokenizer if checkpoint is None else checkpoint.preprocessor(source)
        else:
            source, tokenizer = batches, tokenizer if checkpoint is None else checkpoint.tokenizer
        run = _Run.of(module, tokenizer, source, max_length, special_tokens, batch_tokens, sites, ranks)
        work = run.work if text else replace(run.work, text=False)
        model_facts = _describe(run.anatomy, module, checkpoint)
        kept = None if resume is None else Kept(resume, run.conditions(model_facts, checkpoint))
        if ranks is not None:
            ranks.agree_on(run.conditions(model_facts, checkpoint))
        forwards = Forwards(run.observer, work, run.device, progress=progress, kept=kept, ranks=ranks)
        forwards.run()
        seconds = forwards.seconds
    anatomy, observer, device = run.anatomy, run.observer, run.device
    texts = Texts(work, tokenizer)
    figures, arrays = observer.finish(texts)
    samples_of = _samples(work, observer)
    record = Measurement(
        model=model_facts,
        corpus=work.facts,
        environment=Environment(
            python=platform.python_version(),
            torch=torch.__version__,
            transformers=transformers.__version__,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            threads=torch.get_num_threads(),
            ranks=1 if ranks is None else ranks.size,
            batch_tokens=forwards.batch_tokens,
            kernel=observer.kernel,
        ),
        peak=outcome.peak(figures),
        dominance=outcome.dominance(figures),
        sun=outcome.sun(figures),
        trajectory=outcome.trajectory(figures),
        modalities=observer.modalities(texts),
        first_fault=outcome.first_fault(figures),
        sites=figures,
        samples=samples_of,
        parts=_parts(work, samples_of, texts),
        notes=[
            *work.notes,
            *anatomy.notes,
            *outcome.unused_experts(figures),
            *(checkpoint.notes if checkpoint else ()),
            *_slow_cpu(anatomy.core, device),
            *observer.notes,
            *forwards.notes,
        ],
        timing=Timing(
            seconds=seconds,
            tokens_per_s=work.facts.tokens / seconds,
            measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            hook_fraction=observer.seconds / (seconds - observer.seconds) if device.type == "cpu" and ranks is None else None,
        ),
    )
    return record.with_arrays(arrays) if work.text else record  # how often values occur tells which tokens did


def assist(
    checkpoint: Checkpoint,
    corpus: Corpus,
    ranks: Ranks,
    *,
    max_length: int | None = None,
    special_tokens: SpecialTokens = "none",
    batch_tokens: int | None = None,
    sites: Collection[str] = (),
    resume: Path | None = None,
) -> None:
    """The part of any other rank in rank 0's `measure`; with its arguments, and for its errors.

    Raises:
        MeasurementError: as `measure` does, and where this rank's checkpoint, corpus or machine are not those of rank 0.

    """
    module = unwrapped(checkpoint.model)
    with observing(module):
        run = _Run.of(module, checkpoint.preprocessor(corpus), corpus, max_length, special_tokens, batch_tokens, sites, ranks)
        conditions = run.conditions(_describe(run.anatomy, module, checkpoint), checkpoint)
        ranks.agree_on(conditions)
        kept = None if resume is None else Kept(resume, conditions, ranks.rank)
        Forwards(run.observer, run.work, run.device, kept=kept, ranks=ranks).assist(ranks)


@dataclass(frozen=True)
class _Run:
    """What is about to be run."""

    anatomy: Anatomy
    work: Work
    observer: Observer
    device: torch.device

    @classmethod
    def of(
        cls,
        model: nn.Module,
        tokenizer: Any,
        source: Corpus | Batches,
        max_length: int | None,
        special_tokens: SpecialTokens,
        batch_tokens: int | None,
        sites: Collection[str],
        ranks: Ranks | None,
    ) -> _Run:
        """Of a model that is being `observing`; the arguments are as for `measure`, `source` a corpus or ready batches."""
        unknown = [name for name in sites if name != LINEAR_INPUTS]
        if unknown:
            raise SettingsError(f"there are no sites {unknown[0]!r} to add: there are {LINEAR_INPUTS}")
        unpack(model)
        anatomy = find_sites(model, linear_inputs=LINEAR_INPUTS in sites)
        device = device_of(anatomy)
        if isinstance(source, Corpus):
            batch_tokens = batch_tokens or default_batch_tokens(text_config(anatomy.core), device)
            if ranks is not None:  # by the memory that is free, which may differ
                batch_tokens = ranks.agree(batch_tokens)
            work = deal_out(model, anatomy, tokenizer, source, max_length, special_tokens, batch_tokens)
        else:
            work = from_batches(source, int(text_config(anatomy.core).vocab_size))
        if anatomy.needs_whole_batches:
            work = work.without_padding()
        pictured = next((batch for batch in work.batches if batch.extra), None)
        if pictured is not None:
            anatomy = anatomy.with_images(pictured.inputs(device), linear_inputs=LINEAR_INPUTS in sites)
        return cls(anatomy, work, Observer(anatomy, len(work.names)), device)

    def conditions(self, model: Model, checkpoint: Checkpoint | None) -> dict[str, str]:
        """All that the figures follow from to the bit."""
        batches = hashlib.sha256()
        for batch in self.work.batches:
            for tensor in (batch.ids, batch.mask, batch.samples):
                batches.update(f"{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
        sites = "; ".join(f"{placement.site} {placement.name} {placement.dtype}" for placement in self.anatomy.placements)
        cuda = self.device.type == "cuda"
        computing = [f"{name} {version(name)}" for name in ("pytest-maxact", "torch", "transformers")]
        computing += [] if checkpoint is None else libraries(checkpoint.reference)
        if any(batch.extra for batch in self.work.batches):
            computing += [f"pillow {version('pillow')}", f"torchvision {find_spec('torchvision') and version('torchvision')}"]
        return {
            "checkpoint": f"{model.id} {model.fingerprint}",
            "corpus": f"{self.work.facts.id} {self.work.facts.digest}",
            "special tokens": self.work.facts.special_tokens,
            "batches of tokens": f"{self.work.batch_tokens} {batches.hexdigest()}",
            "dtype": model.dtype,
            "attention": str(model.attention),
            "sites": hashlib.sha256(sites.encode()).hexdigest(),
            "device": torch.cuda.get_device_name(self.device) if cuda else self.device.type,
            "threads": str(torch.get_num_threads()),
            "kernel": self.observer.kernel,
            "versions": ", ".join(computing),
        }


def explain(checkpoint: Checkpoint, *, sites: Collection[str] = ()) -> list[str]:
    """Where the sites of a checkpoint are and how each was found, as lines of 80 columns.

    Raises:
        AnatomyError: as `measure` does.

    """
    model = unwrapped(checkpoint.model)
    with observing(model):
        unpack(model)
        anatomy = find_sites(model, linear_inputs=LINEAR_INPUTS in sites)
    rows = [Row(placement.site, placement.name, placement.rule) for placement in anatomy.placements]
    facts = _describe(anatomy, model, checkpoint)
    title = f"{facts.id}: {facts.architecture}, {facts.layers} layers ({anatomy.stack.rule}), {facts.dtype}"
    return explain_lines(title, rows, anatomy.notes)


def _samples(work: Work, observer: Observer) -> list[SampleFigures]:
    peaks = observer.sample_peaks()
    tokens = dict.fromkeys(range(len(work.names)), 0)
    for batch in work.batches:
        for sample, count in zip(batch.samples.tolist(), batch.mask.sum(-1).tolist(), strict=True):
            tokens[sample] += count
    return [
        SampleFigures(id=name, category=category, tokens=tokens[index], peak=peak, position=position)
        for index, (name, category, (peak, position)) in enumerate(zip(work.names, work.categories, peaks, strict=True))
    ]


def _parts(work: Work, samples: Sequence[SampleFigures], texts: Texts) -> list[PartPeak]:
    """M of each corpus that was joined; nothing where one ran alone."""
    parts = []
    for corpus in dict.fromkeys(name for name in work.corpora if name is not None):
        own = [index for index, name in enumerate(work.corpora) if name == corpus]
        tokens = sum(samples[index].tokens for index in own)
        first = max(own, key=lambda index: -1.0 if math.isnan(samples[index].peak) else samples[index].peak)
        peak = samples[first]
        token = None if peak.position is None else texts.token(first, peak.position)
        parts.append(
            PartPeak(
                corpus=corpus,
                samples=len(own),
                tokens=tokens,
                value=peak.peak,
                sample=None if math.isnan(peak.peak) else peak.id,
                position=peak.position,
                token=token,
            )
        )
    return parts


def deal_out(
    model: nn.Module,
    anatomy: Anatomy,
    tokenizer: Any,
    corpus: Corpus,
    max_length: int | None,
    special_tokens: SpecialTokens,
    batch_tokens: int | None,
) -> Work:
    """A corpus as batches for a model, their size by its device and memory where none is given.

    Raises:
        CorpusError: where the corpus does not fit the model.

    """
    config: Any = getattr(model, "config", anatomy.core.config)
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.dtype.is_floating_point)
    budget = batch_tokens or default_batch_tokens(text_config(anatomy.core), device_of(anatomy))
    return from_corpus(corpus, tokenizer, config, max_length, special_tokens, budget, dtype)


def device_of(anatomy: Anatomy) -> torch.device:
    """Where token ids go in."""
    return input_device(anatomy.core)


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Evaluation without gradients, of the model as it is written; afterwards all modes are what they were.

    Raises:
        MeasurementError: under autocast.

    """
    for device in {parameter.device.type for parameter in model.parameters()} - {"meta"}:  # offloaded by accelerate
        if torch.is_autocast_enabled(device):
            dtype = str(torch.get_autocast_dtype(device)).removeprefix("torch.")
            raise MeasurementError(f"autocast to {dtype} is on: measure outside of it, in the model's own dtype")
    training = [module for module in model.modules() if module.training]
    # Not inference mode: what a model keeps of a forward, such as tables of positions, must serve in training steps too.
    with as_written(model), _random_states(model), torch.no_grad():
        try:
            for module in training:  # not model.eval(), which some modules override to merge their adapters
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


@contextmanager
def _random_states(model: nn.Module) -> Iterator[None]:
    """Random numbers go on afterwards as if none had been drawn: a shuffled loader of batches draws some."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng({parameter.device for parameter in model.parameters() if parameter.is_cuda}):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def default_batch_tokens(config: Any, device: torch.device) -> int:
    """A power of two, so that a little more or less free memory does not change how samples are batched."""
    if device.type == "cuda":
        budget, free = GPU_BATCH_TOKENS, torch.cuda.mem_get_info(device)[0]
    else:
        budget, free = CPU_BATCH_TOKENS, psutil.virtual_memory().available
    # About sixteen float32 tensors of the widest kind are alive inside a layer and its scan; use half of what is free.
    widest = max(int(config.hidden_size), int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size))
    while budget > LEAST_BATCH_TOKENS and budget * widest * 16 * 4 > free / 2:
        budget //= 2
    return budget


def _describe(anatomy: Anatomy, model: nn.Module, checkpoint: Checkpoint | None) -> Model:
    config: Any = anatomy.core.config
    parameters = list(anatomy.core.parameters())
    reference = None if checkpoint is None else checkpoint.reference
    return Model(
        id=type(model).__name__ if reference is None else reference.id,
        base=None if reference is None or reference.base is None else reference.base.named,
        revision=None if reference is None else reference.revision,
        fingerprint=None if reference is None else reference.fingerprint,
        architecture=(getattr(config, "architectures", None) or [type(model).__name__])[0],
        model_type=config.model_type,
        layers=anatomy.layers,
        hidden_size=anatomy.hidden_size,
        parameters=sum(parameter.numel() for parameter in parameters),
        dtype=str(next((p.dtype for p in parameters if p.dtype in ENCODINGS), anatomy.placements[0].dtype))[6:],
        attention=getattr(config, "_attn_implementation", None),
        quantization=method(config if reference is None else reference.config),
    )


def _slow_cpu(core: nn.Module, device: torch.device) -> list[str]:
    half = next(parameter.dtype for parameter in core.parameters()) in (torch.bfloat16, torch.float16)
    mkldnn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # else nothing is known
    if device.type != "cpu" or not half or not mkldnn or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return []
    return [
        "slow: this CPU has no bfloat16 arithmetic; --maxact-dtype=float32, against a baseline of it, is several times faster"
    ]
