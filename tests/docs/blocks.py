"""Runs the blocks of a document and compares what they print with what the document shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import Block


def matches(shown: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def first_words(text: str) -> set[str]:
    """The words that label lines, as in "events    5,684": the shape of an output without its figures."""
    return set(re.findall(r"^([a-z]+)  ", text, re.MULTILINE))


def make_tools(directory: Path) -> Path:
    """Fill a directory with `python` and `evtape`, which mean this interpreter and the package under test."""
    for name, words in (("python", ""), ("evtape", " -m evtape")):
        (directory / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (directory / name).chmod(0o755)
    return directory


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


def run_programs(programs: list[Block], directory: Path, env: dict[str, str]) -> None:
    names = []
    for block in programs:
        names.append(f"line_{block.line}.py")
        (directory / names[-1]).write_text(block.body, encoding="utf-8")
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", DRIVER, *names]
    result = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    printed = re.split(r"^== .*\n", result.stdout, flags=re.MULTILINE)[1:]
    for block, text in zip(programs, printed, strict=True):
        assert block.output is None or matches(block.output, text), f"line {block.line} printed:\n{text}"


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a ```console block, and what it is shown to print."""
    for part in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def run_commands(block: Block, directory: Path, env: dict[str, str]) -> None:
    for command, shown in commands(block):
        result = subprocess.run(
            ["bash", "-c", f"exec 2>&1; {command}"],
            cwd=directory,
            env=env,
            capture_output=True,
            timeout=100,
            check=False,
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
