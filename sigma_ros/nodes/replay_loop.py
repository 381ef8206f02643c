# SPDX-License-Identifier: Apache-2.0
"""A recording through the two nodes, tick by tick: the same ticks, order and log as the graph-free replay.

The recording is read by the same `Episode`. Every record it takes is also sent, so the policy's frame clock
completes the same ticks; nothing goes on before the policy has consumed a tick and answered where an
answer is due, so the log does not depend on anybody's speed.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from sigma_ros.bags.episode import Episode, Tick
from sigma_ros.bags.reader import Bag, Record
from sigma_ros.contract import Contract
from sigma_ros.control.reasons import State
from sigma_ros.control.schedule import Schedule
from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.replay_log import SCORE_STRIDE_TICKS
from sigma_ros.evaluation.supervised import LONGEST_PAUSE_NS
from sigma_ros.msg import TelepathyState
from sigma_ros.nodes.messages import chunk_value, telepathy_value
from sigma_ros.nodes.replay_policy import PolicyPeer
from sigma_ros.nodes.replay_supervisor import SupervisorPeer
from sigma_ros.values import Gap, Window


class SentBag:
    """A bag of which every record that is read is also sent to the policy, in the same order."""

    def __init__(self, bag: Bag, send: Callable[[Record], None]) -> None:
        self._bag = bag
        self._send = send

    def __getattr__(self, name: str) -> object:
        return getattr(self._bag, name)

    def records(self, topics: Collection[str] | None = None) -> Iterator[Record]:
        """The bag's records, each sent before it is given."""
        for record in self._bag.records(topics):
            self._send(record)
            yield record


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a replay through the nodes needs to know."""

    contract: Contract
    schedule: Schedule
    image_size_px: int
    task: str | None


class NodeReplay:
    """Feeds the nodes from a bag and the recorder from the nodes."""

    def __init__(
        self,
        bag: Bag,
        setting: Setting,
        recorder: ReplayRecorder,
        policy: PolicyPeer,
        supervisor: SupervisorPeer | None,
    ) -> None:
        self.inferences = 0
        self.reasons: Counter[str] = Counter()
        self._setting = setting
        self._recorder = recorder
        self._policy = policy
        self._supervised = None if supervisor is None else _Supervised(setting.contract, recorder, policy, supervisor)
        places = bag.camera_topics(setting.contract)
        self._cameras = {places[camera.name].topic: camera.name for camera in setting.contract.cameras}
        self._blocked: tuple[int, tuple[str, ...]] = (-1, ())
        self._taken = 0
        self.ticks = Episode(
            cast(Bag, SentBag(bag, self._send)),
            setting.contract,
            image_size_px=setting.image_size_px,
            task=setting.task,
        )

    def run(self, progress: Callable[[int], None]) -> None:
        """To the recording's end; `progress` is told each tick's stamp."""
        for tick in self.ticks:
            self._tick(tick)
            progress(tick.item.stamp_ns)
        if self._supervised is not None:
            self._supervised.end()

    def _send(self, record: Record) -> None:
        message: Any = record.message
        if record.topic in self._cameras:
            self._policy.image(self._cameras[record.topic], record.stamp_ns, message)
        elif record.topic == self._setting.contract.joint_state_topic:
            self._policy.joints(record.stamp_ns, message.names, message.positions_rad)
        elif record.msgtype == "std_msgs/msg/String":
            self._await_all_ticks()
            self._policy.set_task(str(message))

    def _await_all_ticks(self) -> None:
        """A new task begins an epoch: the policy must have consumed every tick before it."""
        counters = self.ticks.counters
        self._policy.await_ticks(counters.windows + counters.gaps - self._taken)

    def _tick(self, tick: Tick) -> None:
        self._policy.await_tick(tick.item)
        self._taken += 1
        item, answer = self._answered(tick.item)
        self._recorder.tick(item, tick.action_rad)
        if self._supervised is not None:
            self._supervised.advance(item.stamp_ns)
        if isinstance(item, Gap):
            self.reasons.update(item.reasons)
        elif answer is not None:
            self._infer(item, answer)

    def _answered(self, item: Window | Gap) -> tuple[Window | Gap, TelepathyState | None]:
        """The tick as the policy judged it, and its answer where one is due."""
        blocked_epoch, reasons = self._blocked
        is_blocked = isinstance(item, Window) and item.epoch == blocked_epoch
        schedule = self._setting.schedule
        due = schedule.plans(item.tick)
        if isinstance(item, Window) and not is_blocked:
            due = due or schedule.commits(item.tick) or item.tick % SCORE_STRIDE_TICKS == 0
        answer = self._policy.await_telepathy(item) if due else None
        if answer is not None and isinstance(item, Window) and not answer.valid:
            reasons = self._refusal(item, answer)
            is_blocked = True
        if is_blocked:
            return Gap(epoch=item.epoch, tick=item.tick, stamp_ns=item.stamp_ns, reasons=reasons), None
        return item, answer

    def _refusal(self, item: Window, answer: TelepathyState) -> tuple[str, ...]:
        """Why the policy did not use a complete tick: units, for the whole epoch; all else is a failure."""
        reasons = tuple(answer.reasons)
        if not any(reason.startswith("units:") for reason in reasons):
            raise SigmaError(
                "the policy could not use a tick that the recording has complete",
                where=f"epoch {item.epoch} tick {item.tick}",
                got="; ".join(reasons),
                remedy="read the policy node's log",
            )
        self._blocked = (item.epoch, reasons)
        return reasons

    def _infer(self, window: Window, answer: TelepathyState) -> None:
        message = self._policy.await_chunk(window)
        chunk, plans = chunk_value(message), self._setting.schedule.plans(window.tick)
        self.inferences += 1
        self._recorder.inference(chunk, telepathy_value(answer), published=plans, host_ns=chunk.inference_ns)
        if plans and self._supervised is not None:
            self._supervised.supervisor.await_echo(message)


class _Supervised:
    """The supervisor's ticks: at the first tick's stamp plus multiples of the command period."""

    def __init__(
        self, contract: Contract, recorder: ReplayRecorder, policy: PolicyPeer, supervisor: SupervisorPeer
    ) -> None:
        self.supervisor = supervisor
        self._period_ns = contract.command_period_ns
        self._recorder = recorder
        self._policy = policy
        self._next_ns: int | None = None
        self._now_ns = 0

    def advance(self, stamp_ns: int) -> None:
        """The ticks before a policy tick; of a long silence only its beginning."""
        if self._next_ns is None:
            self._next_ns = stamp_ns
        if stamp_ns < self._now_ns:
            raise SigmaError(
                "the recording's time goes back",
                where=f"{stamp_ns} ns after {self._now_ns} ns",
                expected="one recording from one clock",
                remedy="replay it without the nodes: sigma replay",
            )
        self._now_ns = stamp_ns
        self._run_until(stamp_ns)

    def end(self) -> None:
        """The tick at the last policy tick, if one falls on it."""
        self._run_until(self._now_ns + 1)

    def _run_until(self, stamp_ns: int) -> None:
        assert self._next_ns is not None
        silence_ends_ns = self._next_ns + LONGEST_PAUSE_NS
        while self._next_ns < min(stamp_ns, silence_ends_ns):
            self._step(self._next_ns)
            self._next_ns += self._period_ns
        if self._next_ns < stamp_ns:
            self._next_ns += -(-(stamp_ns - self._next_ns) // self._period_ns) * self._period_ns

    def _step(self, at_ns: int) -> None:
        self._policy.no_joints_until(at_ns)
        started_ns = time.perf_counter_ns()
        state = self.supervisor.step(at_ns)
        host_ns = time.perf_counter_ns() - started_ns
        self._recorder.decision(
            stamp_ns=at_ns,
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
