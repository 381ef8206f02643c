# SPDX-License-Identifier: Apache-2.0
"""One mechanism for SIGINT and SIGTERM: who is asked, who is interrupted, and what is put back."""

import ast
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sigma_ros.stopping import end_on_signal, sigterm_interrupts, stop_on_signal

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in NUMBERS]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_asks_and_the_second_ctrl_c_interrupts(number: signal.Signals) -> None:
    before = handlers()
    with stop_on_signal() as stop:
        assert not stop
        for each in (number, signal.SIGTERM):  # whoever ends services may ask more than once
            signal.raise_signal(each)
            assert stop() is True
            assert stop.number == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_outside_the_main_thread_work_runs_and_no_handler_changes() -> None:
    before, seen = handlers(), []

    def work() -> None:
        with stop_on_signal() as stop:
            seen.append((bool(stop), handlers()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_a_process_is_woken_from_another_thread_for_its_own_may_wait_in_c_code() -> None:
    before, woken, heard = handlers(), threading.Event(), []

    def wake() -> None:
        heard.append(threading.current_thread() is threading.main_thread())
        woken.set()

    try:
        with end_on_signal() as request:
            request.wakes(wake)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)  # within a second: the same request
            assert woken.wait(20.0)
        assert handlers() == [request.end] * 2, "the handlers that would kill it do not come back"
    finally:
        for number, handler in zip(NUMBERS, before, strict=True):
            signal.signal(number, handler)
    assert heard == [False]
    assert request.number == signal.SIGINT


@pytest.mark.parametrize("open_it", [end_on_signal, stop_on_signal, sigterm_interrupts])
def test_without_a_signal_everything_is_as_before(open_it: Callable) -> None:
    before = handlers()
    with pytest.raises(ZeroDivisionError), open_it():
        raise ZeroDivisionError
    assert handlers() == before
    assert signal.set_wakeup_fd(-1) == -1


def test_sigterm_runs_the_finally_blocks_as_ctrl_c_does() -> None:
    with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
        signal.raise_signal(signal.SIGTERM)


def test_signals_are_handled_and_their_exit_code_is_written_in_one_file() -> None:
    folders = [ROOT / "sigma_ros", ROOT / "training", ROOT / "scripts"]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and _is_python(file)]
    assert len(files) > 20
    found = {file.name for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))) if _is_ours(node)}
    assert found == {"stopping.py"}


def _is_python(file: Path) -> bool:
    return file.suffix == ".py" or (file.parent.name == "nodes" and not file.suffix)


def _is_ours(node: ast.AST) -> bool:
    """A handler that is set, or the exit code 130 returned or given a name."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "signal.signal"
    return isinstance(node, ast.Return | ast.Assign) and ast.unparse(node.value or ast.Constant(None)) == "130"
