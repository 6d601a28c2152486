"""Work in several threads at once: torch's own where they can be had."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

_HOME = os.getpid()
_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def in_threads(work: Callable[[], Result]) -> list[Result]:
    """Call `work` once in each of torch's threads, this one among them; what they gave, in any order.

    torch leaves its threads spinning for some milliseconds after each operation, and beside them threads of our own would get
    half of a core; so these are the same ones, as a parallel region of the OpenMP that torch was linked to.

    Raises:
        BaseException: the first that `work` raised in any of them, when all have ended.

    """
    # A forked child has neither OpenMP's threads nor a pool's, and waits for ever on those that it seems to have.
    process, threads = os.getpid(), torch.get_num_threads()
    parallel = _parallel() if process == _HOME else None
    if threads == 1:
        return [work()]
    if parallel is None:
        others = [_pool(process, threads).submit(work) for _ in range(threads - 1)]
        mine = work()
        return [*(other.result() for other in others), mine]
    results: list[Result] = []
    raised: list[BaseException] = []

    def region(_: Any) -> None:
        try:
            results.append(work())
        except BaseException as cause:  # an interrupt, too: nothing may pass through the region
            raised.append(cause)

    parallel(_REGION(region), None, threads, 0)
    if raised:
        raise raised[0]
    return results


@cache
def _parallel() -> Callable[..., None] | None:
    """What begins a parallel region of torch's OpenMP; None where that is none that has GNU's entry points."""
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes, parallel.restype = [_REGION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return parallel


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="maxact")
