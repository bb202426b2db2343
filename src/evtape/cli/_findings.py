"""What the trace of ``evtape demo`` tells, read back from its file alone. The schema is in ``_tracer``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import evtape

from ._tracer import CALL, HEAD, NAME, RECORD

_DEPTHS = 1 << 16  # as many as the schema has


class Returned(NamedTuple):
    """A call that has returned. ``own`` is its duration without the calls it made, in nanoseconds."""

    timestamp: int
    function: int
    depth: int
    duration: int
    own: int


@dataclass
class Function:
    """What a function did in the whole trace."""

    place: str  #: for instance "ast.py:420"
    name: str  #: qualified
    calls: int = 0
    own: int = 0  #: nanoseconds

    @property
    def label(self) -> str:
        """Its name with its module, for instance "ast.NodeVisitor.visit"."""
        return f"{self.place.rpartition(':')[0].removesuffix('.py')}.{self.name}"


def functions_of(events: Iterable[evtape.Event]) -> list[Function]:
    """Every function of a whole trace; its position is the number events call it by."""
    functions: list[Function] = []
    for returned in returns_of(events, functions):
        function = functions[returned.function]
        function.calls += 1
        function.own += returned.own
    return functions


def returns_of(events: Iterable[evtape.Event], names: list[Function] | None = None) -> Iterator[Returned]:
    """Every return, in order; the functions that are introduced meanwhile are added to ``names``."""
    inside = [0] * (_DEPTHS + 2)  # by depth: nanoseconds of the calls made since the caller began
    unpack = RECORD.unpack
    for timestamp, data in events:
        if data[0] == NAME:
            if names is not None:
                place, _, name = str(data[HEAD.size :], "utf-8").partition(" ")
                names.append(Function(place, name))
            continue
        kind, depth, function, duration = unpack(data)
        if kind == CALL:
            inside[depth + 1] = 0
            continue
        yield Returned(timestamp, function, depth, duration, duration - inside[depth + 1])
        inside[depth] += duration


def slowest(window: evtape.Slice, begin: int, count: int) -> list[Returned]:
    """The calls with the longest own time that began and returned in ``window``, which begins at ``begin``."""
    whole = (returned for returned in returns_of(window) if returned.timestamp - returned.duration >= begin)
    return sorted(whole, key=attrgetter("own"), reverse=True)[:count]


def busiest(functions: list[Function], count: int) -> list[Function]:
    """The functions with the longest own time."""
    return sorted(functions, key=attrgetter("own"), reverse=True)[:count]
