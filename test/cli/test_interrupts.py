# SPDX-License-Identifier: Apache-2.0
"""A Ctrl-C is heard wherever it falls."""

import signal
import sys
import weakref

import pytest

from sigma_ros.cli.interrupts import heard


class Thing:
    """Something that a weak reference can watch."""


def interrupt(_: object) -> None:
    signal.raise_signal(signal.SIGINT)


def test_a_ctrl_c_inside_a_weak_references_callback_is_raised_again_after_it():
    things = [Thing()]
    watch = weakref.ref(things[0], interrupt)

    def interrupted_in_the_callback() -> None:
        with heard():
            things.clear()
            signal.pause()  # ends with the alarm; without it the test would hang

    with pytest.raises(KeyboardInterrupt):
        interrupted_in_the_callback()
    assert watch() is None


def test_other_dropped_errors_are_told_as_before_and_everything_is_put_back(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    alarm = signal.getsignal(signal.SIGALRM)
    with heard():
        thing = Thing()
        watch = weakref.ref(thing, lambda _: 1 / 0)
        del thing
        assert watch() is None
    assert [entry.exc_type for entry in told] == [ZeroDivisionError]
    assert sys.unraisablehook == told.append
    assert signal.getsignal(signal.SIGALRM) is alarm
