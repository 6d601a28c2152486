"""The run: hooks on the sites, batches through the model, figures to a `Measurement`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import torch
import transformers
from torch import nn

from pytest_maxact import outcome
from pytest_maxact.anatomy import Anatomy, Placement, find_sites, hooks, tensor_of, text_config
from pytest_maxact.batching import Batch, Texts, from_batches, from_corpus
from pytest_maxact.checkpoint import Checkpoint
from pytest_maxact.corpus import Corpus, SpecialTokens, load_corpus
from pytest_maxact.errors import MeasurementError
from pytest_maxact.record import (
    WITH_SUN,
    Environment,
    Measurement,
    Model,
    SiteFigures,
    Timing,
)
from pytest_maxact.reducers.extrema import Extrema
from pytest_maxact.reducers.kernels.eager import scan
from pytest_maxact.reducers.rows import ENCODINGS, Rows, Scan
from pytest_maxact.reducers.sun import Sun

# More tokens a forward gain nothing beyond these; less memory than they need halves them.
CPU_BATCH_TOKENS = 4096
GPU_BATCH_TOKENS = 16384
LEAST_BATCH_TOKENS = 512

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
    """Run a corpus through a model once and record what every site held.

    Args:
        model: a transformers model in memory, or a loaded `Checkpoint`, which brings its tokenizer.
        tokenizer: the model's tokenizer; needed for a corpus of texts.
        corpus: a corpus, or the name of one (see `load_corpus`).
        batches: ready batches instead of a corpus, each with `input_ids` [B, T] and optionally `attention_mask` [B, T]
            (0 for padding, at either side); sample ids are then the rows' numbers from 0.
        samples: only the first so many samples, categories kept in proportion.
        max_length: tokens kept of a sample; the least of 4096 and the model's context by default.
        special_tokens: what is put around a text: `none`, `tokenizer` or `chat`.
        batch_tokens: token budget of a batch, padding counted; by device and free memory where not given.
        progress: called with the tokens done and the tokens in all, at the start and after each batch.

    Raises:
        CorpusError: where the corpus cannot be found, read, or does not fit the model.
        AnatomyError: where the model's sites cannot be found with certainty.
        MeasurementError: where a site was never reached, or the activations have a dtype that cannot be judged.

    """
    checkpoint = model if isinstance(model, Checkpoint) else None
    if isinstance(model, Checkpoint):
        model, tokenizer = model.model, model.tokenizer
    with _observing(model), torch.inference_mode():
        anatomy = find_sites(model)
        device = next(anatomy.core.parameters()).device
        config = text_config(anatomy.core)
        if batches is None:
            chosen = load_corpus(corpus) if isinstance(corpus, str) else corpus
            chosen = chosen if samples is None else chosen.first(samples)
            batch_tokens = batch_tokens or _batch_tokens(config, device)
            work = from_corpus(chosen, tokenizer, config, max_length, special_tokens, batch_tokens)
        else:
            work = from_batches(batches, int(config.vocab_size))
        observer = _Observer(anatomy)
        seconds = _run(observer, work.batches, device, progress)
    texts = Texts(work, tokenizer)
    sites = [observer.figures(placement, texts) for placement in anatomy.placements]
    return Measurement(
        model=_describe(anatomy, model, checkpoint),
        corpus=work.facts,
        environment=Environment(
            python=platform.python_version(),
            torch=torch.__version__,
            transformers=transformers.__version__,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            threads=torch.get_num_threads(),
            ranks=1,
            batch_tokens=batch_tokens,
        ),
        peak=outcome.peak(sites),
        dominance=outcome.dominance(sites),
        sun=outcome.sun(sites),
        trajectory=outcome.trajectory(sites),
        sites=sites,
        notes=[*anatomy.notes, *_slow_cpu(anatomy.core, device)],
        timing=Timing(seconds=seconds, tokens_per_s=work.facts.tokens / seconds),
    )


class _Observer:
    """Holds the reducers of every site; its hooks scan a batch, `take` reduces it when it is through."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.extrema = {placement: Extrema() for placement in anatomy.placements}
        self.sun = {placement: Sun() for placement in anatomy.placements if placement.site.component in WITH_SUN}
        self._scans: dict[Placement, Scan] = {}
        self._order = torch.empty(0)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        with hooks({placement.module: self._hook(placement) for placement in self.anatomy.placements}):
            yield

    def forward(self, batch: Batch, device: torch.device) -> None:
        self._order = batch.order.to(device)
        self._scans = {}
        self.anatomy.core(**batch.inputs(device), use_cache=False)

    def take(self, batch: Batch) -> None:
        for placement in self.anatomy.placements:
            if placement not in self._scans:
                raise MeasurementError(f"{placement.site} ({placement.name}) was not reached by a batch: its peak is unknown")
            rows = Rows.from_scan(self._scans[placement], batch.real, batch.sample, batch.position)
            self.extrema[placement] = self.extrema[placement].update(rows)
            if placement in self.sun:
                self.sun[placement] = self.sun[placement].update(rows)
        self._scans = {}

    def figures(self, placement: Placement, texts: Texts) -> SiteFigures:
        found = self.extrema[placement].finish()
        sun = self.sun[placement].finish() if placement in self.sun else None
        return SiteFigures(
            component=placement.site.component,
            layer=placement.site.layer,
            max=float("nan") if found.largest is None else found.largest,
            min=float("nan") if found.smallest is None else found.smallest,
            count=found.count,
            nan=found.nan,
            inf=found.inf,
            peak=None if found.peak is None else texts.location(found.peak.sample, found.peak.position, found.peak.feature),
            sun=sun,
        )

    def _hook(self, placement: Placement) -> Callable[..., None]:
        median = placement in self.sun

        def observe(module: nn.Module, args: Any, output: Any) -> None:
            activations = tensor_of(output, placement.index)
            if activations.dtype not in ENCODINGS:
                known = ", ".join(str(dtype).removeprefix("torch.") for dtype in ENCODINGS)
                raise MeasurementError(f"{placement.site} holds {activations.dtype}, which is none of {known}")
            if placement in self._scans:
                raise MeasurementError(f"{placement.site} ({placement.name}) ran more than once in a batch")
            order = self._order.to(activations.device)
            if activations.numel() // activations.shape[-1] != len(order):
                raise MeasurementError(
                    f"{placement.site} holds {tuple(activations.shape)}: its rows are not the batch's tokens"
                )
            self._scans[placement] = scan(activations, order, median=median)

        return observe


def _run(observer: _Observer, batches: list[Batch], device: torch.device, progress: Progress | None) -> float:
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
            observer.forward(batch, device)
            observer.take(batch)
            done += batch.tokens
            if progress is not None:
                progress(done, total)
    return time.perf_counter() - start


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


@contextmanager
def _observing(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, each module's own mode restored afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _describe(anatomy: Anatomy, model: nn.Module, checkpoint: Checkpoint | None) -> Model:
    config: Any = anatomy.core.config
    parameters = list(anatomy.core.parameters())
    reference = None if checkpoint is None else checkpoint.reference
    return Model(
        id=type(model).__name__ if reference is None else reference.id,
        revision=None if reference is None else reference.revision,
        fingerprint=None if checkpoint is None else checkpoint.fingerprint,
        architecture=(getattr(config, "architectures", None) or [type(model).__name__])[0],
        model_type=config.model_type,
        layers=anatomy.layers,
        hidden_size=anatomy.hidden_size,
        parameters=sum(parameter.numel() for parameter in parameters),
        dtype=str(next(p.dtype for p in parameters if p.dtype.is_floating_point)).removeprefix("torch."),
        attention=getattr(config, "_attn_implementation", None),
        quantization=_quantization(config),
    )


def _slow_cpu(core: nn.Module, device: torch.device) -> list[str]:
    half = next(parameter.dtype for parameter in core.parameters()) in (torch.bfloat16, torch.float16)
    mkldnn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # else nothing is known
    if device.type != "cpu" or not half or not mkldnn or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return []
    return [
        "slow: this CPU has no bfloat16 arithmetic; --maxact-dtype=float32, against a baseline of it, is several times faster"
    ]


def _quantization(config: Any) -> str | None:
    scheme = getattr(config, "quantization_config", None)
    if scheme is None:
        return None
    method = scheme.get("quant_method") if isinstance(scheme, dict) else scheme.quant_method
    return str(getattr(method, "value", method))
