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
FLUSHER, COMMIT = "src/evtape/stream/flusher.py", "src/evtape/stream/commit.py"
SOURCE, LIFETIME = "src/evtape/stream/source.py", "src/evtape/stream/lifetime.py"
BESIDE, CURSOR = "src/evtape/system/sidecar.py", "src/evtape/stream/cursor.py"
INDEX_FILE, COMPARE = "src/evtape/recovery/index_file.py", "src/evtape/recovery/compare.py"
PARTITION = "src/evtape/engines/partition.py"
JOURNAL, TAIL = "src/evtape/journal/writer.py", "src/evtape/journal/recover.py"
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
        "header[1] = count - first\n", "header[0], header[1] = end, count - first\n",
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
        "no flush of the events", FLUSHER,
        "self._flush_pages(0, max(offset, self.space))", "self._flush_pages(0, 24)",
        "power --only mixed", "acknowledged durable, and lost",
    ),
    Bug(
        "no flush of the header", FLUSHER,
        "self._flush_pages(0, max(offset, self.space))", "self._flush_pages(4096, max(offset, 4097))",
        "power --only mixed", "acknowledged durable, and lost",
    ),
    Bug(
        "a failed flush does not poison the writer", WRITER,
        "self._fail(lambda: Error(message))", "pass",
        "syscalls --only calls", "retried into a success",
    ),
    Bug(
        "what an earlier writer left is taken for flushed", FLUSHER,
        "self._flush_pages(0, max(offset, self.space))",
        "self._flush_pages(self.durable.offset if self.durable.ordinal else offset - 17, offset)",
        "cases --only earlier", "leaves out what an earlier writer appended",
    ),
    Bug(
        "the sidecar is not flushed", BESIDE,
        "sync_data(self._fd)", "pass",
        "cases --only older", "an older sidecar",
    ),
    Bug(
        "an event that looks torn needs no record of its own", FLUSHER,
        "or core.first_ambiguous(self._region, before.offset, now.offset) >= 0", "",
        "power --only times", "acknowledged durable, and lost|timestamp torn|lost",
    ),
    Bug(
        "the record is stored before the flush", FLUSHER,
        "        self._flush_pages(0, max(offset, self.space))\n",
        "        self._watermark_file.store(self._mark(self._flushed))\n"
        "        self._flush_pages(0, max(offset, self.space))\n",
        "power --only batch", r"open\('a'\)|not clean|without a warning",
    ),
    Bug(
        "threads are served by a flush that began before they appended", COMMIT,
        "if call.events is not None and call.events <= events:", "if call.events is not None:",
        "commits", "returned before it was durable",
    ),
    Bug(
        "a failed flush is told to one thread alone", COMMIT,
        "            self._serve(sys.maxsize, error)\n", "            self._serve(sys.maxsize, None)\n",
        "commits", "a failed flush was called a success",
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
        "        if offset < 0:\n            return reason, False\n", "        return reason, False\n",
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
        "        _overwrite_in_place(fd)\n", "        pass\n",
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
    Bug(
        "a stale page is lowered too far", "ext/live.c",
        "&armed, offset);\n}", "&armed, offset - 16);\n}",
        "stress --only sound", "a wake-up is lost",
    ),
    Bug(
        "a follower does not look at its last event, native", NATIVE,
        "if self.last >= 0 and reason != FAULT and self._changed():", "if False:",
        "cases --only slow", "a slow follower",
    ),
    Bug(
        "a follower does not look at its last event, python", PURE,
        "if self._window.reads != known and self._changed():", "if False:",
        "cases --only slow", "a slow follower",
    ),
    Bug(
        "an empty event is not looked at twice", NATIVE,
        "if not evtape_is_followed(end, self.bound - offset) and", "if False and",
        "cases --only header", "a cut within a header",
    ),
    Bug(
        "a cursor is committed before the event is handed out", CURSOR,
        "header=header)\n            yield event", "header=header)\n            self.commit()\n            yield event",
        "cases --only handed", "a cursor is committed",
    ),
    Bug(
        "the checksum of a schema is not compared", "src/evtape/schema.py",
        'record["crc32"] == _checksum(record)', "True",
        "columns --only garbage", "a damaged schema was believed",
    ),
    Bug(
        "the schema of another stream is believed", "src/evtape/schema.py",
        "if intact and belongs != start_timestamp:", "if False:",
        "columns --only declared", "a declared schema|cannot be used|never declared",
    ),
    Bug(
        "an array does not keep the bytes mapped", "ext/arrow.c",
        "data->mapping = evtape_mapping_retain(batch->of->mapping);", "data->mapping = batch->of->mapping;",
        "columns --only cuts", "a consumer's process died",
    ),
    Bug(
        "the checksums of a table are not compared", "ext/arrow.c",
        "evtape_crc32(0, data, entry->size) != entry->checksum", "data == NULL",
        "columns --only tables", "a table has what iterating refuses",
    ),
    Bug(
        "the thread that makes batches compares no checksums", "ext/arrow_ahead.c",
        "ahead->first.quiet = 1;", "ahead->first.quiet = 1, ahead->first.verify_checksums = 0;",
        "columns --only tables", "a table has what iterating refuses",
    ),
    Bug(
        "a partition does not look at its last event", PARTITION,
        " or _before(tape._source, self.stop)[1] != self.mark", "",
        "partitions --only changes", "wrong events, after a change",
    ),
    Bug(
        "a partition of another stream is read", PARTITION,
        "if tape.start_timestamp != self.start_timestamp:", "if False:",
        "partitions --only changes", "another error, after a change|wrong events, after a change",
    ),
    Bug(
        "the header of a buffer is not looked at", "src/evtape/stream/buffer.py",
        "self.require_stream(self.region.load_header()[0], size)", "pass",
        "fuzz", "a buffer differs from its file",
    ),
    Bug(
        "a cursor of another stream is accepted", CURSOR,
        "reason = self._misfit(place)", 'reason = ""',
        "cases --only accepted", "a cursor of another",
    ),
    Bug(
        "the page of another stream is joined", "src/evtape/system/live.py",
        "not core.SLEEPS or not self._adopt()",
        "not core.SLEEPS or not self._file.adopt(MAGIC, _SIZE)",
        "cases --only joined", "the page of another",
    ),
    Bug(
        "an index is believed without a look at the stream", INDEX_FILE,
        "if made is None or (made.lowest,", "if False and (made.lowest,",
        "index --only cut", "an index gives a wrong answer|wrong index",
    ),
    Bug(
        "the index of an earlier writer is believed", INDEX_FILE,
        "return generation not in (NO_GENERATION, records.generation)", "return False",
        "index --only cut", "an index gives a wrong answer|verify believes",
    ),
    Bug(
        "a record is used without a look at its checksum", INDEX_FILE,
        "return data[: core.index_check(data, self.start_timestamp, start) * RECORD_SIZE]", "return data",
        "index --only fuzz", "a broken index gives a wrong answer|raises what it may not|kills a process",
    ),
    Bug(
        "the offset of a record is not looked at", "src/evtape/stream/index.py",
        "or not least <= block.offset <= self._file.offset - ENTRY_SIZE", "",
        "index --only fuzz", "kills a process|raises what it may not",
    ),
    Bug(
        "a writer keeps the records of what was cut", INDEX_FILE,
        "os.ftruncate(self.fd, position_of(blocks))", "pass",
        "index --only cut", "records of before stay|wrong index|wrong answer",
    ),
    Bug(
        "a writer keeps records after a torn one", INDEX_FILE,
        "blocks = records.valid_count(found.blocks)", "blocks = found.blocks",
        "index --only states", "a writer leaves a wrong index",
    ),
    Bug(
        "the last record of a closed stream is not made again", INDEX_FILE,
        "whole = blocks if last.events == INDEX_EVENTS and", "whole = blocks if",
        "index --only states", "a writer leaves a wrong index",
    ),
    Bug(
        "a lost index is taken for a file of another program", INDEX_FILE,
        "        self._file.remove_lost()\n", "",
        "index --only states", "a writer leaves a wrong index",
    ),
    Bug(
        "the thread indexes what is not published", "ext/preallocator.c",
        "int64_t offset = __atomic_load_n(p->write_offset, __ATOMIC_ACQUIRE);\n    return offset <=",
        "int64_t offset = evtape_preallocator_ready(&p->shared);\n    return offset <=",
        "index --only kills", "wrong index|wrong answer",
    ),
    Bug(
        "an index covers zeros, native", "ext/index.c",
        "EVTAPE_ENTRY_SIZE || zero)", "EVTAPE_ENTRY_SIZE || (zero && false))",
        "index --only zeros", "an index covers zeros",
    ),
    Bug(
        "zeros in an indexed block are an event", SOURCE,
        "if not broken and ordinal - self.first >= self.index.from_file:", "if not broken:",
        "index --only zeros", "zeros in an indexed block",
    ),
    Bug(
        "verify does not look at the checksums of the index", COMPARE,
        "differs |= made[name][: len(indexed)] != indexed[name]", "pass",
        "bits", "a flip is not reported although there is an index",
    ),
    Bug(
        "verify names the wrong event", COMPARE,
        "return Difference(first + event, offsets[event]", "return Difference(first, offsets[event]",
        "bits", "names another event",
    ),
    Bug(
        "StartTimestamp is not compared with the index", COMPARE,
        "self.start_timestamp = None if same else records.start_timestamp", "",
        "bits", "a flip is not reported although there is an index",
    ),
    Bug(
        "a writer that takes over does not bind the index", WRITER,
        "            self._index.restamp()\n", "",
        "index --only cut", "not kept by recovery|wrong answer",
    ),
    Bug(
        "recovery does not bind the index", RECOVERY,
        "index.restamp(file.region.load_header()[2])", "pass",
        "index --only cut", "not kept by recovery",
    ),
    Bug(
        "journal: a segment is named one ordinal too high", JOURNAL,
        "spare.give_name(position[1])", "spare.give_name(position[1] + 1)",
        "journals --only kill", "events are gone|an event is not|lost events|cannot be opened",
    ),
    Bug(
        "journal: EventCount goes on over segments", NATIVE,
        "evtape_publish(self.base, end, ordinal + 1 - self.first)", "evtape_publish(self.base, end, ordinal + 1)",
        "journals --only kill", "not clean|cannot be opened|lost events",
    ),
    Bug(
        "journal: the segment before is flushed up to where the next one is", JOURNAL,
        "self._flusher.freeze(position)", "pass",
        "journals --only power", "events are gone|cannot be opened|an event is not|the part itself",
    ),
    Bug(
        "journal: closed segments are not flushed", JOURNAL,
        "            self._flush(segment.flusher, sys.maxsize)\n", "",
        "journals --only power", "events are gone|cannot be opened|an event is not",
    ),
    Bug(
        "journal: sync leaves out the segments that were rolled", JOURNAL,
        "        for segment in rolled:\n", "        for segment in rolled[:0]:\n",
        "journals --only power", "events are gone|cannot be opened|an event is not",
    ),
    Bug(
        "journal: sync does not flush the directory", JOURNAL,
        "                self._directory.sync()\n", "",
        "journals --only power", "events are gone|the journal is gone",
    ),
    Bug(
        "journal: what comes after a hole stays", TAIL,
        "            if lost:\n", "            if False:\n",
        "journals --only power", "cannot be opened|events are gone|an event is not|iteration ends",
    ),
    Bug(
        "journal: a segment that lost everything counts as closed", "src/evtape/journal/directory.py",
        '    if os.path.lexists(f"{path}.side"):\n        return False\n', "",
        "journals --only power", "cannot be opened|events are gone|an event is not|files without a meaning",
    ),
    Bug(
        "journal: a segment gets its name before its sidecar", "src/evtape/journal/spare.py",
        "self.opened.watermark_file.move(path)  # before the segment itself has its name, as docs/format.md says\n"
        "        os.rename(self.temporary, path)\n",
        "os.rename(self.temporary, path)\n        self.opened.watermark_file.move(path)\n",
        "journals --only power", "cannot be opened|events are gone|an event is not",
    ),
    Bug(
        "journal: only the last segment is repaired", TAIL,
        "    while begin > 0 and not", "    while False and not",
        "journals --only kill", "not clean",
    ),
    Bug(
        "journal: the page of a segment that was made ahead stays", "src/evtape/journal/directory.py",
        r"tmp(\.(side|live))?", r"tmp(\.side)?",
        "journals --only calls", "files without a meaning",
    ),
    Bug(
        "journal: leftovers stay", "src/evtape/journal/directory.py",
        "if gone or _TEMPORARY.fullmatch(name):", "if gone:",
        "journals --only kill", "files without a meaning",
    ),
    Bug(
        "journal: the newest segment is deleted first", "src/evtape/journal/retention.py",
        "            for segment in gone:\n                self._delete(segment)\n",
        "            for segment in reversed(gone):\n                self._directory.remove_segment(segment.first)\n",
        "journals --only kill", "cannot be opened|lost events|an event is not|iteration ends|events are gone|itself",
    ),
    Bug(
        "journal: a segment is missing and reading goes on", "src/evtape/journal/source.py",
        "            return _Raised(error)\n", "            return iter(())\n",
        "journals --only harm", "missing events were not told",
    ),
    Bug(
        "journal: the follower hops over the first event of a segment", "src/evtape/journal/follow.py",
        "super().__init__(self.journal.segment(self.ordinal), self.ordinal)",
        "super().__init__(self.journal.segment(self.ordinal), self.ordinal + 1)",
        "journals --only rounds", "a reader died|nothing was followed",
    ),
    Bug(
        "journal: a closed segment gets no index", "src/evtape/journal/writer.py",
        "        segment.index.finish(segment.end, durable=flush)\n", "",
        "journals --only kill-roll", "a closed segment has no index",
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
