"""``python -m evtape`` and the console script ``evtape``. The command line itself is the extra ``cli``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit code; without the extra, say what to install."""
    try:
        import click  # noqa: F401 (only to see whether they are there)
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        print(f"evtape: the command line needs {error.name}; run: pip install 'evtape[cli]'", file=sys.stderr)
        return 2
    from .cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
