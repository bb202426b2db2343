"""`python -m bench`: run, report, build, check or list. Try `python -m bench --quick` first."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import builder, check, report, results, tables
from bench.experiment import MINIMUM_REPEATS, Experiment
from bench.machine import NO_FLUSH, describe, no_flush_warning
from bench.runner import Runner, is_terminal, measure
from bench.sections import SECTIONS, experiments

QUICK_REPEATS = 3
QUICK_BUDGET_SECONDS = 45.0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "command", nargs="?", default="run", choices=["run", "report", "show", "build", "check", "list"]
    )
    parser.add_argument("--name", help="result in bench/results (default: local, or local-quick)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter experiments, within a minute")
    parser.add_argument("--repeats", type=int, help=f"interleaved repetitions (default {MINIMUM_REPEATS})")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WHAT",
        help="sections or experiments; the others in an existing result are kept",
    )
    parser.add_argument("--dir", type=Path, default=builder.BUILD, help="where streams are written, then removed")
    args = parser.parse_args()
    args.name = args.name or ("local-quick" if args.quick else "local")
    return args


def select(args: argparse.Namespace) -> list[Experiment]:
    found = experiments(args.quick)
    if not args.only:
        return found
    known = {*SECTIONS, *(experiment.name for experiment in found)}
    unknown = set(args.only) - known
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    return [experiment for experiment in found if {experiment.name, experiment.section} & set(args.only)]


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="streams-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on a terminal; nothing if stdout is a pipe or rich is missing."""
    if not is_terminal():
        yield lambda _text: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda _text: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        # A step begins when the previous one has ended, so the count starts one too low.
        bar.update(task, completed=-1)
        yield lambda text: bar.update(task, advance=1, description=text[:70])


def run(args: argparse.Namespace) -> int:
    chosen = select(args)
    repeats = args.repeats or (QUICK_REPEATS if args.quick else MINIMUM_REPEATS)
    data: dict[str, Any] = {
        "name": args.name,
        "date": dt.date.today().isoformat(),
        "quick": args.quick,
        "repeats": repeats,
    }
    kept = results.load(args.name)["experiments"] if args.only and results.path_of(args.name).exists() else {}

    def save(found: dict[str, Any]) -> None:
        done = max((len(row["values"]) for item in found.values() for row in item["contenders"].values()), default=0)
        results.save(args.name, {**data, "repeats": done, "experiments": {**kept, **found}})

    with scratch(args.dir) as directory:
        data["machine"] = describe(directory)
        if data["machine"]["file_system"] in NO_FLUSH and any(experiment.section == "durable" for experiment in chosen):
            print(f"{no_flush_warning(data['machine']['file_system'])} Choose a disk with --dir.", file=sys.stderr)
        runner = Runner(directory, args.quick)
        budget = QUICK_BUDGET_SECONDS if args.quick else float("inf")
        with progress(repeats * sum(len(experiment.contenders) for experiment in chosen)) as step:
            step("building the peers")
            data["toolchains"] = toolchains(runner.programs, args.quick)
            measure(runner, chosen, repeats, budget, step, save)
    return show(args)


def toolchains(programs: dict[str, builder.Program], quick: bool) -> dict[str, str]:
    """Build everything before the first clock starts, so that no compiler runs during a measurement."""
    for name in builder.BUILDERS:
        programs[name] = builder.build(name, quick)
    return {name: program.version or f"not run: {program.why}" for name, program in programs.items()}


def show(args: argparse.Namespace) -> int:
    data = results.load(args.name)
    print(f"{tables.machine_line(data)}\n\n{tables.article_table(data)}\n\n{tables.goals_table(data)}")
    print(f"\nEverything: bench/results/{args.name}.json; `python -m bench report --name {args.name}` draws it.")
    return 0


def make_report(args: argparse.Namespace) -> int:
    """Draw a full result into the documentation, and any other result next to its JSON file."""
    why_not = report.why_not_published(args.name)
    directory = results.RESULTS / f"{args.name}-charts" if why_not else report.ROOT / "docs" / "charts"
    for path in [*report.write_charts(args.name, directory), report.write_report(args.name)]:
        print(f"wrote {path.relative_to(report.ROOT)}")
    if why_not:
        print(f"README.md and docs/charts were left alone: {why_not}", file=sys.stderr)
        return 0
    if report.rewrite_readme(args.name, report.ROOT / "README.md"):
        print("rewrote the table in README.md")
        return 0
    print(f"README.md has no lines {report.BEGIN} and {report.END}: its table was not written", file=sys.stderr)
    return 1


def make_builds(_args: argparse.Namespace) -> int:
    for name in builder.BUILDERS:
        program = builder.build(name)
        print(f"{name}: {program.version or f'not run: {program.why}'}", flush=True)
    return 0


def make_checks(args: argparse.Namespace) -> int:
    bad = 0
    with scratch(args.dir) as directory:
        for key, verdict in check.check(directory):
            bad += verdict.startswith("BAD")
            print(f"{key}: {verdict}", flush=True)
    return 1 if bad else 0


def list_experiments(args: argparse.Namespace) -> int:
    for experiment in select(args):
        print(
            f"{experiment.section:8} {experiment.name:15} {experiment.title}: {len(experiment.contenders)} contenders"
        )
    return 0


def main() -> int:
    args = parse_args()
    commands = {
        "run": run,
        "report": make_report,
        "show": show,
        "build": make_builds,
        "check": make_checks,
        "list": list_experiments,
    }
    try:
        return commands[args.command](args)
    except KeyboardInterrupt:
        print("stopped; the repetitions that were complete are kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
