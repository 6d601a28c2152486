"""Work in several threads at once: torch's own where they can be had."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

_HOME = os.getpid()
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def in_threads(work: Callable[[], Result]) -> list[Result]:
    """Call `work` once in each of torch's threads, this one among them; what they gave, in any order.

    torch leaves its threads spinning for some milliseconds after each operation, and beside them threads of our own would get
    half of a core; so these are the same ones, as a parallel region of the OpenMP that torch was linked to.

    Raises:
        BaseException: what `work` raised in this thread, else the first that it raised in another; when all have ended.

    """
    # A forked child has neither OpenMP's threads nor a pool's, and waits for ever on those that it seems to have.
    process, threads = os.getpid(), torch.get_num_threads()
    region = _region() if process == _HOME else None
    if threads == 1:
        return [work()]
    if region is None:
        others = [_pool(process, threads).submit(work) for _ in range(threads - 1)]
        try:
            mine = work()
        finally:
            wait(others)
        return [*(other.result() for other in others), mine]
    begin, end = region
    results: list[Result] = []
    raised: list[Exception] = []

    def in_another(_: Any) -> None:
        try:
            results.append(work())
        except Exception as cause:  # nothing passes through the region
            raised.append(cause)

    others_work = _WORK(in_another)
    try:  # this thread works outside of any callback, in which an interrupt would be lost
        begin(others_work, None, threads)
        results.append(work())
    finally:
        end()
    if raised:
        raise raised[0]
    return results


@cache
def _region() -> tuple[Callable[..., None], Callable[[], None]] | None:
    """What begins and ends a parallel region of torch's OpenMP; None where that is none that has GNU's entry points."""
    try:
        library = ctypes.CDLL(torch._C.__file__)
        begin, end = library.GOMP_parallel_start, library.GOMP_parallel_end
    except (OSError, AttributeError):
        return None
    begin.argtypes, begin.restype = [_WORK, ctypes.c_void_p, ctypes.c_uint], None
    end.argtypes, end.restype = [], None
    return begin, end


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="maxact")
