"""Makes docs/api.md from the docstrings: `python -m tests.docs.api` writes it anew."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from tests.docs.pages import ROOT


def prose(documented: object) -> str:
    """A docstring as Markdown."""
    text = inspect.getdoc(documented) or ""
    return text.replace("``", "`")


def first_paragraph(documented: object) -> str:
    return prose(documented).partition("\n\n")[0]


def signature(name: str, function: object, bound: bool = True) -> str:
    """A call as people write it: without annotations and without self."""
    plain = inspect.signature(function)  # type: ignore[arg-type]
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in plain.parameters.values()
        if not (bound and parameter.name == "self")
    ]
    return name + str(plain.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


SPELLED = {"__getitem__": "[key]", "__setitem__": "[key] = value"}


def entries(prefix: str, kind: type, names: str) -> Iterator[str]:
    for name in names.split():
        member = inspect.getattr_static(kind, name)
        if isinstance(member, property):
            heading = f"{prefix}.{name}"
        elif name in SPELLED:
            heading = prefix + SPELLED[name]
        else:
            calls = {"__iter__": f"iter({prefix})", "__len__": f"len({prefix})"}
            heading = calls.get(name) or signature(f"{prefix}.{name}", member)
        yield f"### `{heading}`\n\n{prose(member)}"


def fields(kind: type, path: str) -> str:
    """A table of the fields of a dataclass with the remarks behind them in the source."""
    remarks = dict(re.findall(r"^    (\w+): [^#\n]*?(?:  #: ([^\n]+))?$", inspect.getsource(kind), re.MULTILINE))
    rows = [f"| `{path}.{field.name}` | {remarks.get(field.name, '')} |" for field in dataclasses.fields(kind)]
    return "\n".join(["| | |", "|---|---|", *rows])


def own_fields(kind: type, path: str) -> str:
    """The same without the fields of its base."""
    inherited = {f"`{path}.{field.name}`" for base in kind.__mro__[1:-1] for field in dataclasses.fields(base)}
    return "\n".join(row for row in fields(kind, path).splitlines() if row.split(" | ")[0][2:] not in inherited)


TIMES = """Times are nanoseconds since 1970-01-01T00:00:00Z as `int`. Where a time goes in, these are accepted
too: an aware `datetime`, a `numpy.datetime64` (which is UTC), and ISO 8601 text with a zone, as in
`"2026-11-25T09:30Z"`. A time without a zone raises `ValueError`. In the cost of a call, *n* is the
number of events.

Streams, slices, reports and mapped files have a `repr` that says what they are, and show a table in a
notebook."""

EVENT = """## `evtape.Event`

`timestamp, data = event` unpacks it.

| | |
|---|---|
| `event.timestamp` | int, ns |
| `event.data` | the payload, a read-only memoryview that keeps the mapping alive |
| `event.ordinal` | its number in the stream, from 0 |
| `event.offset` | its byte position |
| `event.checksum` | CRC-32 of the payload |
| `event.bytes` | the payload as bytes: a copy |
| `event.text` | the payload as text; `UnicodeDecodeError` if it is not UTF-8 |
| `event.value` | the payload as the schema says: a row, text, or the value of the JSON; bytes without a schema |
| `event.time` | the timestamp as `numpy.datetime64[ns]`, UTC |"""


def command_line() -> Iterator[str]:
    """The section on the command line, made from the help texts."""
    cli = importlib.import_module("evtape.cli")
    context = cli.commands.context_class(cli.commands)
    yield f"## The command line\n\n{shown(cli.commands.help)}"
    for name in cli.commands.list_commands(context):
        command = cli.commands.get_command(context, name)
        yield from one_command(name, command, context)
        for part, each in getattr(command, "commands", {}).items():
            yield from one_command(f"{name} {part}", each, context)


def one_command(name: str, command: Any, context: Any) -> Iterator[str]:
    """What a command does, and its options."""
    words = " ".join(command.collect_usage_pieces(context))
    yield f"### `evtape {name} {words}`\n\n{shown(command.help)}"
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    if options:
        rows = [f"| `{', '.join(option.opts)}{value(option)}` | {option.help} |" for option in options]
        yield "\n".join(["| | |", "|---|---|", *rows])


def value(option: Any) -> str:
    """What stands after the name of an option."""
    choices = getattr(option.type, "choices", None)
    return "" if option.is_flag else f" {'/'.join(choices)}" if choices else f" {option.type.name.split()[0].upper()}"


def shown(text: str) -> str:
    """A help text as Markdown: what follows the mark for "do not wrap" is a block of code."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    code = re.compile("^ *", re.MULTILINE)
    return "\n\n".join(code.sub("    ", part[2:]) if part.startswith("\b\n") else part for part in paragraphs)


def api_page(et: ModuleType) -> str:
    """docs/api.md as it should be."""
    opened = et.Tape
    warnings = [name for name in et.__all__ if name.endswith(("Error", "Warning"))]
    exceptions = [
        f"| `evtape.{name}` | {first_paragraph(getattr(et, name)).partition(chr(10))[0]} |" for name in warnings
    ]
    parts = [
        "<!-- Made from the docstrings by `python -m tests.docs.api`; change those. -->\n# API",
        TIMES,
        f"## `{signature('evtape.open', et.open)}`\n\n{prose(et.open)}",
        "`evtape.backend` is the core that runs: `'native'` or `'python'`.",
        f"## `evtape.Tape`: a stream that is open\n\n{prose(opened)}\n\nA slice has the same queries.",
        "### `len(tape)`\n\nHow many events are published at this moment. O(new events) since the last question.",
        *entries("tape", opened, "__getitem__ __iter__ head tail timestamps sizes offsets between searchsorted rows"),
        *entries("tape", opened, "schema __arrow_c_stream__ __arrow_c_schema__ arrow to_arrow to_polars to_pandas"),
        *entries("tape", opened, "follow afollow cursor"),
        *entries("tape", opened, "path verify_checksums durable start_timestamp first_ordinal next_ordinal"),
        *entries("tape", opened, "closed close"),
        f"## `evtape.Reader`: a stream that is open for reading\n\n{prose(et.Reader)}",
        *entries("tape", et.Reader, "replaced"),
        f"## `evtape.Writer`: a stream that is open for appending\n\n{first_paragraph(et.Writer)}",
        *entries("tape", et.Writer, "append append_many append_array append_arrow sync sync_async recovered close"),
        f"## `{signature('evtape.open_journal', et.open_journal)}`\n\n{prose(et.open_journal)}",
        f"## `evtape.Journal`: a journal that is open\n\n{prose(et.Journal)}",
        *entries("journal", et.Journal, "__getitem__ searchsorted segments start_timestamp"),
        f"### `evtape.Segment`\n\n{prose(et.Segment)}\n\n{fields(et.Segment, 'segment')}",
        f"## `evtape.JournalReader`: a journal that is open for reading\n\n{prose(et.JournalReader)}",
        f"## `evtape.JournalWriter`: a journal that is open for appending\n\n{prose(et.JournalWriter)}",
        *entries("journal", et.JournalWriter, "roll prune durable close"),
        f"## `{signature('evtape.follow', et.follow)}`\n\n{prose(et.follow)}",
        f"## `evtape.Cursor`\n\n{prose(et.Cursor)}",
        *entries("cursor", et.Cursor, "__iter__ follow commit seek ordinal committed lag closed close"),
        f"## `evtape.Slice`\n\n{prose(et.Slice)}",
        *entries("part", et.Slice, "ordinals gather"),
        EVENT,
        f"## `{signature('evtape.frombuffer', et.frombuffer)}`\n\n{prose(et.frombuffer)}",
        f"## `{signature('evtape.scan', et.scan)}`\n\n{prose(et.scan)}",
        f"## `{signature('evtape.partitions', et.partitions)}`\n\n{prose(et.partitions)}",
        f"## `evtape.Partition`\n\n{prose(et.Partition)}\n\n{fields(et.Partition, 'part')}",
        *entries("part", et.Partition, "open __len__"),
        f"## `{signature('evtape.merge', et.merge)}`\n\n{prose(et.merge)}",
        f"## `evtape.Merged`\n\n{prose(et.Merged)}",
        *entries("merged", et.Merged, "__getitem__ __iter__ timestamps sizes stream_numbers between searchsorted rows"),
        *entries("merged", et.Merged, "follow afollow streams closed close"),
        f"## `evtape.MergedSlice`\n\n{prose(et.MergedSlice)}",
        *entries("part", et.MergedSlice, "stream_numbers"),
        f"## `evtape.MergedEvent`\n\n{prose(et.MergedEvent)}",
        f"## `{signature('evtape.verify', et.verify)}`\n\n{prose(et.verify)}",
        f"## `{signature('evtape.build_index', et.build_index)}`\n\n{prose(et.build_index)}",
        f"## `{signature('evtape.recover', et.recover)}`\n\n{prose(et.recover)}",
        f"## `evtape.Report`\n\n{prose(et.Report)}\n\n{fields(et.Report, 'report')}",
        *entries("report", et.Report, "reason ok lost as_dict"),
        f"### `evtape.Problem`\n\n{prose(et.Problem)}\n\n{fields(et.Problem, 'problem')}",
        f"### `evtape.Salvaged`\n\n{prose(et.Salvaged)}\n\n{fields(et.Salvaged, 'run')}",
        f"### `evtape.JournalReport`\n\n{prose(et.JournalReport)}\n\n{own_fields(et.JournalReport, 'report')}",
        f"## `{signature('evtape.MappedFile', et.MappedFile)}`\n\n{prose(et.MappedFile)}",
        *entries("mapped", et.MappedFile, "__getitem__ __setitem__ view grow sync close"),
        f"## The SIGBUS guard\n\n{prose(et.guard)}",
        *(
            f"### `{signature(f'evtape.guard.{name}', getattr(et.guard, name))}`\n\n{prose(getattr(et.guard, name))}"
            for name in ("enable", "disable", "enabled")
        ),
        "## Exceptions\n\n| | |\n|---|---|\n" + "\n".join(exceptions),
        *command_line(),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    import evtape

    (ROOT / "docs/api.md").write_text(api_page(evtape), encoding="utf-8")
