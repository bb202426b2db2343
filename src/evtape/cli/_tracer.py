"""What ``evtape demo`` records: the calls of a real program, each one an event.

The program takes the sources of the standard library apart: it cuts them into tokens, parses them, writes them as
source again, and compiles and disassembles that. Every call of a Python function and every return is an event; a
generator that goes on counts as called, one that yields as returned. The schema of a payload, all little-endian:

    name    kind:u8 = 0   0:u8   0:u16       function:u32   UTF-8 text "file.py:line qualified.name", 9 bytes or more
    call    kind:u8 = 1   0:u8   depth:u16   function:u32   0:i64
    return  kind:u8 = 2   0:u8   depth:u16   function:u32   nanoseconds since its call:i64

and the timestamp of the event is when it happened. The name of a function comes before its first call, so that a file
can be read from its beginning, also while it is written, and by anything that knows these three lines. Only names have
another size than 16 bytes. After a call at depth 0, the calls before it that have not returned never do: their process
was killed.
"""

from __future__ import annotations

import ast
import dis
import io
import os
import struct
import sys
import time
import tokenize
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any, Final

NAME: Final = 0
CALL: Final = 1
RETURN: Final = 2
HEAD: Final = struct.Struct("<BxHI")
RECORD: Final = struct.Struct("<BxHIq")


def library() -> list[str]:
    """The sources of the standard library, its packages not included, in the order of their names."""
    directory = os.path.dirname(os.__file__)
    return sorted(entry.path for entry in os.scandir(directory) if entry.name.endswith(".py") and entry.is_file())


def work(source: bytes, name: str) -> int:
    """The workload that is traced; returns how many tokens, and instructions of compiled functions, it met."""
    tokens = sum(1 for _ in tokenize.tokenize(io.BytesIO(source).readline))
    code = compile(ast.unparse(ast.parse(source, name)), name, "exec")
    return tokens + _instructions(code)


def _instructions(code: CodeType) -> int:
    inner = sum(_instructions(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return inner + sum(1 for _ in dis.get_instructions(code))


class Tracer:
    """Appends an event for every call and return of what ``run`` runs, in this thread.

    ``names`` are the functions that the stream has introduced already.
    """

    def __init__(self, append: Callable[[bytes, int], int], names: Sequence[str] = ()) -> None:
        self._append = append
        self._names = {name: number for number, name in enumerate(names)}
        self._next = len(names)
        self._known: dict[int, int] = {}  # id of a code object -> function; hashing the object itself is slow
        self._codes: list[CodeType] = []  # keeps those ids from being used again
        self._starts: list[tuple[int, int]] = []  # function and time of the calls that have not returned
        self.events = 0
        self.nanoseconds = 0  # spent in what was traced

    def run(self, function: Callable[..., object], *arguments: object) -> None:
        """Call ``function``, traced."""
        begin = time.perf_counter_ns()
        try:
            if sys.version_info >= (3, 12):
                self._run_monitored(function, *arguments)
            else:
                self._run_profiled(function, *arguments)
        finally:
            self._starts.clear()
            self.nanoseconds += time.perf_counter_ns() - begin

    # ----------------------------------------------------------------------------------------------------------- events

    def _call(self, code: CodeType) -> None:
        function = self._known.get(id(code))
        if function is None:
            function = self._introduce(code)
        starts = self._starts
        now = time.time_ns()
        self._append(RECORD.pack(CALL, len(starts), function, 0), now)
        starts.append((function, now))
        self.events += 1

    def _return(self) -> None:
        starts = self._starts
        if not starts:  # of something that was called before the trace began
            return
        function, start = starts.pop()
        now = time.time_ns()
        self._append(RECORD.pack(RETURN, len(starts), function, now - start), now)
        self.events += 1

    def _introduce(self, code: CodeType) -> int:
        where = f"{os.path.basename(code.co_filename)}:{code.co_firstlineno} {code.co_qualname}"
        function = self._names.pop(where, -1)  # once: other code may have the same name
        if function < 0:
            function = self._next
            self._next += 1
            data = where.encode("utf-8", "backslashreplace").ljust(RECORD.size - HEAD.size + 1)
            self._append(HEAD.pack(NAME, 0, function) + data, time.time_ns())
            self.events += 1
        self._known[id(code)] = function
        self._codes.append(code)
        return function

    # ------------------------------------------------------------------------------------------------------------ hooks

    def _run_profiled(self, function: Callable[..., object], *arguments: object) -> None:
        call, leave = self._call, self._return

        def hook(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call":
                call(frame.f_code)
            elif event == "return":
                leave()

        before = sys.getprofile()
        sys.setprofile(hook)
        try:
            function(*arguments)
        finally:
            sys.setprofile(before)

    if sys.version_info >= (3, 12):

        def _run_monitored(self, function: Callable[..., object], *arguments: object) -> None:
            monitoring = sys.monitoring
            tool = next((number for number in range(6) if monitoring.get_tool(number) is None), None)
            if tool is None:
                raise RuntimeError("every tool of sys.monitoring is taken; run the demo without a debugger or profiler")
            kinds = monitoring.events
            entries = (kinds.PY_START, kinds.PY_RESUME, kinds.PY_THROW)
            exits = (kinds.PY_RETURN, kinds.PY_YIELD, kinds.PY_UNWIND)
            monitoring.use_tool_id(tool, "evtape")
            try:
                for kind in entries:
                    monitoring.register_callback(tool, kind, lambda code, *_: self._call(code))
                for kind in exits:
                    monitoring.register_callback(tool, kind, lambda code, *_: self._return())
                monitoring.set_events(tool, sum(entries) + sum(exits))
                function(*arguments)
            finally:
                monitoring.set_events(tool, 0)
                for kind in entries + exits:
                    monitoring.register_callback(tool, kind, None)
                monitoring.free_tool_id(tool)
