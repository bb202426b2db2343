"""``evtape bench``: the article's table on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import click

import evtape

from . import GOOD
from ._show import bar, console, count_text, has_pictures

# What is shown, the method, and the core it needs.
_ROWS = (
    ("standard sequential", "standard", ""),
    ("channel synchronized", "channel", ""),
    ("buffered sequential", "buffered", ""),
    ("memory mapped, pure core", "mapped", "python"),
    ("memory mapped, native core", "mapped", "native"),
)


@click.command()
@click.option("--messages", "-n", default=10_000, show_default=True, type=click.IntRange(1), help="Messages per run.")
@click.option("--size", "-s", default=1024, show_default=True, type=click.IntRange(1), help="Bytes of a message.")
@click.option("--dir", "folder", type=click.Path(file_okay=False, exists=True), help="Where files are written.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row.")
def command(messages: int, size: int, folder: str | None, as_json: bool) -> int:
    """Store messages in five ways, as the article behind evtape does, and compare.

    Each way is the median of seven runs in a process of its own; room in a mapping is made before the clock starts. The
    files are removed again.
    """
    out = console()
    baseline = 0.0
    with tempfile.TemporaryDirectory(prefix="evtape-bench-", dir=folder) as work:
        if not as_json:
            out.print(f"{messages:,} messages of {size:,} bytes, one writer\n", style="bold")
        for name, method, core in _ROWS:
            rate = _rate(method, core, work, messages, size)
            baseline = baseline or rate or 0.0
            if as_json:
                print(
                    json.dumps({"method": name, "messages_per_s": rate, "bytes_per_s": rate and rate * size}),
                    flush=True,
                )
            elif rate is None:
                out.print(f"{name:<27} not run: the compiled core is not installed")
            else:
                picture = "  " + bar(rate / 6e6, 24) if has_pictures(out) else ""
                megabytes = rate * size / 1e6
                out.print(
                    f"{name:<27} {count_text(rate):>7}/s {megabytes:>8,.0f} MB/s {rate / baseline:>6.1f}x{picture}"
                )
    return GOOD


def _rate(method: str, core: str, work: str, messages: int, size: int) -> float | None:
    """Messages a second; None where the core is not there."""
    if core == "native" and not _has_native():
        return None
    environment = os.environ | ({"EVTAPE_BACKEND": core} if core else {})
    words = [sys.executable, "-m", "evtape.cli._methods", method, work, str(messages), str(size)]
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    return messages / int(done.stdout) * 1e9


def _has_native() -> bool:
    from importlib.util import find_spec

    return evtape.backend == "native" or find_spec("evtape.core.native") is not None
