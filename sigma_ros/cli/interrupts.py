# SPDX-License-Identifier: Apache-2.0
"""A Ctrl-C that Python drops is given again.

What is raised inside a weak reference's callback or a finaliser goes to `sys.unraisablehook` and nowhere else. A Ctrl-C
at such a moment (often: while modules are imported) would be printed and forgotten, and the command would go on.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_AGAIN_S = 0.02
"""Later than the callback's end: at once would raise inside the hook, and be dropped again."""


@contextmanager
def heard() -> Iterator[None]:
    """While open, a dropped `KeyboardInterrupt` is raised again in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hook_before = sys.unraisablehook
    alarm_before = signal.signal(signal.SIGALRM, signal.default_int_handler)

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is not None and issubclass(unraisable.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            hook_before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = hook_before
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, alarm_before)
