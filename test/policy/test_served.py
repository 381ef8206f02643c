# SPDX-License-Identifier: Apache-2.0
"""The inference process ends with its node, hears no Ctrl-C, and forgets states that nobody holds."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from model_stand_in import CONTRACT, TIMEOUT_S, window
from stub_runtime import RemoteModel, load, shared_memory

from sigma_ros.policy.remote import RemoteRuntime
from sigma_ros.policy.served import Desk
from sigma_ros.policy.wire import PictureMemory
from sigma_ros.values import AdapterSettings

NODE = """
import sys, threading
from functools import partial
from model_stand_in import CONTRACT
from stub_runtime import load
from sigma_ros.policy.remote import RemoteRuntime
other = RemoteRuntime(partial(load, CONTRACT))
print(other.pid, flush=True)
threading.Event().wait()
"""


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def node() -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A process that has started its first inference process, and the id of that."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", NODE], stdout=subprocess.PIPE, env=environment) as started:
        assert started.stdout is not None
        yield started, int(started.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "term"])
def test_the_process_ends_with_its_node_however_that_ends(number: signal.Signals) -> None:
    before = shared_memory()
    with node() as (started, pid):
        assert is_there(pid)
        started.send_signal(number)
    until_s = time.monotonic() + TIMEOUT_S
    while is_there(pid):
        assert time.monotonic() < until_s, "the inference process outlives its node"
    assert shared_memory() <= before


def test_ctrl_c_is_the_nodes_alone() -> None:
    other = RemoteRuntime(partial(load, CONTRACT))
    try:
        os.kill(other.pid, signal.SIGINT)
        assert other.check_units(window(0).newest.positions_rad) == ()
        assert other.problem() == ""
    finally:
        other.close()


def test_law_the_first_process_of_a_node_hears_no_ctrl_c_either() -> None:
    """Python's own tracker, started with it, let the signal through again: a traceback at each Ctrl-C of a launch."""
    with node() as (started, pid):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        started.kill()
    assert int(status["SigBlk"], 16) >> (signal.SIGINT - 1) & 1


def test_a_state_is_kept_while_the_node_holds_its_ticket_and_no_longer() -> None:
    other = RemoteRuntime(partial(load, CONTRACT))
    try:
        state = other.initial_state(epoch=0, task="t")
        for tick in range(0, 32, 8):
            _, state = other.step(window(tick), state, commit=True, settings=AdapterSettings(), chunk_id=0)
        assert len(other._dropped) == 1, "the state before this one; the call that follows tells it"
        assert state.commits == 4
    finally:
        other.close()


def test_the_desk_drops_what_it_is_told_to() -> None:
    desk = Desk(RemoteModel(CONTRACT), PictureMemory(16))
    state = RemoteModel(CONTRACT).initial_state(epoch=0, task="t")
    first, second = (cast("tuple[int, ...]", desk._name(state)) for _ in range(2))
    assert (first[0], second[0]) == (0, 1)
    assert desk._find(second).epoch == 0
    desk.drop((0,))
    assert set(desk._states) == {1}
