"""The command line: one module here is one command, named like it, held in its attribute ``command``.

To add a command, add a file. Modules whose names begin with an underscore are shared parts. A command returns its
exit code (None is 0) and raises what goes wrong; what a person is told and which code it means is decided here.

Exit codes: 0 good, 1 data damaged or lost, 2 wrong use or not a stream.
"""

from __future__ import annotations

import contextlib
import io
import os
import pkgutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

import evtape
from evtape.core.backend import wanted

from . import _show

GOOD, DAMAGED, WRONG = 0, 1, 2
STDIN, STDOUT = "standard input", "standard output"  # the filename of errors in reading and writing them

# What to do about an error of the operating system. Those listed are wrong use; others mean that data was lost.
_ADVICE: dict[type[OSError], str] = {
    FileNotFoundError: "check the name",
    FileExistsError: "nothing was overwritten",
    PermissionError: "check its permissions",
    IsADirectoryError: "give a file",
    NotADirectoryError: "check the directory",
}


# Those of 0, 1, 2 that were closed when the program began. They lead to nothing now.
_closed: set[int] = set()


def has_native() -> bool:
    """Whether the native core is installed, be it the one that runs or not."""
    return evtape.backend == "native" or find_spec("evtape.core.native") is not None


#: Whether the pure core runs because there is no other one. Who sets EVTAPE_BACKEND=python knows which one runs.
is_pure = evtape.backend == "python" and wanted == "auto"

_PURE = "the native core is not installed, so the pure Python core runs: the same files, but slower"
_pure_is_known = False


def _tell_pure() -> None:
    """Say once per process, to a person, that a pure installation is one."""
    global _pure_is_known  # noqa: PLW0603 (once per process)
    if not _pure_is_known and sys.stderr.isatty() and is_pure:
        tell(f"{_PURE}; install evtape again where there is a C compiler")
    _pure_is_known = True


class ClosedError(click.ClickException):
    """A standard stream that the command is about is closed: exit code 2."""

    exit_code = WRONG


class InputError(click.ClickException):
    """The input of a command is damaged: exit code 1."""

    exit_code = DAMAGED


class Commands(click.Group):
    """Finds commands by the names of the modules in this package, and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = import_module(f"{__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        # Here and not around main(), because click answers a broken pipe with an exit code of its own there.
        _tell_pure()
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            _drop_stdout()  # the reader has ended, as in "evtape cat x.tape | head"
            return GOOD
        except (evtape.Error, OSError) as error:
            if isinstance(error, BlockingIOError) or (isinstance(error, OSError) and error.filename == STDOUT):
                _drop_stdout()
            tell(told(error))
            return code_of(error)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=False,
)
@click.version_option(
    evtape.__version__,
    message=f"evtape %(version)s, {evtape.backend} core" + (f"\n{_PURE}" if is_pure else ""),
)
def commands() -> None:
    """Append-only streams of timestamped events in a memory-mapped file.

    Exit codes: 0 good, 1 data damaged or lost, 2 wrong use or not a stream.

    Times go in as nanoseconds since 1970, as ISO 8601 (local time when it has no zone), or as a distance from now, such
    as -1h, '10 min ago' or yesterday. They come out in UTC, for instance 2026-11-22T20:59:01.123456789Z.

    Completion of commands, options and file names, for the start file of the shell:

    \b
      bash  eval "$(_EVTAPE_COMPLETE=bash_source evtape)"
      zsh   eval "$(_EVTAPE_COMPLETE=zsh_source evtape)"
      fish  _EVTAPE_COMPLETE=fish_source evtape | source
    """


def run(arguments: Sequence[str], closed: frozenset[int] = frozenset()) -> int:
    """Run one command and return its exit code. ``closed`` are the standard descriptors that were, to begin with."""
    _closed.clear()
    _closed.update(closed)
    _name_stdout()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a name that is no text must not end in a traceback
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    warnings.simplefilter("always", evtape.RecoveryWarning)
    warnings.showwarning = _show_warning
    try:
        code = commands.main(list(arguments) or ["--help"], prog_name="evtape", standalone_mode=False)
        if not arguments:
            return WRONG
        return code if isinstance(code, int) else GOOD
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        name = context.command_path if context is not None else "evtape"
        advice = f"; see '{name} --help'" if isinstance(error, click.UsageError) else ""
        tell(error.format_message().rstrip(".") + advice, name)
        return error.exit_code
    except click.Abort:
        return 130


def tell(message: str, name: str = "evtape") -> None:
    """A message on stderr, whatever is in ``message``: one line, which a terminal gets wrapped between words."""
    with contextlib.suppress(OSError):
        _show.say(visible(f"{name}: {' '.join(message.split())}"), error=True)


def visible(text: str) -> str:
    """``text`` with what is not printable escaped: a file or its name must not command a terminal."""
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in text])


def told(error: Exception) -> str:
    """The message of an expected error: the file, the value, what to do."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), "")
    # Not every error concerns a file; those of standard input and output have their names.
    name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    known = advice and advice not in error.strerror and ";" not in error.strerror
    return f"{name}{error.strerror}{'; ' + advice if known else ''}"


def code_of(error: Exception) -> int:
    """Exit code for an expected error."""
    if isinstance(error, (evtape.CorruptError, evtape.TruncatedError, evtape.RewoundError)):
        return DAMAGED
    if isinstance(error, OSError) and not isinstance(error, tuple(_ADVICE)):
        return DAMAGED
    return WRONG


def need_stdin() -> None:
    """ClosedError when there is no standard input. To be called before anything is opened."""
    if 0 in _closed:
        raise ClosedError("standard input is closed; nothing to append")


def need_stdout() -> None:
    """ClosedError when there is no standard output."""
    if 1 in _closed:
        raise ClosedError("standard output is closed")


def open_to_read(path: str) -> evtape.Reader:
    """The stream at ``path``."""
    with damage_told(path):
        return evtape.open(path)


@contextlib.contextmanager
def damage_told(path: str) -> Iterator[None]:
    """Where the stream is opened: an unusable header over valid events is damage, and not the same as no stream."""
    try:
        yield
    except evtape.FormatError as error:
        if evtape.verify(path).state == "damaged":
            raise InputError(str(error)) from error
        raise


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    tell(f"{'' if issubclass(category, evtape.RecoveryWarning) else category.__name__ + ': '}{message}")


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """An error of the operating system inside is one of ``name``."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = name
        raise


class _Stdout(io.FileIO):
    """Standard output whose errors say that they are its own."""

    def write(self, data: Any, /) -> int:
        with named(STDOUT):
            return super().write(data)


def _name_stdout() -> None:
    """Let errors of standard output have its name, however it is written to; not where other code has redirected it."""
    old = sys.stdout
    if old is not sys.__stdout__ or not isinstance(old, io.TextIOWrapper):
        return
    old.flush()
    raw = _Stdout(old.fileno(), "wb", closefd=False)
    sys.stdout = io.TextIOWrapper(
        raw if isinstance(old.buffer, io.RawIOBase) else io.BufferedWriter(raw),  # raw with python -u
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )


def _drop_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not complain about it at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
