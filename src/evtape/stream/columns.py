"""Events as a table for other libraries: what tapes and slices have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..arrow import Misfits

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


class _Table:
    """A stream of Arrow batches with chosen columns, as often as it is asked for."""

    def __init__(self, of: Columns, columns: Iterable[str] | None, misfits: Misfits) -> None:
        self._of = of
        self._columns = None if columns is None else [columns] if isinstance(columns, str) else list(columns)
        self._misfits = misfits

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._of._capsule(self._columns, self._misfits, requested_schema)


class Columns:
    """The columns ``ordinal``, ``time`` (UTC, ns) and ``payload``; with a structured schema its fields in the place of
    ``payload``. A field named ``time`` or ``ordinal`` keeps its name, and the event's column is ``event_time`` or
    ``event_ordinal``.
    """

    @abstractmethod
    def _capsule(self, columns: Iterable[str] | None, misfits: Misfits, requested: Any) -> Any:
        """A capsule of a stream of Arrow batches."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The events published now as a stream of Arrow record batches: what polars, DuckDB, pandas, pyarrow and
        nanoarrow take as it is.

        Batches of up to 65,536 events are made when the consumer asks for them; in a long stream a second thread makes
        up to three of them earlier. Payloads and strings are views of the mapping, which stays mapped until the
        consumer releases them, also after ``close()``; numbers are gathered. The pure core copies, and has no second
        thread. ``requested_schema`` chooses columns, and text or bytes for ``payload``.
        """
        return self._capsule(None, "raise", requested_schema)

    def arrow(self, columns: Iterable[str] | None = None, *, errors: Misfits = "raise") -> Any:
        """An object with ``__arrow_c_stream__`` of these columns alone, for ``pl.DataFrame`` and others. O(1).

        A column that is not named costs nothing. ``errors="null"``: a payload or a value that does not fit the schema
        is null; ``"raise"``: it ends the stream with an error that names the event.
        """
        return _Table(self, columns, errors)

    def to_arrow(self, columns: Iterable[str] | None = None, *, errors: Misfits = "raise") -> pa.Table:
        """The events as a ``pyarrow.Table``; see ``arrow``. Needs pyarrow."""
        import pyarrow as pa

        return pa.table(self.arrow(columns, errors=errors))

    def to_polars(self, columns: Iterable[str] | None = None, *, errors: Misfits = "raise") -> pl.DataFrame:
        """The events as a ``polars.DataFrame``; see ``arrow``. Needs polars."""
        import polars as pl

        return pl.DataFrame(self.arrow(columns, errors=errors))

    def to_pandas(self, columns: Iterable[str] | None = None, *, errors: Misfits = "raise") -> pd.DataFrame:
        """The events as a ``pandas.DataFrame``, copied; see ``arrow``. Needs pandas 3 and pyarrow."""
        import pandas as pd

        return pd.DataFrame.from_arrow(self.arrow(columns, errors=errors))
