"""``python -m evtape`` and the console script ``evtape``. The command line itself is the extra ``cli``."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line and return its exit code; without the extra, say what to install."""
    closed = _hold_standard_descriptors()
    try:
        import click  # noqa: F401 (only to see whether they are there)
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        install = "pip install 'evtape[cli]' (in a clone: pip install '.[cli]')"
        print(f"evtape: the command line needs {error.name}; run: {install}", file=sys.stderr)
        return 2
    from .cli import run

    return run(sys.argv[1:], closed)


def _hold_standard_descriptors() -> frozenset[int]:
    """Open those of 0, 1, 2 that are closed onto nothing, so that no stream gets their numbers; return which they are.

    Otherwise what is written to standard error, also by a command that is recorded, would be written into the stream.
    """
    closed = set()
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            fd = os.open(os.devnull, flags)  # the lowest that is free, and those below are not
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            os.set_inheritable(number, True)
            closed.add(number)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            target = number if number in closed else os.devnull
            setattr(sys, name, open(target, mode, encoding="utf-8", closefd=target != number))  # noqa: SIM115
            closed.add(number)
    return frozenset(closed)


if __name__ == "__main__":
    sys.exit(main())
