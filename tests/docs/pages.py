"""The documents and what stands in them: blocks, headings, links.

What the extractor understands, in README.md and docs/*.md:

- A ```python block is a program of its own, run in a directory that the document keeps. A ```text block right after it
  is its output.
- A ```console block has commands after "$ " and their output; "[exit code N]" ends the output of a command that ends
  with N.
- "..." in an output stands for anything.
- <!-- docs-test: not run (why) --> stands before a block that is not run, <!-- docs-test: needs NAME (why) --> before
  one that needs a file, a module or a version of Python (python3.12) that is not everywhere, and
  <!-- docs-test: output varies (why) --> before one that is run, but of whose output only the words at the beginnings
  of lines are compared.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
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
            if version := re.fullmatch(r"python3\.(\d+)", need):
                there = sys.version_info >= (3, int(version[1]))
            else:
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


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, made as code hosts make them."""
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(text: str) -> list[str]:
    """The targets of the links and of the pictures of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", text)
