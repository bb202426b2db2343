"""The settings of a journal, ``journal.json``: a small JSON document with a version and a checksum.

It lies next to the segments, and says what their payloads mean, too.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from typing import Any, Final

from .files import AtomicFile, write_all

SETTINGS: Final = "journal.json"
VERSION: Final = 1
_SIZE_MAX: Final = 2 << 20
_SEGMENT = re.compile(r"\d{20}\.tape")


def beside(segment: str) -> str | None:
    """Where the settings are, if this path can be one of a segment."""
    directory, name = os.path.split(segment)
    return os.path.join(directory, SETTINGS) if _SEGMENT.fullmatch(name) else None


def load(path: str) -> dict[str, Any] | None:
    """The settings in the file, or None without one. Raises ValueError if it is damaged or of another version."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(_SIZE_MAX))
        if document["version"] != VERSION or document.pop("checksum") != _checksum(document):
            raise ValueError("another version or checksum")
        del document["version"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return dict(document)


def store(path: str, settings: dict[str, Any], *, durable: bool) -> None:
    """Write the file, as a whole or not at all."""
    document = {"version": VERSION, **settings}
    text = json.dumps({**document, "checksum": _checksum(document)}, indent=1) + "\n"
    with AtomicFile(path, durable=durable, replace=True) as fd:
        write_all(fd, text.encode())


def _checksum(document: dict[str, Any]) -> int:
    plain = {name: value for name, value in document.items() if name != "checksum"}
    return zlib.crc32(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())
