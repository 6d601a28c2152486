"""The run: hooks on the sites, batches through the model, figures to a `Measurement`."""

from __future__ import annotations

import math
import platform
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from torch import nn

from pytest_maxact import outcome
from pytest_maxact.anatomy import Anatomy, find_sites, text_config
from pytest_maxact.batching import Batch, Texts, Work, from_batches, from_corpus
from pytest_maxact.checkpoint import Checkpoint
from pytest_maxact.corpus import Corpus, load_corpus
from pytest_maxact.errors import MeasurementError, SettingsError
from pytest_maxact.observer import Observer
from pytest_maxact.prompts import SpecialTokens
from pytest_maxact.quantized import method, unpack
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
from pytest_maxact.wrappers import as_written, input_device, unwrapped

# More tokens a forward gain nothing beyond these; less memory than they need halves them.
CPU_BATCH_TOKENS = 4096
GPU_BATCH_TOKENS = 16384
LEAST_BATCH_TOKENS = 512
LINEAR_INPUTS = "+linear-inputs"

Progress = Callable[[int, int], None]


def measure(
    model: nn.Module | Checkpoint,
    tokenizer: Any = None,
    corpus: str | Corpus = "core",
    *,
    batches: Iterable[Mapping[str, torch.Tensor]] | None = None,
    samples: int | None = None,
    max_length: int | None = None,
    special_tokens: SpecialTokens = "none",
    batch_tokens: int | None = None,
    sites: Collection[str] = (),
    text: bool = True,
    progress: Progress | None = None,
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

    Returns:
        The record, with its arrays where it may hold texts: activations are as the model computes them, SQNR in dB, times in
        seconds.

    Raises:
        CorpusError: where the corpus cannot be found, read, or does not fit the model.
        SettingsError: where there are no such further sites.
        AnatomyError: where the model's sites cannot be found with certainty, or it is sharded or has virtual tokens.
        MeasurementError: where a site was never reached, the activations have a dtype that cannot be judged, autocast is on,
            batches are not as above, or there are no tokens.

    """
    unknown = [name for name in sites if name != LINEAR_INPUTS]
    if unknown:
        raise SettingsError(f"there are no sites {unknown[0]!r} to add: there are {LINEAR_INPUTS}")
    checkpoint = model if isinstance(model, Checkpoint) else None
    if isinstance(model, Checkpoint):
        model, tokenizer = model.model, model.tokenizer
    model = unwrapped(model)
    with observing(model):
        unpack(model)
        anatomy = find_sites(model, linear_inputs=LINEAR_INPUTS in sites)
        device = device_of(anatomy)
        if batches is None:
            chosen = load_corpus(corpus, text=text) if isinstance(corpus, str) else corpus
            chosen = chosen if samples is None else chosen.first(samples)
            chosen = chosen if text else replace(chosen, text=False)
            tokenizer = tokenizer if checkpoint is None else checkpoint.preprocessor(chosen)
            work = deal_out(model, anatomy, tokenizer, chosen, max_length, special_tokens, batch_tokens)
        else:
            work = replace(from_batches(batches, int(text_config(anatomy.core).vocab_size)), text=text)
        if anatomy.needs_whole_batches:
            work = work.without_padding()
        pictured = next((batch for batch in work.batches if batch.extra), None)
        if pictured is not None:
            anatomy = anatomy.with_images(pictured.inputs(device), linear_inputs=LINEAR_INPUTS in sites)
        observer = Observer(anatomy, len(work.names))
        seconds = _run(observer, work.batches, device, progress)
    texts = Texts(work, tokenizer)
    figures, arrays = observer.finish(texts)
    samples_of = _samples(work, observer)
    record = Measurement(
        model=_describe(anatomy, model, checkpoint),
        corpus=work.facts,
        environment=Environment(
            python=platform.python_version(),
            torch=torch.__version__,
            transformers=transformers.__version__,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            threads=torch.get_num_threads(),
            ranks=1,
            batch_tokens=work.batch_tokens,
            kernel=observer.kernel,
        ),
        peak=outcome.peak(figures),
        dominance=outcome.dominance(figures),
        sun=outcome.sun(figures),
        trajectory=outcome.trajectory(figures),
        modalities=observer.modalities(texts),
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
        ],
        timing=Timing(
            seconds=seconds,
            tokens_per_s=work.facts.tokens / seconds,
            measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            hook_fraction=None if device.type != "cpu" else observer.seconds / (seconds - observer.seconds),
        ),
    )
    return record.with_arrays(arrays) if work.text else record  # how often values occur tells which tokens did


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


def _run(observer: Observer, batches: list[Batch], device: torch.device, progress: Progress | None) -> float:
    """Seconds of the forwards and their reductions."""
    total = sum(batch.tokens for batch in batches)
    if not total:
        raise MeasurementError("there is nothing to measure: the corpus has no tokens")
    done = 0
    start = time.perf_counter()
    with observer.hooked():
        if progress is not None:
            progress(done, total)
        for batch in batches:
            if not batch.tokens:
                continue
            observer.run(batch, device)
            done += batch.tokens
            if progress is not None:
                progress(done, total)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - start


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
    budget = batch_tokens or _batch_tokens(text_config(anatomy.core), device_of(anatomy))
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


def _batch_tokens(config: Any, device: torch.device) -> int:
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
