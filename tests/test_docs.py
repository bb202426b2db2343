"""The documents hold: every snippet and every command in them is run, and what they show as output is compared.

What the extractor understands, in README.md and docs/*.md:

- A ```python block is a program of its own, run in a folder that the document keeps. A ```text block right after it is
  its output.
- A ```console block has commands after "$ " and their output; "[exit code N]" ends the output of a command that ends
  with N.
- "..." in an output stands for anything.
- <!-- docs-test: not run (why) --> stands before a block that is not run, <!-- docs-test: needs NAME (why) --> before
  one that needs a file or a module that is not everywhere, and <!-- docs-test: output varies (why) --> before one that
  is run, but of whose output only the words at the beginnings of lines are compared.

The page docs/api.md is made from the docstrings: `python -m tests.test_docs` writes it anew.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.helpers import NS, stream

ROOT = Path(__file__).parent.parent
if not (ROOT / "README.md").exists():
    pytest.skip("the tests were installed without the documents", allow_module_level=True)
SHELL_PAGES = {"README.md", "CONTRIBUTING.md", "docs/benchmark.md", "docs/faults.md"}  # whose "sh" blocks nobody runs
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BLOCK = re.compile(
    r"(?:^<!-- docs-test: (?P<remark>[^\n]*) -->\n)?"
    r"^```(?P<kind>\w+)\n(?P<body>.*?)^```\n"
    r"(?:^```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Block:
    kind: str
    body: str
    output: str | None  #: what a ```text block behind it shows
    remark: str  #: what its docs-test comment says
    line: int

    @property
    def varies(self) -> bool:
        return "output varies" in self.remark

    @property
    def missing(self) -> str:
        """What the block needs and this machine does not have; a reason to leave it out."""
        if self.remark.startswith("not run"):
            return self.remark
        for need in re.findall(r"needs (\S+)", self.remark):
            there = os.path.exists(need) if "/" in need else importlib.util.find_spec(need) is not None
            if not there:
                return f"{need} is not here"
        return ""


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    text = read(page)
    found = BLOCK.finditer(text)
    return [
        Block(m["kind"], m["body"], m["output"], m["remark"] or "", text.count("\n", 0, m.start("body"))) for m in found
    ]


def between(page: str, name: str) -> str:
    """What stands between the markers <!-- name:begin --> and <!-- name:end -->."""
    found = re.search(rf"<!-- {name}:begin[^\n]*-->\n(.*?)<!-- {name}:end -->", read(page), re.DOTALL)
    assert found is not None, f"{page} has no markers {name}"
    return found[1]


def matches(shown: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def first_words(text: str) -> set[str]:
    """The words that label lines, as in "events    5,684": the shape of an output without its figures."""
    return set(re.findall(r"^([a-z]+)  ", text, re.MULTILINE))


# -------------------------------------------------------------------------------------- what is run


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `python` and `evtape`, which mean this interpreter and the package under test."""
    folder = tmp_path_factory.mktemp("bin")
    for name, words in (("python", ""), ("evtape", " -m evtape")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def environment(core: str, tools: Path) -> dict[str, str]:
    return {
        **os.environ,
        "EVTAPE_BACKEND": core,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "100",
        "PYTHONIOENCODING": "utf-8",
    }


# One interpreter for all programs of a page, because starting one costs more than most of them do.
DRIVER = """
import runpy, sys
for path in sys.argv[1:]:
    print("== " + path, flush=True)
    runpy.run_path(path, run_name="__main__")
"""


def run_programs(programs: list[Block], folder: Path, env: dict[str, str]) -> None:
    names = []
    for block in programs:
        names.append(f"line_{block.line}.py")
        (folder / names[-1]).write_text(block.body, encoding="utf-8")
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", DRIVER, *names]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    printed = re.split(r"^== .*\n", result.stdout, flags=re.MULTILINE)[1:]
    for block, text in zip(programs, printed, strict=True):
        assert block.output is None or matches(block.output, text), f"line {block.line} printed:\n{text}"


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a ```console block, and what it is shown to print."""
    for part in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def run_commands(block: Block, folder: Path, env: dict[str, str]) -> None:
    for command, shown in commands(block):
        result = subprocess.run(
            ["bash", "-c", f"exec 2>&1; {command}"], cwd=folder, env=env, capture_output=True, timeout=100, check=False
        )
        printed = result.stdout.decode(errors="replace")
        if result.returncode:
            printed = f"{printed.rstrip()}\n[exit code {result.returncode}]"
        where = f"line {block.line}, $ {command}\nprinted:\n{printed}"
        if block.varies:
            assert result.returncode == 0, where
            assert first_words(shown) == first_words(printed), where
        else:
            assert matches(shown, printed), where


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.kind == "python" for b in blocks(page))])
def test_programs(page: str, core: str, tmp_path: Path, tools: Path) -> None:
    programs = [block for block in blocks(page) if block.kind == "python" and not block.missing]
    run_programs(programs, tmp_path, environment(core, tools))


@pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="the commands are for bash")
@pytest.mark.parametrize("page", [page for page in PAGES if any(b.kind == "console" for b in blocks(page))])
def test_commands(page: str, core: str, tmp_path: Path, tools: Path) -> None:
    pytest.importorskip("click", reason="the command line is an extra")
    pytest.importorskip("rich", reason="the command line is an extra")
    for block in blocks(page):
        # What varies is long, and shown as the native core prints it.
        elsewhere = block.varies and core == "python" and importlib.util.find_spec("evtape.core.native") is not None
        if block.kind == "console" and not block.missing and not elsewhere:
            run_commands(block, tmp_path, environment(core, tools))


def test_every_block_is_accounted_for() -> None:
    # A block of another kind would be shown to people and run by nobody.
    known = {
        "python": "test_programs",
        "console": "test_commands",
        "hex": "test_hex_dump",
        "go": "test_reader_in_go",
        "c": "test_reader_in_c",
        "text": "the output of the program before it",
        "sh": "executed by .ci/run, or building and checking the tree itself",
    }
    for page in PAGES:
        for block in blocks(page):
            assert block.kind in known, f"{page}:{block.line}"
            if block.kind == "text":
                pytest.fail(f"{page}:{block.line}: an output without a program before it")
            if block.kind == "sh":
                assert page in SHELL_PAGES, f"{page}:{block.line}"


# ---------------------------------------------------------------------------------------- README.md


@pytest.mark.parametrize(
    ("name", "ends"), [("demo-line", ".venv/bin/evtape demo"), ("test-line", ".venv/bin/python -m pytest -q")]
)
def test_install_lines(name: str, ends: str) -> None:
    # .ci/run takes the one line that is left after fences and executes it in a fresh clone.
    lines = [line for line in between("README.md", name).splitlines() if line.strip() and not line.startswith("```")]
    assert len(lines) == 1
    assert lines[0].startswith("python -m venv .venv && .venv/bin/pip install ")
    assert lines[0].endswith(ends)
    if shutil.which("bash"):
        subprocess.run(["bash", "-n", "-c", lines[0]], check=True)
    assert f"<!-- {name}:begin -->" in read("README.md")
    if name == "test-line" and (ROOT / ".ci/run").exists():
        assert "/<!-- test-line:begin -->/,/<!-- test-line:end -->/p" in read(".ci/run")


# ----------------------------------------------------------------------------------- docs/format.md

EVENTS = [(NS + 1000, b"Hello"), (NS + 2000, b""), (NS + 3000, b"Go!")]


def dump() -> bytes:
    """The bytes of the worked example, each at the offset it is said to have."""
    raw = b""
    for line in between("docs/format.md", "dump").splitlines():
        if found := re.match(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+)", line):
            assert int(found[1], 16) == len(raw), line
            raw += bytes.fromhex(found[2])
    return raw


def test_hex_dump(et: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dump() == stream(EVENTS)
    monkeypatch.setattr("time.time_ns", lambda: NS)  # StartTimestamp
    path = tmp_path / "example.tape"
    with et.open(path, "x") as tape:
        for timestamp, payload in EVENTS:
            tape.append(payload, timestamp)
    assert path.read_bytes() == dump()
    assert et.verify(path).state == "clean"


def test_hex_dump_explains_its_bytes() -> None:
    for line in between("docs/format.md", "dump").splitlines():
        found = re.match(r"[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+) +(\w+) +(\S+)", line)
        if found and found[2] == "data":
            assert bytes.fromhex(found[1]).decode() == found[3]
        elif found:
            assert int.from_bytes(bytes.fromhex(found[1]), "little") == int(found[3], 0), line


def reader_output(program: list[str], path: Path) -> str:
    return subprocess.run([*program, str(path)], capture_output=True, text=True, check=False, timeout=100).stdout


def check_reader(program: list[str], tmp_path: Path) -> None:
    """A reader in another language prints the events of the example, and stops at damage."""
    path = tmp_path / "example.tape"
    path.write_bytes(dump())
    events = [f"{timestamp} {len(payload)}" for timestamp, payload in EVENTS]
    assert reader_output(program, path).splitlines() == events
    path.write_bytes(dump()[:-1] + b"?")
    assert reader_output(program, path).splitlines() == [*events[:2], "damaged at 61"]


def source(kind: str) -> str:
    (block,) = [block for block in blocks("docs/format.md") if block.kind == kind]
    return block.body


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("cc") is None, reason="no C compiler `cc` here")
def test_reader_in_c(tmp_path: Path) -> None:
    (tmp_path / "reader.c").write_text(source("c"))
    subprocess.run(
        ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", "reader", "reader.c"], cwd=tmp_path, check=True
    )
    check_reader([str(tmp_path / "reader")], tmp_path)


@pytest.mark.skipif(shutil.which("go") is None, reason="no Go here")
def test_reader_in_go(tmp_path: Path) -> None:
    (tmp_path / "reader.go").write_text(source("go"))
    subprocess.run(["go", "build", "-o", "reader", "reader.go"], cwd=tmp_path, check=True)
    check_reader([str(tmp_path / "reader")], tmp_path)


# ----------------------------------------------------------------------------- links and references


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, made as code hosts make them."""
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / name if name else ROOT / page
        assert linked.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(os.path.relpath(linked, ROOT)), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_references_into_the_tree(page: str) -> None:
    """Files that are named exist; "`name` in `file`" and "`file` (`name`)" are there."""
    text = read(page)
    for name in re.findall(r"`((?:src|ext|tests|docs)/[\w/.\-]+)`", text):
        assert (ROOT / name).exists(), f"{page} names {name}"
    for name, file in re.findall(r"`(\w+)` in `((?:src|ext|tests)/[\w/]+\.\w+)`", text):
        assert name in read(file), f"{page}: {name} is not in {file}"


def test_vectors_are_told_as_documented(et: ModuleType) -> None:
    """The tables of docs/format.md know every state and every reason that `verify` gives."""
    text = read("docs/format.md")
    for path in sorted((ROOT / "tests/data").glob("*.tape")):
        report = et.verify(path)
        assert f"| `{report.state}` |" in text
        assert all(f"| `{problem.reason}` |" in text for problem in report.problems)


# -------------------------------------------------------------------------------------- docs/api.md


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
            heading = f"iter({prefix})" if name == "__iter__" else signature(f"{prefix}.{name}", member)
        yield f"### `{heading}`\n\n{prose(member)}"


def fields(kind: type, path: str) -> str:
    """A table of the fields of a dataclass with the remarks behind them in the source."""
    remarks = dict(re.findall(r"^    (\w+): [^#\n]*?(?:  #: ([^\n]+))?$", inspect.getsource(kind), re.MULTILINE))
    rows = [f"| `{path}.{field.name}` | {remarks.get(field.name, '')} |" for field in dataclasses.fields(kind)]
    return "\n".join(["| | |", "|---|---|", *rows])


TIMES = """Times are nanoseconds since 1970-01-01T00:00:00Z as `int`; where a time goes in, a `datetime` or a
`numpy.datetime64` will do. In what a call costs, *n* is the number of events."""

EVENT = """## An event

`timestamp, data = event` unpacks it.

| | |
|---|---|
| `event.timestamp` | int, ns |
| `event.data` | the payload, a read-only memoryview that keeps the mapping alive |
| `event.ordinal` | its number in the stream, from 0 |
| `event.offset` | its byte position |
| `event.checksum` | CRC-32 of the payload |"""


def command_line() -> Iterator[str]:
    """The section on the command line, made from the help texts."""
    cli = importlib.import_module("evtape.cli")
    context = cli.commands.context_class(cli.commands)
    yield f"## The command line\n\n{shown(cli.commands.help)}"
    for name in cli.commands.list_commands(context):
        command = cli.commands.get_command(context, name)
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
        "<!-- Made from the docstrings by `python -m tests.test_docs`; change those. -->\n# API",
        TIMES,
        f"## `{signature('evtape.open', et.open)}`\n\n{prose(et.open)}",
        "`evtape.backend` is the core that runs: `'native'` or `'python'`.",
        f"## A stream that is open\n\n{prose(opened)}\n\nA slice has the same queries.",
        "### `len(tape)`\n\nHow many events are published at this moment. O(new events) since the last question.",
        *entries("tape", opened, "__getitem__ __iter__ timestamps sizes offsets between searchsorted rows"),
        *entries("tape", opened, "start_timestamp closed close"),
        f"## A stream that is open for appending\n\n{first_paragraph(et.Writer)}",
        *entries("tape", et.Writer, "append append_many append_array sync synced close"),
        f"## A slice\n\n{prose(et.Slice)}",
        *entries("part", et.Slice, "ordinals"),
        EVENT,
        f"## `{signature('evtape.verify', et.verify)}`\n\n{prose(et.verify)}",
        f"## `{signature('evtape.recover', et.recover)}`\n\n{prose(et.recover)}",
        f"## A report\n\n{prose(et.Report)}\n\n{fields(et.Report, 'report')}",
        *entries("report", et.Report, "reason ok lost as_dict"),
        f"### A problem\n\n{prose(et.Problem)}\n\n{fields(et.Problem, 'problem')}",
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


def test_api_page(et: ModuleType) -> None:
    pytest.importorskip("click", reason="the page has the help texts of the command line, which is an extra")
    assert read("docs/api.md") == api_page(et), "the docstrings have changed: run python -m tests.test_docs"


if __name__ == "__main__":
    import evtape

    (ROOT / "docs/api.md").write_text(api_page(evtape), encoding="utf-8")
