# SPDX-License-Identifier: Apache-2.0
"""Attacks that drive the arm into itself, the table and a keep-out box; the simulator's shapes judge every command.

    python -m safety.collision.campaign --ticks 100000 --seed 0

MuJoCo's collision detection is the oracle: it knows the shapes themselves and nothing of capsules, margins or stops.
Judged are the commands, the pose half way between two, and of every tenth tick the whole stop behind it. Motions begin
where nothing is nearer than the margin; with `--folded` where the arm rests folded upon itself. Exit codes: 0 no
contact, 1 contacts.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import mujoco
import numpy as np
from numpy import ndarray
from numpy.random import Generator
from tqdm import tqdm

from safety.attacks import ATTACKS, View
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.kinematics import KeepOut
from sigma_ros.sim.arm import LINKS
from sigma_ros.sim.scene import build_model
from sigma_ros.sim.setups import SOURCE
from sigma_ros.supervisor.geometry.collision import Collisions
from sigma_ros.supervisor.guard import MotionGuard, Request
from sigma_ros.supervisor.limits import SupervisorLimits

BOX = KeepOut(name="the shelf", low_m=(0.20, -0.30, 0.0), high_m=(0.30, -0.12, 0.20))
LIMITS = SupervisorLimits(avoid_collisions=True, keep_above_plane=True, plane_height_m=0.0)
MOTION_TICKS = 400
POSES = "poses"
"""The attack that goes from one random pose to another."""

_STOP_EVERY = 10
_STUCK_TICKS = 12


class ContactOracle:
    """Which shapes of the simulator overlap in a pose: of links that are no neighbours, of links and table or box."""

    def __init__(self, contract: Contract) -> None:
        self._model = build_model(SOURCE, contract, _touching(contract))
        self._data = mujoco.MjData(self._model)
        self._columns = [self._model.joint(name).qposadr[0] for name in contract.joint_names]
        number = {self._model.body(link.name).id: i for i, link in enumerate(LINKS)}
        self._place = [number.get(int(body), -1) for body in self._model.geom_bodyid]

    def contacts(self, pose_rad: ndarray) -> set[tuple[int, int]]:
        """Pairs of links (by number from the base; -1: table or box) that overlap."""
        self._data.qpos[self._columns] = pose_rad
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        places = (sorted(self._place[geom] for geom in contact.geom) for contact in self._data.contact)
        return {(a, b) for a, b in places if b > a + 1 and (a, b) != (-1, 1)}


def _touching(contract: Contract) -> Callable[[mujoco.MjSpec], None]:
    """Adds the contract's boxes, and lets every shape of the arm touch these, the table and each other."""

    def furnish(spec: mujoco.MjSpec) -> None:
        for box in contract.keep_out:
            low, high = np.array(box.low_m), np.array(box.high_m)
            spec.worldbody.add_geom(
                name=box.name, type=mujoco.mjtGeom.mjGEOM_BOX, pos=(low + high) / 2.0, size=(high - low) / 2.0
            )
        arm, still = {link.name for link in LINKS}, {"table", *(box.name for box in contract.keep_out)}
        for geom in spec.geoms:
            geom.contype = geom.conaffinity = int(geom.parent.name in arm or geom.name in still)

    return furnish


@dataclass(kw_only=True)
class Tally:
    """What a campaign found."""

    ticks: int = 0
    refused: int = 0
    judged: int = 0
    contacts: Counter[str] = field(default_factory=Counter)
    obstacles: Counter[str] = field(default_factory=Counter)


def run(ticks: int, seed: int, *, folded: bool = False, quiet: bool = True) -> Tally:
    """The campaign: motions of up to `MOTION_TICKS`, each with the next attack; one that is stuck ends."""
    contract = replace(load_contract("so101"), keep_out=(BOX,))
    oracle, tally, rng = ContactOracle(contract), Tally(), np.random.default_rng(seed)
    names = [name for attack in sorted(ATTACKS) for name in (attack, POSES)]
    with tqdm(total=ticks, unit="tick", disable=quiet) as bar:
        turn = 0
        while tally.ticks < ticks:
            done = tally.ticks
            motion = _Motion(contract, oracle, rng, folded=folded)
            motion.run(tally, POSES if folded else names[turn % len(names)], min(MOTION_TICKS, ticks - done))
            bar.update(tally.ticks - done)
            turn += 1
    return tally


class _Motion:
    """One motion from rest: what drives it, what it meets."""

    def __init__(self, contract: Contract, oracle: ContactOracle, rng: Generator, *, folded: bool) -> None:
        self._contract, self._oracle, self._rng, self._folded = contract, oracle, rng, folded
        motion = LIMITS.motion(contract)
        assert motion.collisions is not None
        start = self._start(motion.collisions)
        motion = replace(motion, collisions=motion.collisions.standing_at(start))
        self._guard = MotionGuard(motion)
        self._view = View(limits=motion, track=self._guard.rest(start))
        self._goal = start

    def run(self, tally: Tally, attack: str, ticks: int) -> None:
        """Attacks the guard until the ticks are spent or nothing moves any more."""
        view, stuck = self._view, 0
        for view.tick in range(ticks):
            before = view.position
            if self._rng.random() < 0.05:
                self._goal = self._next_goal()
            request = Request.at(self._goal) if attack == POSES else ATTACKS[attack](self._rng, view)
            step = self._guard.advance(view.track, request)
            view.track = step.track
            tally.ticks += 1
            if step.obstacle:
                tally.refused += 1
                tally.obstacles[step.obstacle] += 1
            moves = bool((before != view.position).any())
            if moves:
                self._judge(tally, [0.5 * (before + view.position), view.position])
            if moves and tally.ticks % _STOP_EVERY == 0:
                self._judge(tally, list(view.track.stop_rad))
            stuck = 0 if moves or not step.obstacle else stuck + 1
            if stuck > _STUCK_TICKS:
                return

    def _judge(self, tally: Tally, poses: list[ndarray]) -> None:
        for pose in poses:
            tally.judged += 1
            for a, b in self._oracle.contacts(pose):
                tally.contacts[f"{'table or box' if a < 0 else LINKS[a].name}, {LINKS[b].name}"] += 1

    def _next_goal(self) -> ndarray:
        """Any pose; of the folded arm one near its rest or one with the arm raised."""
        contract, rng = self._contract, self._rng
        if not self._folded:
            return rng.uniform(contract.lower_rad, contract.upper_rad)
        middle = np.array(SOURCE.start.rest_rad) if rng.random() < 0.6 else np.zeros(contract.dof)
        return np.asarray(middle + rng.uniform(-0.4, 0.4, contract.dof))

    def _start(self, collisions: Collisions) -> ndarray:
        """A pose in which nothing touches: with the margin all around, or folded."""
        contract, rng = self._contract, self._rng
        while True:
            pose = rng.uniform(contract.lower_rad, contract.upper_rad)
            if self._folded:
                pose = SOURCE.start.rest_rad + SOURCE.start.rest_spread_rad * rng.uniform(-1.0, 1.0, contract.dof)
                pose = np.clip(pose, contract.lower_rad, contract.upper_rad)
            far = collisions.clearances_m(pose[None]).min() >= LIMITS.collision_margin_m
            if (self._folded or far) and not self._oracle.contacts(pose):
                return np.asarray(pose)


def table(tally: Tally) -> str:
    """The result as lines of text."""
    lines = [
        f"{tally.ticks:,} ticks, {tally.refused / tally.ticks:.1%} of them refused, {tally.judged:,} poses judged: "
        f"{sum(tally.contacts.values())} contacts"
    ]
    lines += [f"  {count} x {pair}" for pair, count in tally.contacts.most_common()]
    lines += [f"  refused {count:,} times: {words}" for words, count in tally.obstacles.most_common()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folded", action="store_true", help="begin where the arm rests folded upon itself")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    if options.ticks < 1:
        parser.error("--ticks must be at least 1")
    tally = run(options.ticks, options.seed, folded=options.folded, quiet=options.quiet)
    sys.stdout.write(table(tally))
    return 1 if tally.contacts else 0


if __name__ == "__main__":
    sys.exit(main())
