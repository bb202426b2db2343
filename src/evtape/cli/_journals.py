"""What commands share that write or describe journals."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

import click

import evtape
from evtape.journal.settings import limit_of, settings_of

_ROLL = "A journal: end a segment at this size (64MiB) or time (1h). May be given twice."
_KEEP = "A journal: delete what is beyond this size (10GB), age (7d) or number ('20 segments'). May be given again."


class Limit(click.ParamType):  # type: ignore[type-arg] # generic in new releases of click only
    """A size, a duration or a number of segments: the name of the setting and its value."""

    name = "limit"

    def __init__(self, verb: Literal["roll", "keep"]) -> None:
        self._verb = verb

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return limit_of(self._verb, value)
        except ValueError as error:
            return self.fail(str(error), param, ctx)


def options(command: Callable[..., int]) -> Callable[..., int]:
    """``--roll`` and ``--keep``."""
    names: tuple[Literal["roll", "keep"], ...] = ("keep", "roll")
    for name in names:
        text = _KEEP if name == "keep" else _ROLL
        command = click.option(f"--{name}", name, type=Limit(name), multiple=True, metavar="LIMIT", help=text)(command)
    return command


def open_to_append(path: str, roll: tuple[Any, ...], keep: tuple[Any, ...]) -> evtape.Writer:
    """The stream at ``path``; a journal if one is there, or if a limit is given."""
    try:
        settings = settings_of([*roll, *keep])
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not settings and not os.path.isdir(path):
        return evtape.open(path, "a", durability="interval")
    try:
        return evtape.open_journal(path, "a", durability="interval", **settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
