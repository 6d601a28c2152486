"""Work in torch's own threads: by all of them at once, and nothing that goes wrong in one is lost."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from pytest_maxact.reducers.kernels import threads
from pytest_maxact.reducers.kernels.threads import in_threads


@pytest.fixture(params=["OpenMP", "a pool"])
def three(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three threads, of either kind."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    if request.param == "a pool":
        monkeypatch.setattr(threads, "_region", lambda: None)
    elif threads._region() is None:
        pytest.skip("this torch has no OpenMP with GNU's entry points")
    yield
    torch.set_num_threads(before)


def meeting(barrier: threading.Barrier) -> int:
    barrier.wait(30)  # nobody passes alone
    return threading.get_ident()


def test_each_thread_works_once_and_all_at_once(three: None) -> None:
    barrier = threading.Barrier(3)
    found = in_threads(lambda: meeting(barrier))
    assert len(set(found)) == len(found) == 3
    assert threading.get_ident() in found


@pytest.mark.skipif(sys.platform != "linux", reason="only there a thread's number is the system's")
def test_they_are_the_threads_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    if threads._region() is None:
        pytest.skip("this torch has no OpenMP with GNU's entry points")
    monkeypatch.setattr(threads, "_pool", None)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.ones(1 << 20).add(1)
    alive = set(os.listdir("/proc/self/task"))
    barrier = threading.Barrier(3)

    def number() -> str:
        barrier.wait(30)
        return str(threading.get_native_id())

    assert set(in_threads(number)) <= alive
    torch.set_num_threads(before)


def test_an_error_of_any_thread_is_raised_when_all_have_ended(three: None) -> None:
    home, ended, barrier = threading.get_ident(), list[int](), threading.Barrier(3)

    def work() -> None:
        if meeting(barrier) != home:
            raise ValueError("in another thread")
        time.sleep(0.2)
        ended.append(1)

    with pytest.raises(ValueError, match="in another thread"):
        in_threads(work)
    assert ended == [1]


def test_an_error_of_this_thread_is_raised_when_all_have_ended(three: None) -> None:
    home, ended, barrier = threading.get_ident(), list[int](), threading.Barrier(3)

    def work() -> None:
        if meeting(barrier) == home:
            raise ValueError("in this thread")
        time.sleep(0.2)
        ended.append(1)

    with pytest.raises(ValueError, match="in this thread"):
        in_threads(work)
    assert ended == [1, 1]


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C interrupts, which it does not in a process that a shell started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_is_not_lost(three: None, interrupts: None) -> None:
    barrier = threading.Barrier(3)

    def work() -> None:
        if meeting(barrier) == threading.main_thread().ident:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        in_threads(work)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_threads_that_it_lacks(three: None) -> None:
    in_threads(int)
    child = os.fork()
    if child == 0:
        os._exit(0 if in_threads(int) == [0, 0, 0] else 1)
    for _ in range(300):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def test_an_interrupt_at_any_moment_is_not_lost(three: None, interrupts: None) -> None:
    """By the clock, so that it also comes where threads begin and end."""
    chance = random.Random(0)

    def work() -> None:
        until = time.perf_counter() + 2e-4
        while time.perf_counter() < until:
            pass

    def until_interrupted(timer: threading.Timer) -> None:
        timer.start()
        until = time.perf_counter() + 30
        while time.perf_counter() < until:
            in_threads(work)

    for _ in range(150):
        timer = threading.Timer(chance.uniform(0, 5e-3), os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            until_interrupted(timer)
        timer.join()
