"""Signals that end a run are remembered, and handlers are given back."""

import os
import signal
import threading

import pytest

from perceptual_mae.training.signals import Interrupted, StopNow, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_remembered(number: int) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal == 0
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert signal.getsignal(number) is before


@pytest.mark.skipif(signal.getsignal(signal.SIGINT) == signal.SIG_IGN, reason="a background job does not hear Ctrl-C")
def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_sigterm_changes_nothing() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM


def test_nohup_keeps_the_end_of_a_terminal_away() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_given_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), StopRequest():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with StopRequest():
                assert signal.getsignal(signal.SIGTERM) is before
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert errors == []


def test_exit_codes_are_those_of_the_shell() -> None:
    assert Interrupted("stopped", signal.SIGINT).exit_code == 130
    assert Interrupted("stopped", signal.SIGTERM).exit_code == 143


def test_what_can_be_done_again_is_ended_by_a_signal() -> None:
    with StopRequest() as stop:
        with pytest.raises(StopNow), stop.hurries():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # outside of it nothing is thrown
        entered = False
        with pytest.raises(StopNow), stop.hurries():
            entered = True
        assert not entered
