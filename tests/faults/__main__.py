"""`python -m tests.faults [PART ...] [--quick | --full]`: run parts of the harness and print their figures."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import traceback

from .harness import Context, NotRun, report_line

PARTS = (
    "reference",
    "cases",
    "bits",
    "power",
    "realpower",
    "kill",
    "fuzz",
    "syscalls",
    "truncate",
    "baddisk",
    "commits",
    "followers",
    "wakeup",
    "stress",
    "chaos",
    "index",
    "columns",
    "partitions",
    "journals",
    "names",
    "boots",
    "descriptors",
    "ends",
    "reenter",
    "memory",
    "sanitize",
    "tsan",
    "planted",
)


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when no part found a violation, else 1; 1 as well when a piece of a full run did not run."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background by a shell; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--full", action="store_true", help="as many cases as the published figures rest on: about an hour"
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds for each part (the default)")
    parser.add_argument("--results", metavar="FILE", help="append one line of JSON for each part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--budget", type=float, default=0.0, metavar="S", help="stop adding sampled cases after S seconds"
    )
    parser.add_argument("--no-watermark", action="store_true", help="power: recover without the sidecar")
    parser.add_argument(
        "--only", default="", metavar="PIECE", help="run only the pieces of a part whose name contains this"
    )
    options = parser.parse_args(argv)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    found = 0
    for part in options.parts or PARTS:
        found += run(part, options)
    return 1 if found else 0


def run(part: str, options: argparse.Namespace) -> int:
    """Run one part; returns the number of violations. In a full run, what did not run counts as one."""
    print(f"{part}:", flush=True)
    ctx = Context(part, full=options.full, seed=options.seed, budget=options.budget, watermark=not options.no_watermark)
    ctx.only = options.only
    try:
        importlib.import_module(f".{part}", __package__).run(ctx)
    except NotRun as why:
        ctx.not_run(f"{part}: {why}")
    except Exception as error:  # noqa: BLE001 - what was found until then is told as well
        traceback.print_exc()
        ctx.violation("the part itself failed", f"{type(error).__name__}: {error}")
    finally:
        ctx.close()
    record = ctx.as_dict()
    for name, value in ctx.figures.items():
        print(f"  {name}: {value:,}" if isinstance(value, int) else f"  {name}: {value}")
    print(f"  violations: {ctx.violation_count} ({record['seconds']} s)", flush=True)
    if options.full and ctx.skipped:
        print(f"  {len(ctx.skipped)} not run: an error in a full run; CONTRIBUTING.md says what to install")
    if options.results:
        with open(options.results, "a", encoding="utf-8") as file:
            file.write(report_line(record) + "\n")
    return ctx.violation_count + (len(ctx.skipped) if options.full else 0)


if __name__ == "__main__":
    sys.exit(main())
