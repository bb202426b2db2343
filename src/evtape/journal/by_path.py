"""What takes the path of a stream or of a journal: ``merge`` and ``follow``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from ..stream.merge import Mergeable, Merged
from ..stream.merge import merge as merge_streams
from ..stream.reader import OnReplace, OpenPath, follow_path
from ..stream.wait import StopEvent
from .opening import open_path


def merge(streams: Iterable[Mergeable], *, verify_checksums: bool = True) -> Merged:
    """Read several streams or journals as one sequence ordered by time.

    ``streams``: paths, or streams that are open for reading or writing. The streams at the paths are opened, and
    closed by ``close()``; streams that were open stay so. ``verify_checksums`` is for those that are opened.

    The order is by timestamp; equal timestamps are ordered by the position of the stream in the list. The events of
    one stream never change their order: if its timestamps go backwards, the highest one so far counts.

    Raises ValueError for an empty list and for a stream that is in it twice, and what ``evtape.open`` raises.
    """
    return merge_streams(streams, _opens(verify_checksums))


def follow(
    path: str | bytes | os.PathLike[Any],
    start: Any = None,
    *,
    wait: bool = False,
    on_replace: OnReplace = "raise",
    verify_checksums: bool = True,
    timeout: float | None = None,
    stop_event: StopEvent | None = None,
    until: Any = None,
    spin: float | None = None,
    batch: bool = False,
) -> Iterator[Any]:
    """Follow the stream or journal that has a name, as ``Tape.follow`` does with one that is open.

    ``start`` None is the first event that is left. ``wait=True`` waits for a stream that does not exist yet; otherwise
    FileNotFoundError. ``on_replace="follow"`` goes on with the first event of another stream that gets the name, after
    the last one of the old stream; ``"raise"`` raises ReplacedError.
    """
    options = {"timeout": timeout, "stop_event": stop_event, "until": until, "spin": spin, "batch": batch}
    return follow_path(os.fsdecode(path), start, wait, on_replace, _opens(verify_checksums), options)


def _opens(verify_checksums: bool) -> OpenPath:
    return lambda name: open_path(name, verify_checksums)
