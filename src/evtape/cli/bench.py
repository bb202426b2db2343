"""``evtape bench``: the article's table on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import click

from . import GOOD, InputError, has_native
from ._show import bar, console, count_text, counted, has_pictures, paragraph

# What is shown, the method, and the core it needs.
_ROWS = (
    ("standard sequential", "standard", ""),
    ("channel synchronized", "channel", ""),
    ("buffered sequential", "buffered", ""),
    ("memory mapped, pure core", "mapped", "python"),
    ("memory mapped, native core", "mapped", "native"),
)
_FIGURES = 61  # columns of a row without its picture


@click.command()
@click.option("--messages", "-n", default=10_000, show_default=True, type=click.IntRange(1), help="Messages per run.")
@click.option("--size", "-s", default=1024, show_default=True, type=click.IntRange(1), help="Bytes of a message.")
@click.option("--dir", "directory", type=click.Path(file_okay=False, exists=True), help="Where files are written.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row.")
def command(messages: int, size: int, directory: str | None, as_json: bool) -> int:
    """Compare five ways to store messages.

    They are those of the article that evtape comes from. Each figure is the median of seven runs in a process of its
    own. The mapped file is preallocated before the clock starts. The files are removed again.
    """
    out = console()
    baseline = 0.0
    with tempfile.TemporaryDirectory(prefix="evtape-bench-", dir=directory) as work:
        if not as_json:
            paragraph(out, [(f"{counted(messages, 'message')} of {counted(size, 'byte')}, one writer", "bold")])
            out.print()
        for name, method, core in _ROWS:
            rate = _rate(method, core, work, messages, size)
            baseline = baseline or rate or 0.0
            if as_json:
                print(
                    json.dumps({"method": name, "messages_per_s": rate, "bytes_per_s": rate and rate * size}),
                    flush=True,
                )
            elif rate is None:
                out.print(f"{name:<27} not run: it is not installed")
            else:
                width = min(out.width - _FIGURES, 24)
                picture = "  " + bar(rate / 6e6, width) if has_pictures(out) and width >= 8 else ""
                megabytes = rate * size / 1e6
                out.print(
                    f"{name:<27} {count_text(rate):>7}/s {megabytes:>8,.0f} MB/s {rate / baseline:>6.1f}x{picture}"
                )
    return GOOD


def _rate(method: str, core: str, work: str, messages: int, size: int) -> float | None:
    """Messages a second; None where the core is not there."""
    if core == "native" and not has_native():
        return None
    environment = os.environ | ({"EVTAPE_BACKEND": core} if core else {})
    words = [sys.executable, "-m", "evtape._methods", method, work, str(messages), str(size)]
    done = subprocess.run(words, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise InputError(f"the method {method!r} failed in {work}: {reason}")
    return messages / int(done.stdout) * 1e9
