"""The only place that chooses a core. ``EVTAPE_BACKEND`` is ``auto`` (default), ``native`` or ``python``.

``auto`` falls back to the pure core only when the compiled one is absent. One that is there and fails to import
raises, because a silent fallback would hide a broken installation behind a slow program.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal

wanted = os.environ.get("EVTAPE_BACKEND", "auto")
if wanted not in ("auto", "native", "python"):
    raise ImportError(f"EVTAPE_BACKEND={wanted!r} is unknown; use auto, native or python")

if TYPE_CHECKING:
    from . import native as core
elif wanted == "python" or (wanted == "auto" and find_spec("evtape.core.native") is None):
    from . import pure as core
else:
    from . import native as core

__all__ = ["Event", "backend", "core"]

#: Which core runs: ``"native"`` or ``"python"``.
backend: Final[Literal["native", "python"]] = core.NAME

Event = core.Event
