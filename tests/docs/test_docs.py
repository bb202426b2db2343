"""The documents hold: every snippet and every command in them is run, and what they show as output is compared.

`tests/docs/pages.py` says what the extractor understands.
"""

from __future__ import annotations

import collections.abc
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.api import api_page
from tests.docs.blocks import environment, make_tools, run_commands, run_programs
from tests.docs.pages import PAGES, ROOT, anchors, between, blocks, links, read
from tests.helpers import NS, stream

if not (ROOT / "README.md").exists():
    pytest.skip("the tests were installed without the documents", allow_module_level=True)
SHELL_PAGES = {"README.md", "CONTRIBUTING.md", "docs/benchmark.md", "docs/faults.md"}  # whose "sh" blocks nobody runs


# -------------------------------------------------------------------------------------- what is run


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tools(tmp_path_factory.mktemp("bin"))


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


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    for target in links(read(page)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / name if name else ROOT / page
        assert linked.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(os.path.relpath(linked, ROOT)), f"{page} links to {target}"


def test_a_package_index_shows_no_relative_link(et: ModuleType) -> None:
    """What an index shows of the README is the description in the metadata; there is no tree around it."""
    try:
        metadata = importlib.metadata.metadata("evtape")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed: it has no metadata")
    assert metadata["Version"] == et.__version__
    assert metadata["Description-Content-Type"] == "text/markdown"
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL"))
    assert {"Homepage", "Documentation", "Repository", "Issues", "Changelog"} <= set(urls)
    description = metadata["Description"]
    assert not re.search(r"\b(?:src|href)=", description)
    found = links(description)
    assert len(found) == len(links(read("README.md"))) > 10
    tree = f"{urls['Homepage']}/blob/v{et.__version__}/"
    raw = tree.replace("github.com", "raw.githubusercontent.com").replace("/blob/", "/")
    for target in found:
        assert target.startswith("https://"), target
        for base in (tree, raw):
            if target.startswith(base):
                assert (ROOT / target.removeprefix(base).partition("#")[0]).exists(), target
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", description)
    assert pictures  # the page of a file is not a picture
    assert [picture for picture in pictures if not picture.startswith(raw)] == []


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


def test_api_page(et: ModuleType) -> None:
    pytest.importorskip("click", reason="the page has the help texts of the command line, which is an extra")
    assert read("docs/api.md") == api_page(et), "the docstrings have changed: run python -m tests.docs.api"


def test_every_public_attribute_is_on_the_api_page(et: ModuleType) -> None:
    page = read("docs/api.md")
    known = set(dir(collections.abc.Sequence)) | set(dir(UserWarning))
    for name in et.__all__:
        assert name in page
        kind = getattr(et, name)
        for attribute in dir(kind) if isinstance(kind, type) else ():
            if not attribute.startswith("_") and attribute not in known:
                assert re.search(rf"\b{attribute}\b", page), f"{name}.{attribute} is not in docs/api.md"
