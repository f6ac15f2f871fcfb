"""The stop button arrives where a cell waits, and nowhere else."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from faas_magics.interrupts import Interrupts


def stop() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def sleep() -> None:
    time.sleep(5)


def stop_soon(seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, stop)
    timer.start()
    return timer


def test_an_interrupt_during_a_wait_raises_there():
    with Interrupts() as interrupts:
        timer = stop_soon(0.05)
        with pytest.raises(KeyboardInterrupt):
            interrupts.wait(sleep)
        timer.join()


def test_an_interrupt_between_waits_is_kept_for_the_next_one():
    with Interrupts() as interrupts:
        stop()
        assert interrupts.wait is not None  # nothing was raised between the waits
        with pytest.raises(KeyboardInterrupt):
            interrupts.wait(pytest.fail, "the call was made")
        assert interrupts.wait(int, "3") == 3


def test_an_interrupt_that_nobody_saw_is_raised_at_the_end():
    with pytest.raises(KeyboardInterrupt), Interrupts():
        stop()


def test_an_error_is_not_hidden_by_an_interrupt():
    def fail() -> None:
        with Interrupts():
            stop()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_a_second_interrupt_does_not_break_the_cleaning_up_after_the_first():
    cleaned: list[bool] = []

    def call() -> None:
        try:
            stop()
            time.sleep(5)
        finally:
            stop()
            time.sleep(0.01)
            cleaned.append(True)

    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            interrupts.wait(call)
        assert cleaned == [True]
        with pytest.raises(KeyboardInterrupt):
            interrupts.wait(int)


def test_a_callback_is_not_interrupted_in_the_middle():
    done: list[bool] = []

    def call() -> None:
        with interrupts.shielded():
            stop()
            done.append(True)
        pytest.fail("the interrupt did not come after the callback")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        interrupts.wait(call)
    assert done == [True]


def test_no_result_of_a_wait_is_lost_under_a_storm_of_interrupts():
    produced: list[int] = []
    received: list[int] = []
    interrupted = 0

    def produce() -> int:
        produced.append(len(produced))
        return produced[-1]

    storm = threading.Event()

    def send() -> None:
        while not storm.wait(0.0005):
            stop()

    previous = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=send)
    try:
        with Interrupts() as interrupts:
            thread.start()
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                try:
                    received.append(interrupts.wait(produce))
                except KeyboardInterrupt:
                    interrupted += 1
                    # Raised in `produce` after it produced: that one is the call's own to lose.
                    if produced and (not received or received[-1] != produced[-1]):
                        received.append(produced[-1])
            storm.set()
            thread.join()
            interrupts._pending = False
    finally:
        storm.set()
    assert interrupted > 10
    assert received == produced
    assert signal.getsignal(signal.SIGINT) is previous


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with Interrupts() as interrupts:
            seen.append(interrupts.wait(int, "1"))
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert seen == [1, before]
