# SPDX-License-Identifier: Apache-2.0
"""A model in a process of its own gives what it gives inside; however it ends, that has a name and nothing is left."""

import gc
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from model_stand_in import CONTRACT, TIMEOUT_S, policy_loop, window
from stub_runtime import TICK_OF, RemoteModel, load, load_nothing, shared_memory

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import CheckpointError, SigmaError
from sigma_ros.policy import remote
from sigma_ros.policy.job import Inferred, Lost, Proposed, Runtime
from sigma_ros.policy.remote import InferenceFailedError, InferenceLostError, RemoteRuntime
from sigma_ros.policy.schedule import Schedule
from sigma_ros.policy.worker import InferenceThread
from sigma_ros.values import WINDOW_TICKS, AdapterSettings, Chunk, Frame, LeftOver, Window

SETTINGS = AdapterSettings()
ARM = load_contract("so101")


@pytest.fixture
def start() -> Iterator[Callable[..., RemoteRuntime]]:
    made: list[RemoteRuntime] = []

    def make(**options: float) -> RemoteRuntime:
        made.append(RemoteRuntime(partial(load, CONTRACT), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def step(runtime: Runtime, seen: Window, state: object, *, commit: bool = True):
    inference, state = runtime.step(seen, state, commit=commit, settings=SETTINGS, chunk_id=7)
    return inference.chunk, state


def pictured(tick: int, picture: np.ndarray) -> Window:
    plain = window(tick)
    frames = tuple(replace(frame, images={"up": picture}) for frame in plain.frames)
    return replace(plain, frames=frames)


def same(ours: Chunk, theirs: Chunk) -> bool:
    values = ("base_rad", "residual_rad", "scale", "tau_l2", "chunk_id", "tick", "risk", "settings")
    return all(np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in values)


def test_a_process_gives_the_chunks_that_the_model_gives_inside(start) -> None:
    other, inside = start(), RemoteModel(CONTRACT)
    states = [runtime.initial_state(epoch=0, task="t") for runtime in (other, inside)]
    for tick in range(0, 64, 8):
        picture = other.square(RemoteModel.image_size_px)
        picture.fill(tick)
        picture.flags.writeable = False
        seen = pictured(tick, picture)
        states = [runtime.observe(seen, state) for runtime, state in zip((other, inside), states, strict=True)]
        (theirs, states[0]), (ours, states[1]) = (
            step(runtime, seen, state, commit=tick % 16 == 0)
            for runtime, state in zip((other, inside), states, strict=True)
        )
        assert same(ours, theirs)
        assert theirs.base_rad[0, 0] == tick, "the picture that this process wrote"
    assert states[0].commits == states[1].memory == 4
    assert other.problem() == ""


def test_what_does_not_wait_for_an_inference_is_answered_beside_it(start) -> None:
    other = start()
    answers = []
    state = other.initial_state(epoch=0, task="t")
    thread = threading.Thread(target=lambda: answers.append(_lost_reason(other, state, "hang")))
    thread.start()
    assert other.check_units(np.zeros(6)) == ()
    assert other.check_units(np.full(6, 57.3)) == ("far away",)
    other.close("enough")
    thread.join(TIMEOUT_S)
    assert answers == ["enough"]


def _lost_reason(runtime: RemoteRuntime, state: object, fault: str) -> str:
    with pytest.raises(InferenceLostError) as caught:
        step(runtime, window(TICK_OF[fault]), state)
    return caught.value.what


REASONS = {"killed": "SIGKILL", "exit": "code 7", "stopped": "stopped by a signal", "hang": "hangs"}


@pytest.mark.parametrize("fault", REASONS)
def test_however_the_process_is_lost_it_has_a_name_and_the_memory_goes_on(start, monkeypatch, fault: str) -> None:
    monkeypatch.setattr(remote, "FIRST_S", 0.5)
    monkeypatch.setattr(remote, "HANG_FACTOR", 0.0)
    other = start(hang_s=0.5)
    _, state = step(other, window(0), other.initial_state(epoch=0, task="t"))
    assert REASONS[fault] in _lost_reason(other, state, fault)
    assert REASONS[fault] in other.problem()
    assert other.check_units(np.zeros(6)), "unknown means hold"
    assert multiprocessing.active_children() == []
    other.restart()
    assert other.problem() == ""
    chunk, state = step(other, window(16, epoch=1), replace(state, epoch=1))
    assert (chunk.tau_l2, state.commits) == (2.0, 2), "one commit before, one after"


def test_a_process_that_dies_while_nobody_waits_for_it_is_seen(start) -> None:
    other = start()
    os.kill(other.pid, signal.SIGKILL)
    assert multiprocessing.connection.wait([other._process.sentinel], TIMEOUT_S)
    assert "SIGKILL" in other.problem()


def test_a_failure_is_the_models_own_and_three_in_a_row_are_a_broken_process(start) -> None:
    """A GPU that is gone fails for ever; out of memory may pass."""
    other = start()
    state = other.initial_state(epoch=0, task="t")
    for _ in range(2):
        with pytest.raises(InferenceFailedError, match="CUDA out of memory"):
            step(other, window(TICK_OF["failure"]), state)
    assert step(other, window(0), state)[0].tau_l2 == 1.0
    for _ in range(2):
        with pytest.raises(InferenceFailedError):
            step(other, window(TICK_OF["failure"]), state)
    assert "CUDA out of memory" in _lost_reason(other, state, "failure")


def test_restarts_without_an_inference_between_them_come_to_an_end(start) -> None:
    other = start()
    for _ in range(remote.MOST_RESTARTS):
        os.kill(other.pid, signal.SIGKILL)
        other.restart()
    with pytest.raises(SigmaError, match="times in a row without one inference"):
        other.restart()


def test_another_protocol_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(remote, "greeting", lambda _: b"sigma inference protocol 999")
    with pytest.raises(SigmaError, match=r"speaks another protocol.*999.*got: sigma inference protocol"):
        RemoteRuntime(partial(load, CONTRACT))
    assert multiprocessing.active_children() == []


def test_what_is_wrong_with_a_checkpoint_is_said_as_it_is_inside() -> None:
    with pytest.raises(CheckpointError, match="weights are not finite"):
        RemoteRuntime(partial(load_nothing, CONTRACT))
    assert multiprocessing.active_children() == []


def test_without_memory_for_pictures_the_start_says_what_to_do(monkeypatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "memfd_create", full)
    with pytest.raises(SigmaError, match=r"No space left.*inference:=inside"):
        RemoteRuntime(partial(load, CONTRACT))
    assert multiprocessing.active_children() == []


def _traces() -> tuple[set[str], int, int]:
    gc.collect()
    maps = Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").count("sigma_pictures")
    return shared_memory(), len(os.listdir("/proc/self/fd")), maps


def test_a_lock_that_a_library_makes_leaves_no_semaphore_behind(start) -> None:
    """One with a name in the system would outlive a process that is killed, and be reported as leaked."""
    assert start().about["lock"] is None


@pytest.mark.slow
def test_a_hundred_restarts_leave_nothing_behind(start) -> None:
    other = start()
    _, state = step(other, window(0), other.initial_state(epoch=0, task="t"))
    traces = []
    for restarts in range(101):
        if restarts in (1, 100):
            traces.append(_traces())
        os.kill(other.pid, signal.SIGKILL)
        other.restart()
        _, state = step(other, window(0), state)
    assert state.commits == 102
    assert traces[1][0] <= traces[0][0]
    assert traces[1][1:] == traces[0][1:]
    assert multiprocessing.active_children() == [other._process]


class Mended:
    """A live thread around a process."""

    def __init__(self, runtime: RemoteRuntime) -> None:
        self.woken = threading.Semaphore(0)
        self.thread = InferenceThread(policy_loop(schedule=Schedule(8, 16)), runtime, wake=self.woken.release)

    def until(self, done: Callable[[], object]) -> None:
        while not done():
            assert self.woken.acquire(timeout=TIMEOUT_S)


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_the_thread_starts_a_lost_process_again_and_keeps_the_memory(start, busy: bool) -> None:
    other = start()
    live, outcomes = Mended(other), []
    live.thread.on_item(window(0))
    live.until(lambda: outcomes.extend(live.thread.outcomes()) or outcomes)
    if busy:
        live.thread.on_item(window(TICK_OF["killed"]))
    else:
        os.kill(other.pid, signal.SIGKILL)
    live.until(lambda: live.thread.mended == 1)
    lost = live.thread.outcomes()
    assert [type(each) for each in lost] == ([Lost] if busy else [])
    live.thread.restart(live.thread.loop.state)
    live.thread.on_item(window(0, epoch=1))
    outcomes.clear()
    live.until(lambda: outcomes.extend(live.thread.outcomes()) or outcomes)
    [outcome] = outcomes
    assert isinstance(outcome, Proposed)
    assert outcome.chunk.tau_l2 == 2.0
    assert live.thread.close(TIMEOUT_S)


def test_a_hung_process_does_not_hold_the_closing_back(start) -> None:
    live = Mended(start())
    live.thread.on_item(window(TICK_OF["hang"]))
    assert live.thread.close(0.5)


def noise_window(runtime: Runtime, newest: int) -> Window:
    """The window of a tick whose pictures are noise, seeded by tick and camera."""
    square = getattr(runtime, "square", lambda size_px: np.zeros((size_px, size_px, 3), dtype=np.uint8))

    def frame(tick: int) -> Frame:
        images = {}
        for index, camera in enumerate(ARM.cameras):
            picture = square(runtime.image_size_px)
            picture[:] = np.random.default_rng([tick, index]).integers(0, 256, picture.shape, dtype=np.uint8)
            images[camera.name] = picture
        return Frame(
            epoch=0,
            tick=tick,
            stamp_ns=1 + ARM.tick_offset_ns(tick),
            images=images,
            positions_rad=np.full(ARM.dof, 1e-3 * tick),
            image_age_ns=dict.fromkeys(images, 0),
            joint_age_ns=0,
        )

    frames = tuple(frame(newest - WINDOW_TICKS + 1 + i) for i in range(WINDOW_TICKS))
    return Window(epoch=0, task=ARM.tasks[0], frames=frames, mask=np.ones(WINDOW_TICKS, dtype=bool))


def fingerprint(inference: Inferred) -> str:
    """Of everything in a chunk that does not tell the time, and of the memory."""
    chunk, telepathy = inference.chunk, inference.telepathy
    numbers = (chunk.base_rad, chunk.residual_rad, np.array([chunk.scale, chunk.risk.total]), telepathy.semantic_memory)
    return hashlib.sha256(b"".join(part.tobytes() for part in numbers)).hexdigest()


def chunks(runtime: Runtime, *, encodes_ahead: bool = False) -> list[str]:
    """Fingerprints of four chunks and a refresh; pictures are encoded before the chunk asks, or by it."""
    state, made, previous = runtime.initial_state(epoch=0, task=ARM.tasks[0]), [], None
    for tick in (16, 24, 32, 40):
        left = None if previous is None or tick != 24 else LeftOver(base_rad=previous.base_rad[8:], delay_steps=2)
        state = runtime.observe(noise_window(runtime, tick - 1), state) if encodes_ahead else state
        seen = noise_window(runtime, tick)
        inference, state = runtime.step(
            seen, state, commit=tick % 16 == 0, settings=SETTINGS, chunk_id=tick, left_over=left
        )
        previous = inference.chunk
        made.append(fingerprint(inference))
    inference, _ = runtime.refresh(noise_window(runtime, 44), state, previous, settings=SETTINGS, chunk_id=44)
    return [*made, fingerprint(inference)]


@pytest.mark.slow
def test_the_small_model_gives_the_same_bits_inside_and_in_a_process() -> None:
    """A few ticks of noise, a commit, a chunk led on, a renewed residual; the node's process never loads torch."""
    code = (
        "import sys; from functools import partial; from test_remote import ARM, chunks\n"
        "from sigma_ros.policy.remote import RemoteRuntime; from sigma_ros.nodes.policy.model import load_runtime\n"
        "load = partial(load_runtime, ARM, 'mini', spare_core=False, allow_untrained=True)\n"
        "other = RemoteRuntime(load); theirs = chunks(other, encodes_ahead=True)\n"
        "assert 'torch' not in sys.modules; other.close()\n"
        "print(theirs == chunks(load()[0]), len(theirs))"
    )
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "5"]
