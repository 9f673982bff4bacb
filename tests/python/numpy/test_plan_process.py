"""A plan and the process around it: threads, fork, Ctrl-C, a lack of memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import laplex
from strategies import assert_same_bits


def test_one_plan_in_eight_threads() -> None:
    """All start at once on a plan whose tables are not made yet; a ninth moves the anchors."""
    rng = np.random.default_rng(0)
    x, y = rng.random(20_000), rng.random(30_000)
    moved = x + 1e-3 * rng.standard_normal(x.size)
    v = rng.standard_normal(y.size)
    g = v[: x.size].astype(np.complex128)

    def results(plan: laplex.Plan) -> tuple[bytes, bytes]:
        return plan.apply(v).tobytes(), plan.vjp(v, g).targets.tobytes()

    at_x, at_moved = (
        results(laplex.Plan(targets, y, lengthscale=0.1, frequency=5.0)) for targets in (x, moved)
    )
    plan = laplex.Plan(x, y, lengthscale=0.1, frequency=5.0)
    start = threading.Barrier(9)

    def work() -> None:
        start.wait()
        for _ in range(5):
            for one, before, after in zip(results(plan), at_x, at_moved, strict=True):
                assert one in (before, after)

    def move() -> None:
        start.wait()
        for k in range(10):
            plan.update((moved, x)[k % 2], y)

    with ThreadPoolExecutor(9) as pool:
        futures = [pool.submit(work) for _ in range(8)] + [pool.submit(move)]
        for future in futures:
            future.result()
    assert results(plan) == at_x


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_after_use() -> None:
    rng = np.random.default_rng(0)
    plan = laplex.Plan(rng.random(200_000), lengthscale=0.1, num_threads=4)
    v = rng.standard_normal(200_000)
    expected = plan.apply(v)  # with helper threads
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork in a process that has threads, as torch's and ours
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        same = False
        try:
            fresh = laplex.Plan(rng.random(200_000), num_threads=4)
            same = plan.apply(v).tobytes() == expected.tobytes()
            same = same and bool(np.isfinite(fresh.apply(v)).all())
        finally:
            os._exit(0 if same else 1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("num_threads", [1, 4])
def test_ctrl_c_during_a_long_call(num_threads: int) -> None:
    rng = np.random.default_rng(0)
    plan = laplex.Plan(rng.random(1000), rng.random(1_000_000), num_threads=num_threads)
    one = rng.standard_normal(1_000_000)
    before = plan.apply(one)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    start = time.process_time()  # which another process's load does not lengthen
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        plan.apply(np.broadcast_to(one, (1000, one.size)))  # about ten seconds
    timer.join()
    assert time.process_time() - start < 3
    assert_same_bits(plan.apply(one), before)  # the plan is as good as ever


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_a_plan_is_built() -> None:
    x = np.random.default_rng(0).random(10_000_000)
    start = time.process_time()
    laplex.Plan(x, num_threads=1)
    whole = time.process_time() - start
    timer = threading.Timer(whole / 10, os.kill, (os.getpid(), signal.SIGINT))
    start = time.process_time()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        laplex.Plan(x, num_threads=1)
    assert time.process_time() - start < 0.7 * whole  # before its end, not after
    timer.join()


def outcome(program: str, *arguments: str) -> tuple[str, int, str]:
    """Run a program that may hang or die; return what it printed, its exit status, its errors."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout, done.returncode, done.stderr


HANDLER = """
import signal
import numpy as np
import laplex

rng = np.random.default_rng(0)
plan = laplex.Plan(rng.random(1_000_000), lengthscale=0.1, num_threads=1)
v = rng.standard_normal(1_000_000)
found = []
signal.signal(signal.SIGALRM, lambda *_: found or found.append(plan.apply(v)))
signal.setitimer(signal.ITIMER_REAL, 0.03)
while not found:  # the handler runs in the middle of a product
    u = plan.apply(v)
print(found[0].tobytes() == u.tobytes())
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer signals")
def test_a_signal_handler_may_use_the_plan_that_it_interrupts() -> None:
    assert outcome(HANDLER)[:2] == ("True\n", 0)


FORK = """
import os, sys, threading, warnings
import numpy as np
import laplex

warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
rng = np.random.default_rng(0)
x, v = rng.random(20_000), rng.standard_normal(20_000)
expected = laplex.Plan(x, lengthscale=0.1).apply(v)
done = False

def work():
    while not done:
        shared.apply(v)
        shared.update(x)

shared = laplex.Plan(x, lengthscale=0.1)
thread = threading.Thread(target=work)
thread.start()
failed = 0
for _ in range(100):
    child = os.fork()
    if child == 0:
        os._exit(int(not (shared.apply(v) == expected).all()))
    failed += os.waitpid(child, 0)[1] != 0
done = True
thread.join()
print(failed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_while_another_thread_uses_the_plan() -> None:
    assert outcome(FORK)[:2] == ("0\n", 0)


DAEMON = """
import threading, time
import numpy as np
import laplex

plan = laplex.Plan(np.random.default_rng(0).random(300_000), num_threads=2)
v = np.ones(plan.shape[1])

def work():
    while True:
        plan.apply(v)

threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print("bye", flush=True)
"""


def test_a_daemon_thread_inside_does_not_disturb_the_exit() -> None:
    for _ in range(3):
        assert outcome(DAEMON) == ("bye\n", 0, "")


def test_pickled_while_updated() -> None:
    """What is pickled is one state: never targets of one update with sources of another."""
    rng = np.random.default_rng(0)
    pairs = [(rng.random(5_000) + k, rng.random(5_000) + k) for k in (0, 10)]
    plan = laplex.Plan(*pairs[0])
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            for pair in pairs:
                plan.update(*pair)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        # On a busy machine the other thread may not run at all during the first 200.
        seen, tries, deadline = set(), 0, time.monotonic() + 60
        while tries < 200 or (len(seen) < 2 and time.monotonic() < deadline):
            x, y = plan.__reduce__()[1][1:3]
            seen.add(int(x.min() // 10))
            assert x.min() // 10 == y.min() // 10
            tries += 1
    finally:
        stop.set()
        thread.join()
    assert seen == {0, 1}


LITTLE_MEMORY = """
import resource
import numpy as np
import laplex

rng = np.random.default_rng(0)
x, v = rng.random(3_000_000), rng.standard_normal(3_000_000)
small = laplex.Plan(x[:1000])
expected = small.apply(v[:1000])
plan = laplex.Plan(x, num_threads=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000, resource.RLIM_INFINITY))
for call in (
    lambda: plan.apply(v),
    lambda: plan.vjp(v, v),
    lambda: laplex.Plan(x),
    lambda: plan.update(x[::-1].copy()),
):
    try:
        call()
    except MemoryError as error:
        assert str(error), "a MemoryError without a word"
    else:
        raise SystemExit("no MemoryError")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert (small.apply(v[:1000]) == expected).all()
assert np.isfinite(plan.apply(v)).all()
print("fine")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to take memory away")
def test_lack_of_memory_is_an_exception_and_the_plan_survives() -> None:
    stdout, status, stderr = outcome(LITTLE_MEMORY)
    assert (stdout, status) == ("fine\n", 0), stderr
