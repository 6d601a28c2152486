"""What observing costs on a model: the same batch through it plain and hooked, in turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import psutil
import torch
from torch import nn

from pytest_maxact.anatomy import find_sites
from pytest_maxact.batching import Texts
from pytest_maxact.corpus import Corpus
from pytest_maxact.observer import Observer
from pytest_maxact.prompts import SpecialTokens
from pytest_maxact.record import Overhead
from pytest_maxact.runner import deal_out, device_of, observing
from pytest_maxact.wrappers import run, unwrapped

ROUNDS = 3
MEBIBYTE = 1 << 20
LOOK_EVERY_SECONDS = 0.002


def overhead(
    model: nn.Module,
    tokenizer: Any,
    corpus: Corpus,
    *,
    max_length: int | None = None,
    special_tokens: SpecialTokens = "none",
    batch_tokens: int | None = None,
) -> Overhead:
    """Compare plain and hooked forwards of the corpus's largest batch.

    Raises:
        MaxactError: as `measure` does.

    """
    model = unwrapped(model)
    with observing(model):
        anatomy = find_sites(model)
        work = deal_out(model, anatomy, tokenizer, corpus, max_length, special_tokens, batch_tokens)
        if anatomy.needs_whole_batches:
            work = work.without_padding()
        batch = max(work.batches, key=lambda batch: batch.tokens)
        device = device_of(anatomy)

        def plain() -> None:
            run(anatomy.core, batch.inputs(device))

        plain()  # the first forward of a process is slower
        _, plain_memory = _cost(plain, device)  # before the observer and its counts are there
        observer = Observer(anatomy, len(work.names))

        def hooked() -> None:
            with observer.hooked():
                observer.run(batch, device)

        hooked()
        plain_s, hooked_s, inside_s, memory = [], [], [], []
        for _ in range(ROUNDS):
            plain_s.append(_cost(plain, device)[0])
            observer.seconds = 0.0
            seconds, hooked_memory = _cost(hooked, device)
            hooked_s.append(seconds)
            inside_s.append(observer.seconds)
            memory.append(hooked_memory - plain_memory)
    start = time.perf_counter()
    observer.finish(Texts(work, None))
    finishing = time.perf_counter() - start
    tokens = batch.mask.numel()
    return Overhead(
        kernel=observer.kernel,
        rounds=ROUNDS,
        tokens=tokens,
        plain_tokens_per_s=tokens / median(plain_s),
        hooked_tokens_per_s=tokens / median(hooked_s),
        in_hook=None if device.type == "cuda" else 1 + median(inside_s) / median(plain_s),
        wall=median(hooked_s) / median(plain_s),
        memory_mb=max(memory),
        finishing_s=finishing,
    )


def _cost(forward: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Seconds, and the peak of memory in MiB: allocated on a GPU, else resident."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        forward()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start, torch.cuda.max_memory_allocated(device) / MEBIBYTE
    with _resident_peak() as peak:
        start = time.perf_counter()
        forward()
        seconds = time.perf_counter() - start
    return seconds, peak[0]


@contextmanager
def _resident_peak() -> Iterator[list[float]]:
    """The process's largest resident set meanwhile, in MiB, looked at every few milliseconds."""
    process, done = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss / MEBIBYTE]

    def watch() -> None:
        while not done.wait(LOOK_EVERY_SECONDS):
            peak[0] = max(peak[0], process.memory_info().rss / MEBIBYTE)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
