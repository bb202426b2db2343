"""What a pickle of a journal becomes: its path."""

from __future__ import annotations

import copyreg
from typing import Any

from .opening import open_reader
from .tape import JournalReader


def _reduce_reader(reader: JournalReader) -> tuple[Any, ...]:
    return open_reader, (reader.path, reader.verify_checksums, reader._source.declared)


copyreg.pickle(JournalReader, _reduce_reader)
