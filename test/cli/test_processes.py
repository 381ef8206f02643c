# SPDX-License-Identifier: Apache-2.0
"""Children end with their parent, in every way in which a parent can end."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sigma_ros.cli.processes import Child, Children, children, free_domain
from sigma_ros.errors import MachineError, SigmaError

STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
WAITING = "import signal; print('ready', flush=True); signal.pause()"


def start(group: Children, name: str, code: str) -> Child:
    return group.start(name, [sys.executable, "-S", "-c", code], os.environ)


def until_ready(child: Child) -> None:
    while "ready" not in child.log.read_text(encoding="utf-8"):
        assert child.process.poll() is None, child.last_lines()


@pytest.mark.parametrize("reason", [KeyboardInterrupt, SigmaError])
def test_children_are_gone_after_an_interruption_or_a_failure(tmp_path: Path, reason: type[BaseException]) -> None:
    started: list[Child] = []

    def interrupted() -> None:
        with children(tmp_path) as group:
            started.append(start(group, "waiting", WAITING))
            until_ready(started[0])
            raise reason("stop")

    with pytest.raises(reason):
        interrupted()
    assert started[0].process.poll() is not None


def test_a_child_that_ignores_ctrl_c_is_ended_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ((signal.SIGINT, 0.05), (signal.SIGTERM, 3.0))
    monkeypatch.setattr("sigma_ros.cli.processes._STOP_STEPS", steps)
    with children(tmp_path) as group:
        child = start(group, "stubborn", STUBBORN)
        until_ready(child)
    assert child.process.returncode == -signal.SIGTERM


def test_the_awaited_childs_exit_code_is_given(tmp_path: Path) -> None:
    with children(tmp_path) as group:
        assert group.wait(start(group, "done", "raise SystemExit(3)")) == 3


def test_another_childs_death_is_told_with_its_last_words(tmp_path: Path) -> None:
    with children(tmp_path) as group:
        awaited = start(group, "replay", WAITING)
        start(group, "policy", "print('no such checkpoint'); raise SystemExit(7)").process.wait()
        with pytest.raises(SigmaError, match=r"(?s)the policy process ended.*exit code 7.*no such checkpoint"):
            group.wait(awaited)


def test_children_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom sigma_ros.cli.processes import Children\n"
        f"command = [sys.executable, '-S', '-c', {WAITING!r}]\n"
        f"child = Children(Path({str(tmp_path)!r})).start('orphan', command, os.environ)\n"
        "print(child.process.pid, flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    waited = os.pidfd_open(pid) if Path(f"/proc/{pid}").exists() else None
    if waited is not None:
        import select  # noqa: PLC0415

        assert select.select([waited], [], [], 10.0)[0], "the child outlived its parent"
        os.close(waited)


def test_a_domain_in_use_is_refused_and_passed_over() -> None:
    domain = free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 7400 + 250 * domain + 10))
        with pytest.raises(MachineError, match=f"domain {domain}, UDP port"):
            free_domain(domain)
        assert free_domain() != domain
