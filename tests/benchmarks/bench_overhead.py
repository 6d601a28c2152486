"""What observing costs on real checkpoints and at real sizes; RESULTS.md keeps what was measured, and how to run this."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModel

from pytest_maxact.anatomy import find_sites
from pytest_maxact.benchmark import MEBIBYTE, overhead
from pytest_maxact.checkpoint import Checkpoint, find, load
from pytest_maxact.corpus import Corpus, Sample, load_corpus, tokenize
from pytest_maxact.reducers import kernels
from pytest_maxact.runner import deal_out, measure, observing
from pytest_maxact.wrappers import run
from tests.test_real_checkpoints import gguf_file

SHAPE = os.environ.get("MAXACT_BENCH_SHAPE", "16x512")
QWEN3_8B = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
}
PAPER_TOKENS = 16_970_000


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    done: dict[str, Checkpoint] = {}

    def load_once(name: str) -> Checkpoint:
        if name not in done:
            done[name] = load(find(str(gguf_file(name, tmp_path_factory.mktemp(name)))))
        return done[name]

    return load_once


def real_text(tokenizer: Any) -> Corpus:
    """The corpus `core`, cut to samples of one length: no padding, whose tokens would cost forwards and not hooks."""
    samples, length = map(int, SHAPE.split("x"))
    ids = [token for sequence in tokenize(load_corpus("core"), tokenizer, "none", 4096) for token in sequence.ids]
    ids *= 1 + samples * length // len(ids)
    rows = (ids[start : start + length] for start in range(0, samples * length, length))
    return Corpus("benchmark", tuple(Sample(str(number), "text", input_ids=tuple(row)) for number, row in enumerate(rows)))


@pytest.mark.checkpoint
@pytest.mark.parametrize("kernel", ["numba", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_real_checkpoint(
    name: str,
    dtype: str,
    kernel: str,
    loaded: Callable[[str], Checkpoint],
    benchmark: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kernel == "eager":
        monkeypatch.setitem(kernels.OLDEST, "numba", (99, 0))
    checkpoint = loaded(name)
    model: Any = checkpoint.model if dtype == "bfloat16" else copy.deepcopy(checkpoint.model).float()
    corpus = real_text(checkpoint.tokenizer)
    found = benchmark.pedantic(overhead, (model, checkpoint.tokenizer, corpus), {"batch_tokens": 1 << 20})
    assert found.kernel == kernel
    show(f"{name} {dtype} {SHAPE} on {torch.get_num_threads()} threads", found.model_dump(), benchmark)


@pytest.mark.checkpoint
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_vocabulary(name: str, loaded: Callable[[str], Checkpoint], benchmark: Any) -> None:
    """Every token alone, in turns with the bare forwards of the same batches; the whole of `measure` counts."""
    checkpoint = loaded(name)
    model: Any = copy.deepcopy(checkpoint.model).float()
    tokenizer, corpus = checkpoint.tokenizer, load_corpus("vocabulary")
    with observing(model):
        anatomy = find_sites(model)
        work = deal_out(model, anatomy, tokenizer, corpus, None, "none", None)
        batches = work.batches
    bare, held = [], list[float]()

    def bare_forwards() -> None:
        start = perf_counter()
        with observing(model):
            for batch in batches:
                run(anatomy.core, batch.inputs(torch.device("cpu")))
        bare.append(perf_counter() - start)

    def hold(done: int, total: int) -> None:
        held.append(psutil.Process().memory_info().rss / MEBIBYTE)

    how = {"batch_tokens": work.batch_tokens, "progress": hold}
    record = benchmark.pedantic(measure, (model, tokenizer, corpus), how, setup=bare_forwards, rounds=3)
    assert record.corpus.tokens == sum(batch.tokens for batch in batches)
    figures = {
        "kernel": record.environment.kernel,
        "tokens": record.corpus.tokens,
        "batches": len(batches),
        "bare_s": median(bare),
        "swept_s": benchmark.stats.stats.median,
        "ratio": benchmark.stats.stats.median / median(bare),
        "grown_mib": max(held[2 : len(batches) + 1]) - held[1],  # since the first round's first batch
        "grown_again_mib": max(held[-len(batches) + 1 :]) - held[-len(batches)],  # in the last round
    }
    show(f"vocabulary of {name} float32 on {torch.get_num_threads()} threads", figures, benchmark)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("tokens", [512, 4096, 16384])
def test_8b_on_a_gpu(tokens: int, benchmark: Any) -> None:
    torch.manual_seed(0)
    with torch.device("cuda"):
        model: Any = AutoModel.from_config(AutoConfig.for_model("qwen3", **QWEN3_8B), dtype=torch.bfloat16)
    ids = torch.randint(0, QWEN3_8B["vocab_size"], (tokens // 512, 512))
    corpus = Corpus("random", tuple(Sample(str(row), "x", input_ids=tuple(ids[row].tolist())) for row in range(len(ids))))
    found = benchmark.pedantic(overhead, (model, None, corpus), {"batch_tokens": tokens})
    minutes = PAPER_TOKENS / found.hooked_tokens_per_s / 60
    figures = found.model_dump() | {"minutes_for_the_papers_corpus": minutes}
    show(f"Qwen3-8B shape, bfloat16, {tokens} tokens, {torch.cuda.get_device_name()}", figures, benchmark)


def show(title: str, figures: dict[str, Any], benchmark: Any) -> None:
    benchmark.extra_info.update(figures)
    target = os.environ.get("MAXACT_BENCH_OUT")
    line = f"{title}: " + ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
    print(line)
    if target:
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
