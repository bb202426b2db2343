"""Planted bugs: one-line mutations of the sources, each of which a named part of the harness must catch.

Each is applied to a copy of the tree, which is built again where the native core is touched. Caught means that the
named part finds a violation of the named kind in the copy, and none of that kind in the sources as they are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import harness

if TYPE_CHECKING:
    from .harness import Context

ROOT = harness.HERE.parent.parent


@dataclass(frozen=True)
class Bug:
    """A mutation: in `file`, `old` (which stands there once) becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    part: str  #: the part that catches it, with its piece
    kind: str  #: the violation it must find, a regular expression


WRITER, RECOVERY, WALK = "src/evtape/stream/writer.py", "src/evtape/recovery/repair.py", "src/evtape/recovery/walk.py"
SIDECAR, FILES, READER = "src/evtape/recovery/watermark.py", "src/evtape/system/files.py", "src/evtape/stream/reader.py"
SOURCE, LIFETIME = "src/evtape/stream/source.py", "src/evtape/stream/lifetime.py"
BESIDE = "src/evtape/system/sidecar.py"
PURE, NATIVE, GUARD = "src/evtape/core/pure.py", "ext/native.pyx", "ext/fault_guard.c"

INSIDE = "                self._inside = True\n                try:\n"

# What is matched is as short as it can be, so that the sources may change around it.
BUGS = (
    Bug(
        "published before the payload is stored", NATIVE,
        "            timestamp = self._now()\n",
        "            timestamp = self._now()\n"
        "        evtape_publish(self.base, self.offset + 16 + size, self.count + 1)\n",
        "kill --only steps-append-native", "at an instruction",
    ),
    Bug(
        "a short batch is published before it is whole", NATIVE,
        "            if stop - at < EVTAPE_ENTRY_SIZE + size:\n",
        "            evtape_publish(self.base, at - self.base, self.count + i)\n"
        "            if stop - at < EVTAPE_ENTRY_SIZE + size:\n",
        "kill --only steps-batch-native", "at an instruction",
    ),
    Bug(
        "a long batch is published before it is whole", NATIVE,
        "            if array == NULL:\n",
        "            evtape_publish(self.base, at - self.base, self.count + i)\n            if array == NULL:\n",
        "kill --only steps-rows-native", "at an instruction",
    ),
    Bug(
        "WriteOffset is stored before EventCount", PURE,
        "header[1] = count\n", "header[0], header[1] = end, count\n",
        "kill --only steps-append-python", "at an instruction",
    ),
    Bug(
        "published although a page is gone", NATIVE,
        "        if not faulted:\n", "        if True:\n",
        "cases --only gone", "in a page that is gone",
    ),
    Bug(
        "the bound of an entry's size is one too high", NATIVE,
        "entry.size > bound - at - EVTAPE_ENTRY_SIZE:", "entry.size > bound - at - EVTAPE_ENTRY_SIZE + 1:",
        "fuzz", "verdicts differ|cores differ",
    ),
    Bug(
        "no flush of the events before the header", WRITER,
        "self._region.flush(self._synced, end)", "pass",
        "power --only mixed", "acknowledged durable, and lost",
    ),
    Bug(
        "no flush of the header", WRITER,
        "self._region.flush(0, HEADER_SIZE)", "pass",
        "power --only mixed", "acknowledged durable, and lost",
    ),
    Bug(
        "a failed flush does not poison the writer", WRITER,
        "self._fail(lambda: Error(message))", "pass",
        "syscalls --only calls", "retried into a success",
    ),
    Bug(
        "what an earlier writer left is taken for flushed", WRITER,
        "self._synced = FIRST_OFFSET", "self._synced = self._appender.offset",
        "cases --only earlier", "leaves out what an earlier writer appended",
    ),
    Bug(
        "the sidecar is not flushed", BESIDE,
        "os.fsync(self._fd)", "pass",
        "cases --only older", "an older sidecar",
    ),
    Bug(
        "a watermark is trusted on another boot", SIDECAR,
        "mark.boot_id == boot_id()", "True",
        "power --only kilobyte", r"open\('a'\)|not clean|without a warning",
    ),
    Bug(
        "the boot id of the kernel is not looked at", SIDECAR,
        "return bytes.fromhex(file.read().strip().replace(\"-\", \"\"))", "return b\"always the same.\"",
        "boots", "a boot costs events, or goes unnoticed",
    ),
    Bug(
        "a descriptor may be that of a standard stream", FILES,
        "return fd if fd >= _STANDARD else _moved(fd)", "return fd",
        "descriptors", "a descriptor of a standard stream",
    ),
    Bug(
        "writers are not closed at the end of their process", LIFETIME,
        "atexit.register(_close_all)", "",
        "ends", "an end costs events, or does not come",
    ),
    Bug(
        "a question may be asked in the middle of the same one", SOURCE,
        "if self._inside:  # a signal", "if False:  # a signal",
        "reenter --only length", "a call inside another one",
    ),
    Bug(
        "a batch may be appended in the middle of an append", PURE,
        "raise errors.busy(self._region.path)\n" + INSIDE + "                    end = self.offset + total\n",
        "pass\n" + INSIDE + "                    end = self.offset + total\n",
        "reenter --only append_many", "a call inside another one",
    ),
    Bug(
        "the sidecar of another generation is trusted", SIDECAR,
        "if generation != sidecar.generation_of(self._stream):", "if False:",
        "names", "events are missing under a name",
    ),
    Bug(
        "a writer that takes over leaves the generation as it is", SIDECAR,
        "            sidecar.renew_generation(self._stream)\n            os.fsync(self._stream)\n",
        "            pass\n",
        "names", "events are missing under a name",
    ),
    Bug(
        "a torn header is an event", WALK,
        "np.flatnonzero(suspects).tolist()", "[]",
        "cases --only torn", "a torn (timestamp|entry)",
    ),
    Bug(
        "the zero rule is off", WALK,
        "adds_up = complete and scanner.ordinal == self.event_count", "adds_up = True",
        "reference", "misjudges an example",
    ),
    Bug(
        "checksums are not compared", WALK,
        "_PASS), verify_checksums=self.verify_checksums", "_PASS), verify_checksums=False",
        "bits", "verdicts differ",
    ),
    Bug(
        "nothing is quarantined", RECOVERY,
        "if saved > report.end:", "if False:",
        "power --only kilobyte", "cut and not saved",
    ),
    Bug(
        "events above a WriteOffset that went down are not saved", RECOVERY,
        "if report.cut or", "if True or",
        "cases --only WriteOffset", "are cut and not saved",
    ),
    Bug(
        "damage in the middle is cut", RECOVERY,
        "if report.lost and not tail_only:", "if False:",
        "bits", "damage in the middle",
    ),
    Bug(
        "the count is not repaired", RECOVERY,
        "region.store_header(report.end, report.events)", "region.store_header(report.end, report.event_count)",
        "power --only mixed", "not clean|a second recovery",
    ),
    Bug(
        "the file is shortened before its header is stored", RECOVERY,
        "        region.store_header(report.end",
        "        os.ftruncate(file.fd, report.end)\n        region.store_header(report.end",
        "kill --only steps-recover-native", "at an instruction",
    ),
    Bug(
        "no flush of a new file before it gets its name", FILES,
        "os.fsync(self._fd)", "pass",
        "power --only kilobyte", "quarantine was not durable",
    ),
    Bug(
        "no flush of the directory of a new file", FILES,
        "sync_directory(self._directory)", "pass",
        "power --only kilobyte", "quarantine was not durable",
    ),
    Bug(
        "the lock does not exclude", "src/evtape/system/lock.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "kill --only owners", "a second writer",
    ),
    Bug(
        "a forked child may write", LIFETIME,
        "        writer._forked()\n", "        pass\n",
        "kill --only owners", "a forked child",
    ),
    Bug(
        "room is not allocated", PURE,
        "os.posix_fallocate(fd, start, stop - start)", "os.ftruncate(fd, stop)",
        "syscalls --only disks", "a full disk (killed|is told as)",
    ),
    Bug(
        "new files are not overwritten in place", FILES,
        "            _overwrite_in_place(self._fd)\n", "            pass\n",
        "syscalls --only disks-btrfs", "a full disk (killed|cost)",
    ),
    Bug(
        "the guard is not installed", "src/evtape/guard.py",
        "    if _wanted:\n", "    if False:\n",
        "truncate", "a reader was killed",
    ),
    Bug(
        "the guard does not count", GUARD,
        "atomic_fetch_add(&slot->faults, 1);", "",
        "cases --only view", "a view became zeros",
    ),
    Bug(
        "a reader does not see that the file is shorter", READER,
        "if size < known or region.faults", "if region.faults",
        "cases --only shorter", "a reader does not see",
    ),
    Bug(
        "after a power loss checksums are not compared", RECOVERY,
        "verify_checksums=not same_boot", "verify_checksums=False",
        "power --only kilobyte", r"open\('a'\)|not clean|without a warning",
    ),
)  # fmt: skip


def run(ctx: Context) -> None:
    """Plant each bug, run the part that is to catch it, print the table."""
    copy(ctx.work / "sound")
    native(ctx.work / "sound")
    sound: dict[str, dict[str, int]] = {}
    missing: dict[str, list[str]] = {}  # what did not run of a part
    width = max(len(bug.name) for bug in BUGS)
    print(f"  {'planted bug':<{width}}  {'caught by':<34} violation")
    for bug in ctx.progress([bug for bug in BUGS if ctx.only in bug.name], "planted"):
        if bug.part not in sound:
            sound[bug.part], why = kinds(ctx.work / "sound", bug.part)
            missing[bug.part] = why
            for kind, count in sound[bug.part].items():
                ctx.violation("found without any bug planted", f"{bug.part}: {kind} ({count})")
        tree = ctx.work / "bug"
        shutil.copytree(ctx.work / "sound", tree, symlinks=True)
        source = tree / bug.file
        text = source.read_text()
        if text.count(bug.old) != 1:
            ctx.violation("cannot be planted", f"{bug.name}: its line stands {text.count(bug.old)} times in {bug.file}")
        else:
            source.write_text(text.replace(bug.old, bug.new))
            if bug.file.startswith("ext/"):
                native(tree)
            found, _ = kinds(tree, bug.part)
            caught = [
                f"{kind} ({found[kind]})" for kind in found if re.search(bug.kind, kind) and kind not in sound[bug.part]
            ]
            verdict = caught[0] if caught else "NOT RUN" if missing[bug.part] else "NOT CAUGHT"
            print(f"  {bug.name:<{width}}  {bug.part:<34} {verdict}", flush=True)
            if verdict == "NOT RUN":
                ctx.not_run(f"{bug.name}: {bug.part} could not run whole here: {'; '.join(missing[bug.part])}")
                shutil.rmtree(tree)
                continue
            ctx.count("planted")
            ctx.count("caught", bool(caught))
            ctx.figures[f"bug: {bug.name}"] = f"{bug.part}: {caught[0] if caught else 'not caught'}"
            if not caught:
                ctx.violation("not caught", f"{bug.name}: {bug.part} found {found}")
        shutil.rmtree(tree)


def copy(tree: Path) -> None:
    """A copy of what is needed to build and to run the package."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.tape")
    shutil.copytree(Path(harness.source_directory()) / "evtape", tree / "src" / "evtape", ignore=ignored)
    ext = Path(harness.source_directory()).parent / "ext"
    shutil.copytree(ext if ext.exists() else ROOT / "ext", tree / "ext", ignore=shutil.ignore_patterns("native.c"))


def native(tree: Path, more: tuple[str, ...] = (), python: Path = Path(sys.executable)) -> None:
    """Build the native core in place, with more flags, for another interpreter."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    cython = [python, "-m", "cython", "-3", "native.pyx", "-o", "native.c"]
    if compiler is None or subprocess.run(cython, cwd=tree / "ext", capture_output=True, check=False).returncode:
        raise harness.NotRun("no C compiler, or no Cython")
    asked = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'), sysconfig.get_path('include'))"
    told = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    suffix, include = told.stdout.split()
    target = tree / "src" / "evtape" / "core" / f"native{suffix}"
    target.unlink(missing_ok=True)
    sources = [path.name for path in sorted((tree / "ext").glob("*.c"))]
    flags = ["-O1", "-std=gnu11", "-fPIC", "-shared", "-I.", f"-I{include}", *more, "-lpthread"]
    subprocess.run([compiler, *flags, *sources, "-o", str(target)], cwd=tree / "ext", check=True, capture_output=True)


def kinds(tree: Path, part: str) -> tuple[dict[str, int], list[str]]:
    """The kinds of violations that a quick run of a part finds in a tree, and what did not run of the part."""
    results = tree / "results.json"
    results.unlink(missing_ok=True)
    path = os.pathsep.join([str(tree / "src"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "tests.faults", *part.split(), "--results", str(results)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if not results.exists():
        return {f"the part itself failed: {done.stderr.strip()[-200:]}": 1}, []
    found: dict[str, int] = {}
    missing: list[str] = []
    for line in results.read_text().splitlines():
        record = json.loads(line)
        found |= record["kinds"]
        missing += record["not_run"]
    return found, missing
