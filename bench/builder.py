"""Compiles the programs in bench/peers on demand into bench/build, which git ignores.

A program that cannot be built is not an error. The results contain its `why`, and the table says "not run: <why>".
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent
PEERS = BENCH / "peers"
BUILD = BENCH / "build"
C_LIBRARY = BUILD / "limits.so"
EXT = BENCH.parent / "ext"
BUILD_TIMEOUT_SECONDS = 900
FREE_THREADED = "EVTAPE_FREE_THREADED"

# Chronicle uses internal packages of the platform; its own start scripts open these on Java 17.
JAVA_FLAGS = [
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=jdk.unsupported/sun.misc=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.reflect=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    # The library reports its use to a server unless this switches it off.
    "-Dchronicle.analytics.disable=true",
]


@dataclass
class Program:
    """How to start a contender, or why it cannot be started."""

    command: list[str] = field(default_factory=list)
    why: str = ""
    version: str = ""


class NotBuiltError(Exception):
    """Carries the reason that the table shows."""


def run(command: list[str], **variables: str) -> str:
    """Run a tool and return its output. A failure raises a reason of one line, without the paths of this machine."""
    try:
        done = subprocess.run(
            command,
            cwd=PEERS,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotBuiltError(f"{Path(command[0]).name} took too long") from None
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line.lower()]
        detail = lines[0].strip() if lines else f"exit code {done.returncode}"
        raise NotBuiltError(f"{Path(command[0]).name} failed: {detail.replace(str(BENCH.parent), '')[:160]}")
    return done.stdout.strip()


def tool(*names: str) -> str:
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise NotBuiltError(f"no {names[0]} on this machine")


def is_fresh(output: Path, sources: Iterable[Path]) -> bool:
    return output.exists() and all(source.stat().st_mtime <= output.stat().st_mtime for source in sources)


def sources(*patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in PEERS.glob(pattern) if path.is_file()]


def build_c(may_build: bool) -> Program:
    """Build the program, and a library with the same loop, which `bench.evtape_side` runs on its own memory."""
    compiler, output = tool("cc", "gcc", "clang"), BUILD / "limits"
    version = run([compiler, "--version"]).splitlines()[0]
    native_crc = sorted(EXT.glob("crc32*"))
    if not is_fresh(output, [*sources("limits.c", "*.h"), *native_crc]):
        require(may_build)
        base = [compiler, "-O3", "-march=native"]
        own = [*base, "-DBENCH_CRC_EVTAPE", f"-I{EXT}", "limits.c", str(EXT / "crc32.c"), "-lz"]
        attempts = [
            [*own, "-DBENCH_CRC_ISAL", "-lisal"],
            own,
            [*base, "-DBENCH_CRC_LIBDEFLATE", "limits.c", "-ldeflate", "-lz"],
            [*base, "limits.c", "-lz"],
        ]
        if not native_crc:
            attempts = attempts[2:]
        try_in_turn([[*attempt, "-shared", "-fPIC", "-o", str(C_LIBRARY)] for attempt in attempts])
        try_in_turn([[*attempt, "-o", str(output)] for attempt in attempts])
    return Program([str(output)], version=version)


def build_go(may_build: bool) -> Program:
    compiler, output = tool("go"), BUILD / "gopeer"
    files = ["common.go", "mapped.go", "sequential.go"]
    if not is_fresh(output, sources(*files)):
        require(may_build)
        run([compiler, "build", "-o", str(output), *files], GO111MODULE="off")
    return Program([str(output)], version=run([compiler, "version"]))


def build_zig(may_build: bool) -> Program:
    if importlib.util.find_spec("ziglang"):
        compiler = [sys.executable, "-m", "ziglang"]
    else:
        compiler = [tool("zig")]
    output = BUILD / "zigpeer"
    if not is_fresh(output, sources("mapped.zig")):
        require(may_build)
        options = BUILD / "options.zig"
        modules = ["--dep", "options", "-Mroot=mapped.zig", f"-Moptions={options}"]
        places = ["--cache-dir", str(BUILD / "zig-cache"), f"-femit-bin={output}"]
        for libdeflate in (["-ldeflate"], []):
            options.write_text(f"pub const libdeflate = {'true' if libdeflate else 'false'};\n")
            try:
                run([*compiler, "build-exe", "-O", "ReleaseFast", "-lc", *libdeflate, *modules, *places])
                break
            except NotBuiltError:
                if not libdeflate:
                    raise
    return Program([str(output)], version="zig " + run([*compiler, "version"]))


def build_chronicle(may_build: bool) -> Program:
    java, target = maven_project("chronicle", may_build)
    jar = next(iter((target / "lib").glob("chronicle-queue-*.jar")), Path("unknown"))
    version = f"Chronicle Queue {jar.stem.removeprefix('chronicle-queue-')}"
    return Program([java, *JAVA_FLAGS, *class_path(target), "bench.Peer"], version=version)


def build_aeron(may_build: bool) -> Program:
    java, target = maven_project("aeron", may_build)
    jar = next(iter((target / "lib").glob("aeron-all-*.jar")), Path("unknown"))
    version = f"Aeron {jar.stem.removeprefix('aeron-all-')}"
    flags = ["--add-opens=java.base/sun.nio.ch=ALL-UNNAMED", "--add-opens=java.base/jdk.internal.misc=ALL-UNNAMED"]
    return Program([java, *flags, *class_path(target), "bench.Peer"], version=version)


def maven_project(name: str, may_build: bool) -> tuple[str, Path]:
    """Build a project of Maven; returns the Java to run it with, and where its classes are."""
    java, maven = tool("java"), tool("mvn")
    target, project = BUILD / name, PEERS / name
    stamp = target / "built"
    if not is_fresh(stamp, sources(f"{name}/pom.xml", f"{name}/src/**/*.java")):
        require(may_build)
        run([maven, "-q", "-B", "-f", str(project / "pom.xml"), f"-DbuildDirectory={target}", "package"])
        stamp.touch()
    return java, target


def class_path(target: Path) -> list[str]:
    return ["-cp", f"{target / 'classes'}:{target / 'lib'}/*"]


def require(may_build: bool) -> None:
    if not may_build:
        raise NotBuiltError("not built yet, and --quick does not wait for it: run `python -m bench build`")


def try_in_turn(attempts: list[list[str]]) -> None:
    """Return the first attempt that compiles. If none does, raise the last reason."""
    for position, attempt in enumerate(attempts):
        try:
            run(attempt)
            return
        except NotBuiltError:
            if position == len(attempts) - 1:
                raise


BUILDERS: dict[str, Callable[[bool], Program]] = {
    "c": build_c,
    "go": build_go,
    "zig": build_zig,
    "chronicle": build_chronicle,
    "aeron": build_aeron,
}
# These take long to build, so a quick run uses them only if they are already built.
SLOW = {"zig", "chronicle", "aeron"}


def build(name: str, quick: bool = False) -> Program:
    BUILD.mkdir(exist_ok=True)
    try:
        return BUILDERS[name](not (quick and name in SLOW))
    except NotBuiltError as reason:
        return Program(why=str(reason))


def free_threaded(module: str) -> Program:
    """The same module, run by the interpreter that an environment variable names. evtape is installed for it."""
    interpreter = os.environ.get(FREE_THREADED, "")
    if not interpreter:
        return Program(why=f"{FREE_THREADED} names no interpreter")
    if not shutil.which(interpreter):
        return Program(why=f"{FREE_THREADED}: no {interpreter}")
    try:
        has_gil = run([interpreter, "-c", "import sys, evtape; print(getattr(sys, '_is_gil_enabled', lambda: True)())"])
    except NotBuiltError as reason:
        return Program(why=f"the interpreter of {FREE_THREADED}: {reason}")
    if has_gil != "False":
        return Program(why=f"the interpreter of {FREE_THREADED} has a GIL")
    return Program([interpreter, "-m", f"bench.{module}"])


def python_module(module: str, needs: str = "") -> Program:
    """A contender that is a module of this package and may need an installed one."""
    if needs and not importlib.util.find_spec(needs):
        return Program(why=f"{needs} is not installed")
    return Program([sys.executable, "-m", f"bench.{module}"])
