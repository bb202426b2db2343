"""Schemas and tables: the file of a schema is attacked, and streams are harmed under consumers of Arrow.

*Declared*: a writer that declares a schema is killed at each call to the system, and each call fails. Then the stream
is whole, its schema is there or not, and declaring it again works. *Garbage*: every bit of the file is flipped, and it
is cut and filled with hostile JSON. The schema is then the same, none, or an error, and the payloads are what they
were. *Tables*: hostile streams are read as tables, which have what iterating has or end with an error. *Cuts*: a stream
is cut while a consumer reads its table, and after it; no process dies.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib.util
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness, streams

if TYPE_CHECKING:
    from .harness import Context

SCHEMA = [("price", "<f8"), ("name", "S16"), ("day", "<M8[D]"), ("flags", "?", (3,)), ("at", [("x", "<U2")])]
SIZE = 8 + 16 + 8 + 3 + 8
BATCHES = 1 << 16, 2  # events: with short batches a second thread makes some of them
CALLS = ("open", "write", "fsync", "replace", "unlink", "fchmod", "fchown", "close", "stat", "fstat")


def run(ctx: Context) -> None:
    """All four on both cores."""
    for core, evtape in harness.both().items():
        for name, piece in (("declared", declared), ("garbage", garbage), ("tables", tables), ("cuts", cuts)):
            if ctx.only in name:
                piece(ctx, core, evtape)


# ----------------------------------------------------------------------------------------- declared


def declared(ctx: Context, core: str, evtape: Any) -> None:
    """Killed at each call, and each call fails with a full disk."""
    for mode in ("a", "w"):
        for number in range(1, 1000):
            directory = ctx.work / f"declared-{core}-{mode}-{number}"
            directory.mkdir()
            path = str(directory / "x.tape")
            with evtape.open(path, "w", **({"schema": "text"} if mode == "w" else {})) as tape:
                tape.append(b"[1]")
            status, _ = harness.in_child(lambda: declare(evtape, path, mode, number, kill=True), 60.0)  # noqa: B023
            whole = judge(ctx, evtape, path, f"{core}, mode {mode!r}, killed at call {number}")
            failed, told = harness.in_child(lambda: declare(evtape, path, mode, number, kill=False), 60.0)  # noqa: B023
            if told is None:
                ctx.violation("a failing call ended the process", f"{core}, {mode}, {number}: {harness.tell(failed)}")
            elif told and not told.startswith(("OSError", "SchemaError")):
                ctx.violation("a failing call is told as something else", told)
            judge(ctx, evtape, path, f"{core}, mode {mode!r}, failed at call {number}")
            ctx.count("calls at which a declaring writer was killed")
            if os.WIFEXITED(status) and whole:
                break  # no call of that number: it went to its end


def declare(evtape: Any, path: str, mode: str, number: int, *, kill: bool) -> str:
    """In a child: open for writing with a schema, with something happening at call `number`."""
    left = number

    def harmed(call: Callable[..., Any]) -> Callable[..., Any]:
        def harm(*given: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and kill:
                if call is write:
                    write(given[0], bytes(given[1])[: len(given[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            if left == 0 and call.__name__ not in ("close", "stat", "fstat"):  # which do not fail like this
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*given, **named)

        return harm

    write = os.write
    for name in CALLS:
        setattr(os, name, harmed(getattr(os, name)))
    try:
        evtape.open(path, mode, schema="json").close()
    except (OSError, evtape.Error) as error:
        return f"{type(error).__name__ if isinstance(error, evtape.Error) else 'OSError'}: {error}"
    return ""


def judge(ctx: Context, evtape: Any, path: str, label: str) -> bool:
    """The stream is whole, and its schema is one of the two or none. Declaring it once more works."""
    whole = False
    try:
        with evtape.open(path) as tape:
            schema, payloads = tape.schema, [bytes(data) for _, data in tape]
        if payloads not in ([], [b"[1]"]):
            ctx.violation("a declared schema cost events", f"{label}: {payloads}")
        if schema not in (None, "json", "text") or (schema == "text" and not payloads):
            ctx.violation("a schema that was never declared", f"{label}: {schema}")
        whole = schema == "json"
        if schema != "text":  # that of a stream which was not replaced
            with evtape.open(path, "a", schema="json") as tape:
                assert tape.schema == "json"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a violation
        ctx.violation("a stream that cannot be used", f"{label}: {error!r}")
    return whole


# ------------------------------------------------------------------------------------------ garbage


def garbage(ctx: Context, core: str, evtape: Any) -> None:
    """Every bit flipped, every length, hostile values."""
    path = ctx.work / f"garbage-{core}.tape"
    with evtape.open(str(path), "w", schema=SCHEMA) as tape:
        tape.append(bytes(SIZE))
        right = tape.schema
    file = Path(f"{path}.schema.json")
    sound = file.read_bytes()
    for data in ctx.progress(list(hostile(sound, ctx.random, ctx.scale(7, 1))), "garbage"):
        file.write_bytes(data)
        ctx.count("hostile schema files")
        try:
            with evtape.open(str(path)) as tape:
                if [bytes(payload) for _, payload in tape] != [bytes(SIZE)]:
                    ctx.violation("a hostile schema changed events", repr(data[:200]))
                with contextlib.suppress(evtape.SchemaError):
                    schema = tape.schema
                    if schema is not None and schema != right:
                        ctx.violation("a damaged schema was believed", f"{schema}: {data[:300]!r}")
                    repr(tape[0]), tape[0].value
                with contextlib.suppress(evtape.SchemaError):
                    tape.__arrow_c_schema__()
        except Exception as error:  # noqa: BLE001
            ctx.violation("a hostile schema is not told as one", f"{error!r}: {data[:200]!r}")
    file.write_bytes(sound)


def hostile(sound: bytes, rng: random.Random, every: int) -> Iterator[bytes]:
    for bit in range(rng.randrange(every), len(sound) * 8, every):
        data = bytearray(sound)
        data[bit // 8] ^= 1 << bit % 8
        yield bytes(data)
    for size in range(0, len(sound), every):
        yield sound[:size]
    record = json.loads(sound)
    strange: list[Any] = [None, -1, 2**70, 1e300, "", "|O", "x" * 1000, [], {}, [[]], {"fields": []}, True, "\ud800"]
    for value in strange:
        for key in record:
            yield json.dumps(record | {key: value}, indent=2).encode()
        for key in record["payload"]["fields"][0]:
            fields = [record["payload"]["fields"][0] | {key: value}]
            yield json.dumps(record | {"payload": {"itemsize": SIZE, "fields": fields}}, indent=2).encode()
    yield sound[:40] + b"[" * 500_000
    yield b"\xff" * 100_000


# ------------------------------------------------------------------------------------------- tables


def require_pyarrow() -> Any:
    if importlib.util.find_spec("pyarrow") is None:
        raise harness.NotRun("no pyarrow")
    import pyarrow as pa

    return pa


def tables(ctx: Context, core: str, evtape: Any) -> None:
    """Streams with bytes that were changed, as tables with each kind of schema."""
    pa = require_pyarrow()
    path = str(ctx.work / f"tables-{core}.tape")
    for _ in ctx.progress(range(ctx.scale(300, 20_000)), f"tables, {core}"):
        rng = ctx.random
        payloads = [rng.randbytes(rng.choice((SIZE, SIZE, 0, 5, 13, 300))) for _ in range(rng.randrange(1, 40))]
        data = bytearray(streams.stream(payloads))
        for _ in range(rng.choice((0, 1, 1, 3))):
            at = rng.choice((rng.randrange(24), rng.randrange(24, len(data))))
            data[at] = rng.choice((0, 255, rng.randrange(256)))
        Path(path).write_bytes(data)
        evtape.arrow.BATCH_EVENTS = rng.choice(BATCHES)
        with contextlib.suppress(evtape.Error, OSError):
            one_table(ctx, pa, evtape, path, rng)
        ctx.count("hostile streams read as tables")


def one_table(ctx: Context, pa: Any, evtape: Any, path: str, rng: random.Random) -> None:
    schema, verify = rng.choice(("bytes", "text", SCHEMA)), rng.random() < 0.7
    with evtape.open(path, schema=schema, verify_checksums=verify) as tape:
        of = tape[rng.choice((slice(None), slice(None, None, -1), slice(1, None, 3)))]
        try:
            found = of.to_arrow(errors="null")
        except (OSError, pa.ArrowInvalid):
            ctx.count("tables that ended with an error")
            with contextlib.suppress(evtape.CorruptError, evtape.FormatError):
                list(of)
                ctx.violation("a table ends, and iterating does not", f"{path}: {schema}")
            return
        found.validate(full=True)
        try:
            list(of)
        except evtape.CorruptError as error:
            ctx.violation("a table has what iterating refuses", str(error))
            return
        if found["time"].cast(pa.int64()).to_pylist() != [event.timestamp for event in of]:
            ctx.violation("times differ", f"{schema}")
        if schema == "bytes" and found["payload"].to_pylist() != [event.bytes for event in of]:
            ctx.violation("payloads differ", f"{len(of)} events")


# --------------------------------------------------------------------------------------------- cuts


def cuts(ctx: Context, core: str, evtape: Any) -> None:
    """A stream is cut, written over or replaced while a table is read, in a child that must not die."""
    require_pyarrow()
    for number in ctx.progress(range(ctx.scale(20, 1000)), f"cuts, {core}"):
        path = str(ctx.work / f"cuts-{core}.tape")
        seed = ctx.seed * 100_003 + number
        status, told = harness.in_child(lambda: read_and_cut(evtape, path, seed), 60.0)  # noqa: B023
        if told is None:
            ctx.violation("a consumer's process died", f"{core}, seed {seed}: {harness.tell(status)}")
        elif told:
            ctx.violation(told, f"{core}, seed {seed}")
        ctx.count("streams cut under a table")


def read_and_cut(evtape: Any, path: str, seed: int) -> str:
    import pyarrow as pa

    rng = random.Random(seed)
    size = rng.choice((24, 1000))
    evtape.arrow.BATCH_EVENTS = rng.choice((1 << 16, 1 << 12))
    with evtape.open(path, "w", durability="none") as tape:
        for _ in range(3):
            tape.append_many([b"x" * size] * 65_536)
    tape = evtape.open(path, schema=rng.choice(("text", [("s", f"S{size}")])))
    reader = pa.RecordBatchReader.from_stream(tape)
    kept = [reader.read_next_batch()]
    os.truncate(path, rng.randrange(os.path.getsize(path)))
    if rng.random() < 0.5:
        tape.close()
    del tape
    gc.collect()
    try:
        kept += reader
    except (OSError, pa.ArrowInvalid) as error:  # ArrowInvalid: a size of zeros does not fit the schema
        if path not in str(error):
            return "a cut is told without the name of the stream"
    del reader
    gc.collect()
    column = kept[0].column(2)
    del kept
    gc.collect()
    if any(set(value) - {"x", "\0"} for value in column.to_pylist() if value):
        return "a table has bytes that the stream never had"
    return ""
