"""The SIGBUS guard: a mapped file that is truncated, or cannot be read, raises an exception and ends no process.

The kernel sends SIGBUS when it cannot provide a page of a mapping. While the guard is on, such a page of an evtape
mapping becomes zeros, the stream is marked, and its next call raises TruncatedError. Signals for any other address go
to the handler that was installed before (faulthandler, another library, the default). The pure core needs no guard.

The first stream that is opened switches it on. ``EVTAPE_SIGBUS_GUARD=off`` in the environment, or
``guard.disable()``, keeps it off.
"""

from __future__ import annotations

import os

from .core.backend import core

_wanted = os.environ.get("EVTAPE_SIGBUS_GUARD", "on") != "off"


def enable() -> None:
    """Install the guard for this process, on top of the handler that is there now. O(1), and nothing to do twice."""
    global _wanted  # noqa: PLW0603 - the handler of a signal belongs to the process
    _wanted = True
    core.guard_enable()


def disable() -> None:
    """Restore the handler that was there before, and install the guard no more."""
    global _wanted  # noqa: PLW0603
    _wanted = False
    core.guard_disable()


def enabled() -> bool:
    """Whether the guard comes first when SIGBUS arrives."""
    return core.guard_enabled()


def ensure() -> None:
    """Called where a file is mapped: puts the guard on top again if another handler has been installed since."""
    if _wanted:
        core.guard_enable()
