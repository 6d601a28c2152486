"""The run: hooks on the sites, batches through the model, figures to a `Measurement`."""

from __future__ import annotations

import math
import platform
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from torch import nn

from pytest_maxact import outcome
from pytest_maxact.anatomy import Anatomy, Placement, find_sites, hooks, tensor_of, text_config
from pytest_maxact.batching import Batch, Texts, Work, from_batches, from_corpus
from pytest_maxact.checkpoint import Checkpoint
from pytest_maxact.corpus import Corpus, SpecialTokens, load_corpus
from pytest_maxact.errors import MeasurementError
from pytest_maxact.formats import sqnr
from pytest_maxact.quantized import method, unpack
from pytest_maxact.record import (
    WITH_SUN,
    Environment,
    Measurement,
    Model,
    SampleFigures,
    SiteFigures,
    Timing,
)
from pytest_maxact.reducers.encoding import ENCODINGS
from pytest_maxact.reducers.experts import ExpertTokens, chosen_experts
from pytest_maxact.reducers.group import SiteGroup, SiteResult
from pytest_maxact.reducers.kernels import Shape, choose
from pytest_maxact.sidecar import Arrays
from pytest_maxact.wrappers import as_written, input_device, unwrapped

# More tokens a forward gain nothing beyond these; less memory than they need halves them.
CPU_BATCH_TOKENS = 4096
GPU_BATCH_TOKENS = 16384
LEAST_BATCH_TOKENS = 512
GROUP_SITES = 32  # reduced at once; more take memory, fewer take launches on a GPU
QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999)

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
    progress: Progress | None = None,
) -> Measurement:
    """Run a corpus through a model once and record what every site held; M is that of arXiv 2605.15572.

    The model is observed in evaluation mode and without gradients, and is left as it was: its modes, hooks, gradients and
    compiled code, and the states of random generators.

    Args:
        model: a transformers model in memory, with adapters of PEFT or without, also inside `DistributedDataParallel`,
            `DataParallel` or `torch.compile`; or a loaded `Checkpoint`, which brings its tokenizer.
        tokenizer: the model's tokenizer; needed for a corpus of texts.
        corpus: a corpus, or the name of one (see `load_corpus`).
        batches: ready batches instead of a corpus, each with `input_ids` [B, T] and optionally `attention_mask` [B, T]
            (0 for padding, at either side); sample ids are then the rows' numbers from 0.
        samples: only the first so many samples, categories kept in proportion.
        max_length: tokens kept of a sample; the least of 4096 and the model's context by default.
        special_tokens: what is put around a text: `none`, `tokenizer` or `chat`.
        batch_tokens: token budget of a batch, padding counted; by device and free memory where not given.
        progress: called with the tokens done and the tokens in all, at the start and after each batch.

    Returns:
        The record, with its arrays: activations are as the model computes them, SQNR in dB, times in seconds.

    Raises:
        CorpusError: where the corpus cannot be found, read, or does not fit the model.
        AnatomyError: where the model's sites cannot be found with certainty, or it is sharded or has virtual tokens.
        MeasurementError: where a site was never reached, the activations have a dtype that cannot be judged, autocast is on,
            batches are not as above, or there are no tokens.

    """
    checkpoint = model if isinstance(model, Checkpoint) else None
    if isinstance(model, Checkpoint):
        model, tokenizer = model.model, model.tokenizer
    model = unwrapped(model)
    with observing(model):
        unpack(model)
        anatomy = find_sites(model)
        device = device_of(anatomy)
        if batches is None:
            chosen = load_corpus(corpus) if isinstance(corpus, str) else corpus
            chosen = chosen if samples is None else chosen.first(samples)
            work = deal_out(anatomy, tokenizer, chosen, max_length, special_tokens, batch_tokens)
        else:
            work = from_batches(batches, int(text_config(anatomy.core).vocab_size))
        observer = Observer(anatomy, len(work.names))
        seconds = _run(observer, work.batches, device, progress)
    sites, arrays = observer.finish(Texts(work, tokenizer))
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
        peak=outcome.peak(sites),
        dominance=outcome.dominance(sites),
        sun=outcome.sun(sites),
        trajectory=outcome.trajectory(sites),
        sites=sites,
        samples=_samples(work, observer),
        notes=[*anatomy.notes, *(checkpoint.notes if checkpoint else ()), *_slow_cpu(anatomy.core, device), *observer.notes],
        timing=Timing(
            seconds=seconds,
            tokens_per_s=work.facts.tokens / seconds,
            measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            hook_fraction=None if device.type != "cpu" else observer.seconds / (seconds - observer.seconds),
        ),
    )
    return record.with_arrays(arrays)


class Observer:
    """Holds the groups of all sites: its hooks let a kernel read what each site gave, `take` reduces a batch that is through.

    seconds: spent in hooks and reductions so far, as the host sees it.
    """

    def __init__(self, anatomy: Anatomy, samples: int) -> None:
        self.anatomy = anatomy
        self.seconds = 0.0
        self._seen: set[Placement] = set()
        alike: dict[tuple[torch.dtype, torch.device, bool], list[Placement]] = {}
        shapes: dict[torch.device, set[Shape]] = {}
        for placement in anatomy.placements:
            _check_dtype(placement, placement.dtype)
            device, sun = _home(placement.device), placement.site.component in WITH_SUN
            alike.setdefault((placement.dtype, device, sun), []).append(placement)
            shapes.setdefault(device, set()).add(Shape(placement.dtype, placement.width, sun))
        self.kernels = {device: choose(device, wanted) for device, wanted in shapes.items()}
        self.groups: list[SiteGroup] = []
        self._slots: dict[Placement, tuple[SiteGroup, int]] = {}
        self._experts: dict[Placement, ExpertTokens] = {}
        for (dtype, device, sun), placements in alike.items():
            for start in range(0, len(placements), GROUP_SITES):
                members = placements[start : start + GROUP_SITES]
                sites = [placement.site for placement in members]
                group = SiteGroup(ENCODINGS[dtype], sites, device, samples=samples, judged_by_sun=sun)
                self.groups.append(group)
                self._slots |= {placement: (group, index) for index, placement in enumerate(members)}

    @property
    def kernel(self) -> str:
        """The kernels in use, by name."""
        return "+".join(sorted({kernel.name for kernel in self.kernels.values()}))

    @property
    def notes(self) -> list[str]:
        """Why a kernel is not the fast one."""
        return sorted({kernel.note for kernel in self.kernels.values() if kernel.note is not None})

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on all sites."""
        with hooks({placement.module: self._hook(placement) for placement in self.anatomy.placements}):
            yield

    def run(self, batch: Batch, device: torch.device) -> None:
        """A batch through the hooked model and into the groups."""
        start = time.perf_counter()
        real, place = batch.real, batch.place
        for group in self.groups:
            group.begin(real, place)
        self._seen.clear()
        self.seconds += time.perf_counter() - start
        self.anatomy.core(**batch.inputs(device), use_cache=False)
        start = time.perf_counter()
        for placement in self.anatomy.placements:
            if placement not in self._seen:
                raise MeasurementError(f"{placement.site} ({placement.name}) was not reached by a batch: its peak is unknown")
        for group in self.groups:
            group.take(batch.samples)
        self.seconds += time.perf_counter() - start

    def finish(self, texts: Texts) -> tuple[list[SiteFigures], Arrays]:
        """The figures of all sites, in the order in which the model ran them."""
        results = {site: result for group in self.groups for site, result in zip(group.sites, group.finish(), strict=True)}
        hidden = {layer: peaks for group in self.groups for layer, peaks in group.hidden_peaks().items()}
        arrays = Arrays(
            histograms=[results[placement.site].histogram for placement in self.anatomy.placements],
            hidden_peaks=np.stack([hidden[layer] for layer in sorted(hidden)]).astype(np.float32),
        )
        experts = {placement: tokens.finish() for placement, tokens in self._experts.items()}
        figures = [_figures(p, results[p.site], experts.get(p), texts) for p in self.anatomy.placements]
        return figures, arrays

    def _hook(self, placement: Placement) -> Callable[..., None]:
        group, index = self._slots[placement]
        scan = self.kernels[group.device].scan

        def observe(module: nn.Module, args: Any, output: Any) -> None:
            start = time.perf_counter()
            activations = tensor_of(output, placement.index)
            if activations.dtype != placement.dtype:
                _check_dtype(placement, activations.dtype)
                raise MeasurementError(
                    f"{placement.site} changed its dtype from {group.encoding.name} to "
                    f"{ENCODINGS[activations.dtype].name}: measure without autocast"
                )
            if placement in self._seen:
                raise MeasurementError(f"{placement.site} ({placement.name}) ran more than once in a batch")
            if activations.numel() // activations.shape[-1] != len(group.rows.real):
                raise MeasurementError(
                    f"{placement.site} holds {tuple(activations.shape)}: its rows are not the batch's tokens"
                )
            self._seen.add(placement)
            scan(activations.to(group.device), group.views[index])
            if placement.site.component == "router":
                self._count_experts(placement, output, group)
            self.seconds += time.perf_counter() - start

        return observe

    def _count_experts(self, placement: Placement, output: Any, group: SiteGroup) -> None:
        chosen = chosen_experts(output, len(group.rows.real))
        if chosen is not None:
            tokens = self._experts.get(placement) or ExpertTokens.zeros(placement.width, group.device)
            self._experts[placement] = tokens.update(chosen.to(group.device), group.rows.real)


def _home(device: torch.device) -> torch.device:
    """Where tensors of a device are read: kernels know CPUs and CUDA devices; others lack float64."""
    return device if device.type == "cuda" else torch.device("cpu")


def _check_dtype(placement: Placement, dtype: torch.dtype) -> None:
    if dtype not in ENCODINGS:
        known = ", ".join(encoding.name for encoding in ENCODINGS.values())
        name = str(dtype).removeprefix("torch.")
        raise MeasurementError(f"{placement.site} holds {name}, which is none of {known}: convert the model to one of them")


def _figures(placement: Placement, found: SiteResult, experts: list[int] | None, texts: Texts) -> SiteFigures:
    high, low = (math.nan, math.nan) if found.high is None or found.low is None else (found.high, found.low)
    moments, histogram = found.moments, found.histogram
    largest = max(abs(high), abs(low))
    return SiteFigures(
        component=placement.site.component,
        layer=placement.site.layer,
        max=high,
        min=low,
        count=int(histogram.counts.sum()),
        nan=found.nan,
        inf=found.inf,
        peak=None if found.peak is None else texts.location(found.peak),
        mean=moments.mean,
        std=moments.std,
        rms=moments.rms,
        abs_mean=moments.abs_mean,
        abs_quantiles={str(q): histogram.quantile(q) for q in QUANTILES},
        top=found.top,
        crest=largest / moments.rms if moments.rms else math.nan,
        sun=found.sun,
        sqnr=sqnr(histogram),
        approximate=not histogram.exact,
        experts=experts,
    )


def _samples(work: Work, observer: Observer) -> list[SampleFigures]:
    peaks = np.stack([group.sample_peaks() for group in observer.groups]).max(0)
    tokens = dict.fromkeys(range(len(work.names)), 0)
    for batch in work.batches:
        for sample, count in zip(batch.samples.tolist(), batch.mask.sum(-1).tolist(), strict=True):
            tokens[sample] += count
    return [
        SampleFigures(id=name, category=category, tokens=tokens[index], peak=math.nan if peak < 0 else float(peak))
        for index, (name, category, peak) in enumerate(zip(work.names, work.categories, peaks, strict=True))
    ]


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
    config = text_config(anatomy.core)
    budget = batch_tokens or _batch_tokens(config, device_of(anatomy))
    return from_corpus(corpus, tokenizer, config, max_length, special_tokens, budget)


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
