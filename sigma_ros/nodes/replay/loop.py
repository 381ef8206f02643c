# SPDX-License-Identifier: Apache-2.0
"""A recording through the two nodes, tick by tick: the same ticks, order and log as the graph-free replay.

The recording is read by the same `Episode`. Every record it takes is also sent, so the policy's frame clock
completes the same ticks; nothing goes on before the policy has consumed a tick and answered where an
answer is due, so the log does not depend on anybody's speed.

The policy acknowledges a tick on `sigma/tick` (frame EPOCH/TICK). Where it plans, `sigma/telepathy` and a chunk are
waited for: on `sigma/action_chunk`, or on `sigma/commit_chunk` where it is not meant for the arm. The supervisor
answers a chunk with a state of reason CHUNK_RECEIVED and ticks at `/clock`, after joint states up to then and chunks;
its commands go to `sigma/replay_commands`. `reset_memory` and `release` make both begin as new processes do.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger
from rich.console import Console
from rich.progress import Progress

from sigma_ros.bags.episode import Episode, Tick
from sigma_ros.bags.reader import Bag, BagInfo, Record
from sigma_ros.bags.topics import camera_topics, joint_parts
from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError, SigmaError
from sigma_ros.evaluation.drive import ReplayDrive
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.supervised import ReplayedSupervisor, SupervisorGrid
from sigma_ros.msg import TelepathyState
from sigma_ros.nodes.replay.peers import PolicyPeer, SupervisorPeer
from sigma_ros.nodes.shared.messages import chunk_value, telepathy_value
from sigma_ros.policy.job import Job, Proposed, Result, Unused
from sigma_ros.policy.loop import PolicyLoop, PolicySettings
from sigma_ros.policy.schedule import Schedule
from sigma_ros.policy.worker import TimedWorker
from sigma_ros.streams.joints import JointMerger
from sigma_ros.streams.samples import JointSample
from sigma_ros.supervisor.reasons import State
from sigma_ros.values import AdapterSettings, Chunk, Gap, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a replay through the nodes needs to know."""

    contract: Contract
    schedule: Schedule
    image_size_px: int
    task: str | None


class NodeReplay:
    """Feeds the nodes from a bag and the recorder from the nodes: the policy node executes the policy loop's jobs."""

    def __init__(
        self,
        bag: Bag,
        setting: Setting,
        recorder: ReplayRecorder,
        policy: PolicyPeer,
        supervisor: SupervisorPeer | None,
    ) -> None:
        contract = setting.contract
        self._contract = contract
        self._policy = policy
        settings = PolicySettings(schedule=setting.schedule, adapter=AdapterSettings())
        loop = PolicyLoop(contract, settings, check_units=lambda _: (), lockstep=True)
        grid = None
        if supervisor is not None:
            node = SupervisorNodeTicks(recorder, policy, supervisor)
            grid = SupervisorGrid(contract.command_period_ns, node)
        self.drive = ReplayDrive(TimedWorker(loop, self._asked), recorder, grid)
        places = camera_topics(bag, contract)
        self._joint_parts = [part.topic for part in joint_parts(bag, contract)]
        self._merger = JointMerger(contract, joint_parts(bag, contract))
        self._cameras = {places[camera.name].topic: camera.name for camera in contract.cameras}
        self._taken = 0
        self.ticks = Episode(
            bag,
            contract,
            image_size_px=setting.image_size_px,
            task=setting.task,
            on_record=self._send,
            on_end=policy.end,
        )

    def run(self, progress: Callable[[Tick], None]) -> None:
        """To the recording's end; `progress` is told each tick."""
        for tick in self.ticks:
            self._policy.await_tick(tick.item)
            self._taken += 1
            self.drive.tick(tick)
            progress(tick)
        self.drive.end()

    def _send(self, record: Record) -> None:
        message: Any = record.message
        if record.topic in self._cameras:
            self._policy.image(self._cameras[record.topic], record.stamp_ns, message)
        elif record.topic in self._joint_parts:
            with suppress(ContractError):  # the episode counts it
                whole = self._merger.push(
                    self._joint_parts.index(record.topic), record.stamp_ns, message.names, message.positions_rad
                )
                if whole is not None:
                    self._policy.joints(*whole)
        elif record.msgtype == "std_msgs/msg/String":
            self._await_all_ticks()
            self._policy.set_task(str(message))

    def _await_all_ticks(self) -> None:
        """A new task begins an epoch: the policy must have consumed every tick before it."""
        counters = self.ticks.counters
        self._policy.await_ticks(counters.windows + counters.gaps - self._taken)

    def _asked(self, job: Job) -> Result:
        """The policy node's answer to a job."""
        item = job.request.item
        answer = self._policy.await_telepathy(item)
        if isinstance(item, Gap):
            return Unused(request=job.request, gap=item), None
        if not answer.valid:
            gap = Gap(epoch=item.epoch, tick=item.tick, stamp_ns=item.stamp_ns, reasons=_refusal(item, answer))
            return Unused(request=job.request, gap=gap), None
        chunk = chunk_value(self._policy.await_chunk(item))
        telepathy = telepathy_value(answer)
        return Proposed(request=job.request, chunk=chunk, telepathy=telepathy, host_ns=chunk.inference_ns), None


def _refusal(item: Window, answer: TelepathyState) -> tuple[str, ...]:
    """Why the policy did not use a complete tick: units, for the whole epoch; all else is a failure."""
    reasons = tuple(answer.reasons)
    if not any(reason.startswith("units:") for reason in reasons):
        raise SigmaError(
            "the policy could not use a tick that the recording has complete",
            where=f"epoch {item.epoch} tick {item.tick}",
            got="; ".join(reasons),
            remedy="read the policy node's log",
        )
    return reasons


class SupervisorNodeTicks(ReplayedSupervisor):
    """The supervisor node; it gets joint states and chunks from their publishers, and time from here."""

    def __init__(self, recorder: ReplayRecorder, policy: PolicyPeer, supervisor: SupervisorPeer) -> None:
        self._supervisor = supervisor
        self._recorder = recorder
        self._policy = policy

    def go_back(self, by_ns: int) -> None:
        """Refused: a node's time does not go back."""
        raise SigmaError(
            "the recording's time goes back",
            where=f"by {by_ns} ns",
            expected="one recording from one clock",
            remedy="replay it without the nodes: sigma replay",
        )

    def feed(self, joints: Sequence[JointSample], until_ns: int) -> None:
        """The node hears them itself."""

    def on_chunk(self, chunk: Chunk, now_ns: int) -> None:
        """Waits until the node has received it."""
        self._supervisor.await_echo(chunk)

    def tick(self, stamp_ns: int) -> None:
        """One tick; the decision is written down."""
        self._policy.no_joints_until(stamp_ns)
        started_ns = time.perf_counter_ns()
        state = self._supervisor.step(stamp_ns)
        host_ns = time.perf_counter_ns() - started_ns
        self._recorder.decision(
            stamp_ns=stamp_ns,
            state=State(state.state).name,
            reason=state.reason,
            command_rad=np.array(state.command, dtype=np.float64) if len(state.command) else None,
            requested_scale=state.requested_scale,
            scale_ceiling=state.scale_ceiling,
            applied_scale=state.applied_scale,
            clipped_joints=tuple(state.clipped_joints),
            chunk_id=state.chunk_id if state.accepted_chunks + state.refused_chunks else -1,
            host_ns=host_ns,
        )
        self._recorder.supervisor_counters(
            violations=state.violations,
            refused_chunks=state.refused_chunks,
            holds=state.holds,
            engagements=state.engagements,
        )


# How far a replay is: a bar for a person at a terminal, a line at each tenth for a log or `ros2 launch`.


Tell = Callable[[int], None]
"""Takes a time of the recording in nanoseconds."""


@contextmanager
def told(info: BagInfo, logger: RcutilsLogger) -> Iterator[Tell]:
    """Yields what is to be told each tick's stamp."""
    length_ns = max(1, info.end_ns - info.start_ns)
    if not sys.stderr.isatty():
        yield lines(info.start_ns, length_ns, lambda percent: logger.info(f"{info.path.name}: {percent} %"))
        return
    with Progress(console=Console(stderr=True, markup=False), transient=True) as progress:
        bar = progress.add_task(info.path.name, total=length_ns)
        yield lambda at_ns: progress.update(bar, completed=max(0, at_ns - info.start_ns))


def lines(start_ns: int, length_ns: int, say: Callable[[int], object]) -> Tell:
    """Says each tenth once, in percent, when it is reached or passed."""
    said = 0

    def tell(at_ns: int) -> None:
        nonlocal said
        tenth = min(10, 10 * (at_ns - start_ns) // length_ns)
        if tenth > said:
            said = tenth
            say(10 * tenth)

    return tell
