"""``evtape last``: what happened before the end."""

from __future__ import annotations

import re
import sys

import click

from . import _forms, need_stdout, open_to_read
from .cat import Damage

_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
_UNITS |= {"d": 86400 * 10**9, "w": 7 * 86400 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s|m|min|h|d|w)")


class Duration(click.ParamType):  # type: ignore[type-arg] # generic in new releases of click only
    """A duration such as 30s, in nanoseconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        if not isinstance(value, str):
            return value
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is not a duration such as 500ms, 30s, 15m or 2h", param, ctx)
        return round(float(match[1]) * _UNITS[match[2]])


@click.command()
@click.argument("duration", metavar="DURATION", type=Duration())
@click.argument("path", type=click.Path())
@_forms.options
def command(duration: int, path: str, as_json: bool, kind: str | None, framing: str | None) -> int:
    """Print what happened before the end.

    \b
      evtape last 30s app.journal

    DURATION is a number with a unit: ns, us, ms, s, m, h, d or w. It is counted back from the last event and not from
    now, so it shows what a program did before it died, whenever that was. Events are printed as 'evtape cat' does.
    """
    form = _forms.form_of(path, as_json, kind, framing)
    need_stdout()
    damage = Damage()
    with open_to_read(path) as tape:
        if len(tape):
            begin = tape[-1].timestamp - duration
            for event in damage.others(tape.between(starting_at=max(begin, -(1 << 63)))):
                sys.stdout.buffer.write(form(event))
    return damage.report()
