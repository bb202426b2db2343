"""Streams as a data source of Spark 4: ``spark.read.format("evtape")`` and ``spark.readStream``.

    evtape.integrations.spark.register(spark)
    ticks = spark.read.format("evtape").load("/data/ticks-*.tape")
    live = spark.readStream.format("evtape").load("/data/ticks-*.tape")

The columns are those of ``Tape.to_arrow`` in the types of Spark: ``time`` is rounded down to microseconds, and
``time_ns`` has the nanoseconds. A schema that is given with ``.schema(...)`` chooses columns, and only these are read.

=================== ==============================================================================================
option              meaning
=================== ==============================================================================================
columns             names, separated by commas; by default all
startingAt          the first time, as ISO 8601 text or as nanoseconds
endingBefore        the time at which to end
events              at most so many events in one task; by default about 64 MiB
dtype               what the payloads are, for streams without a schema: the ``descr`` of a numpy dtype as JSON,
                    ``json`` or ``text``
includeFilePaths    the name of a further column with the path of each event's stream
verifyChecksums     ``false`` leaves the comparison out
startingOffsets     readStream: ``earliest`` (default) or ``latest``
maxEventsPerTrigger readStream: at most so many events in one batch
failOnDataLoss      readStream: ``false`` goes on when a stream that was read is gone or is another one
=================== ==============================================================================================

Each file has to have its path on every worker, and evtape has to be installed there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as types
from pyspark.sql import SparkSession
from pyspark.sql.datasource import (
    DataSource,
    DataSourceReader,
    DataSourceStreamReader,
    EqualTo,
    Filter,
    GreaterThan,
    GreaterThanOrEqual,
    InputPartition,
    LessThan,
    LessThanOrEqual,
)
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.streaming.datasource import ReadAllAvailable, ReadLimit, ReadMaxRows, SupportsTriggerAvailableNow
from pyspark.sql.types import StructType

from .. import errors
from ..core.format import INT64_MAX, INT64_MIN
from ..core.times import nanoseconds
from ..engines.partition import Partition, divide_range, files_of, stream_paths
from ..engines.plain import PlainTable
from ..engines.tables import Streams, wanted
from ..journal.opening import open_path
from ..journal.tape import JournalReader

__all__ = ["EvtapeDataSource", "register"]

_PUSHDOWN = "spark.sql.python.filterPushdown.enabled"


def register(spark: SparkSession) -> None:
    """Make the format ``evtape`` known to a session, and let Spark hand filters on time and ordinals down to it."""
    spark.conf.set(_PUSHDOWN, "true")
    spark.dataSource.register(EvtapeDataSource)


class EvtapeDataSource(DataSource):
    """The format ``evtape``. Its options are in the description of this module."""

    @classmethod
    def name(cls) -> str:
        """The name of the format."""
        return "evtape"

    def schema(self) -> StructType:
        """The columns of the streams, or those of the option ``columns``."""
        table = _table(self.options)
        names = self.options.get("columns")
        chosen = table.schema.names if names is None else [name.strip() for name in names.split(",")]
        return from_arrow_schema(table.select(chosen))

    def reader(self, schema: StructType) -> DataSourceReader:
        """What reads once."""
        return _BatchReader(_table(self.options), schema)

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:  # noqa: N802 - Spark's name
        """What reads again and again."""
        return _StreamReader(_table(self.options), schema, self.options)


# --------------------------------------------------------------------------------------------- options


def _table(options: Mapping[str, str]) -> PlainTable:
    events = options.get("events")
    streams = Streams(
        tuple(_paths(options)),
        schema=_schema(options.get("dtype")),
        verify_checksums=_flag(options, "verifyChecksums", True),
        events=None if events is None else int(events),
        starting_at=_time(options.get("startingAt")),
        ending_before=_time(options.get("endingBefore")),
    )
    return PlainTable(streams, _to_spark, options.get("includeFilePaths"))


def _paths(options: Mapping[str, str]) -> list[str]:
    """The streams that are meant. Spark hands a list of paths over as JSON."""
    if "paths" in options:
        return stream_paths(json.loads(options["paths"]))
    if "path" not in options:
        raise ValueError("the format evtape needs a path, as in load('/data/*.tape')")
    return stream_paths(options["path"])


def _schema(dtype: str | None) -> Any:
    if dtype is None or dtype in ("json", "text", "bytes"):
        return dtype
    fields = [tuple(tuple(part) if isinstance(part, list) else part for part in field) for field in json.loads(dtype)]
    return np.dtype(fields)


def _flag(options: Mapping[str, str], name: str, default: bool) -> bool:
    given = options.get(name)
    if given is None:
        return default
    if given.lower() not in ("true", "false"):
        raise ValueError(f"the option {name} must be true or false, not {given!r}")
    return given.lower() == "true"


def _time(value: str | None) -> int | str | None:
    return value if value is None or not value.lstrip("-").isdigit() else int(value)


def _to_spark(kind: pa.DataType) -> pa.DataType:
    """The type that Spark has for ``kind``."""
    if kind == pa.uint64():
        return pa.decimal128(20, 0)
    if types.is_unsigned_integer(kind):
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}[kind.bit_width]
    if types.is_float16(kind):
        return pa.float32()
    if types.is_fixed_size_binary(kind):
        return pa.binary()
    if types.is_fixed_size_list(kind):
        return pa.list_(_to_spark(kind.value_type))
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if types.is_duration(kind):
        return pa.duration("us")
    return kind


# ---------------------------------------------------------------------------------------------- tables


_ALL = (INT64_MIN, INT64_MAX)


class _Part(InputPartition):
    """A part of a stream, and the bounds that the filters leave, both included."""

    def __init__(self, part: Partition, times: tuple[int, int], ordinals: tuple[int, int]) -> None:
        super().__init__(part)
        self.times = times
        self.ordinals = ordinals

    @property
    def is_bounded(self) -> bool:
        """Whether there are bounds."""
        return self.times != _ALL or self.ordinals != _ALL

    def keep(self, low: Any, high: Any, first: Any, last: Any) -> Any:
        """Which pieces may have events within the bounds."""
        of_times = (last >= self.times[0]) & (first <= self.times[1])
        return of_times & (high >= self.ordinals[0]) & (low <= self.ordinals[1])


class _Reading:
    """What both readers do with a part."""

    def __init__(self, table: PlainTable, schema: StructType) -> None:
        self._table = table
        table.select(schema.fieldNames())
        self._target = to_arrow_schema(schema, timezone="UTC")

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The events of a part, in batches."""
        if not isinstance(partition, _Part):  # Spark's own, where there is no part
            return
        part: Partition = partition.value
        with self._table.streams.open(part) as events:
            for run in wanted(events, part.is_sorted, partition.keep if partition.is_bounded else None):
                yield from self._table.batches(run, self._target, part.path)


class _BatchReader(_Reading, DataSourceReader):
    def __init__(self, table: PlainTable, schema: StructType) -> None:
        super().__init__(table, schema)
        self._times, self._ordinals = _ALL, _ALL

    def pushFilters(self, filters: list[Filter]) -> Iterable[Filter]:  # noqa: N802 - Spark's name
        """Take note of the bounds of times and ordinals. Spark compares once more, so they may be wider."""
        for given in filters:
            if isinstance(given, (EqualTo, GreaterThan, GreaterThanOrEqual, LessThan, LessThanOrEqual)):
                self._note(given)
            yield given

    def _note(self, given: Any) -> None:
        (name, *inner), value = given.attribute, given.value
        if inner or name not in (self._table.time, self._table.time_ns, self._table.ordinal):
            return
        low = high = nanoseconds(value, self._table.streams.paths[0]) if name == self._table.time else value
        if name == self._table.time:
            high += 999  # Spark sees microseconds
        if isinstance(given, (GreaterThan, GreaterThanOrEqual)):
            high = INT64_MAX
        elif isinstance(given, (LessThan, LessThanOrEqual)):
            low = INT64_MIN
        if name == self._table.ordinal:
            self._ordinals = max(self._ordinals[0], low), min(self._ordinals[1], high)
        else:
            self._times = max(self._times[0], low), min(self._times[1], high)

    def partitions(self) -> list[InputPartition]:
        """The parts of the streams that have events within the bounds."""
        found: list[InputPartition] = []
        for part in self._table.streams.parts():
            bounded = _Part(part, self._times, self._ordinals)
            ordinals = part.first_ordinal + part.start, part.first_ordinal + part.stop - 1
            edges = map(np.array, zip((*ordinals, part.first_timestamp, part.last_timestamp)))
            if not part.is_sorted or bounded.keep(*edges)[0]:
                found.append(bounded)
        return found


# --------------------------------------------------------------------------------------------- streams


class _StreamReader(_Reading, DataSourceStreamReader, SupportsTriggerAvailableNow):
    """Offsets are ``{"<path>@<StartTimestamp>": ordinal}``: the next event of each stream. Of a journal it is that of
    the whole journal, and there is ``journal`` after the ``@``.
    """

    def __init__(self, table: PlainTable, schema: StructType, options: Mapping[str, str]) -> None:
        super().__init__(table, schema)
        self._options = dict(options)
        self._from_end = _choice(options, "startingOffsets", ("earliest", "latest")) == "latest"
        limit = options.get("maxEventsPerTrigger")
        self._limit = None if limit is None else int(limit)
        self._strict = _flag(options, "failOnDataLoss", True)
        self._until: dict[str, range] | None = None  # where a query that reads what is there ends

    def initialOffset(self) -> dict[str, int]:  # noqa: N802 - Spark's name
        """Where a new query begins."""
        return _stops(self._published()) if self._from_end else {}

    def getDefaultReadLimit(self) -> ReadLimit:  # noqa: N802 - Spark's name
        """The limit of one batch."""
        return ReadAllAvailable() if self._limit is None else ReadMaxRows(self._limit)

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802 - Spark's name
        """Go as far as what is published now."""
        self._until = self._published()

    def latestOffset(self, start: dict[str, int], limit: ReadLimit) -> dict[str, int]:  # noqa: N802 - Spark's name
        """How far the next batch goes. A limit is shared among the streams that have news."""
        published = self._published() if self._until is None else self._until
        self._require_kept(start, published)
        begins = {name: max(start.get(name, 0), there.start) for name, there in published.items()}
        news = {name: there.stop - begins[name] for name, there in published.items() if there.stop > begins[name]}
        left = limit.max_rows if isinstance(limit, ReadMaxRows) else sum(news.values())
        offset = {name: min(begins[name], there.stop) for name, there in published.items()}
        for number, name in enumerate(sorted(news, key=news.__getitem__)):
            taken = min(news[name], -(-left // (len(news) - number)))
            offset[name] += taken
            left -= taken
        return offset

    def reportLatestOffset(self) -> dict[str, int]:  # noqa: N802 - Spark's name
        """How far the streams are published."""
        return _stops(self._published())

    def partitions(self, start: dict[str, int], end: dict[str, int]) -> list[InputPartition]:
        """The parts between two offsets."""
        streams, found = self._table.streams, []
        low, high = (
            None if given is None else nanoseconds(given, streams.paths[0])
            for given in (streams.starting_at, streams.ending_before)
        )
        for name, stop in end.items():
            path, _, started = name.rpartition("@")
            expected = None if started == _JOURNAL else int(started)
            files = files_of([path])
            for file, following in zip(files, [*(file.first for file in files[1:]), stop], strict=True):
                first = max(start.get(name, 0), file.first) - file.first
                last = min(stop, following) - file.first
                if first < last:
                    found += divide_range(file, expected, first, last, streams.events, low, high)
        return [_Part(part, _ALL, _ALL) for part in found]

    def _published(self) -> dict[str, range]:
        """The ordinals of the events of each stream now; streams may have come since the query began."""
        found = {}
        for path in _paths(self._options):
            with open_path(path, True) as tape:
                started = _JOURNAL if isinstance(tape, JournalReader) else tape.start_timestamp
                found[f"{path}@{started}"] = range(tape.first_ordinal, tape.next_ordinal)
        return found

    def _require_kept(self, start: dict[str, int], published: dict[str, range]) -> None:
        """RewoundError for a stream that was read and is gone, is another one, or was cut.

        ExpiredError for a journal that has deleted the next event.
        """
        for name, ordinal in start.items():
            there = published.get(name, range(0))
            if self._strict and ordinal < there.start:
                raise errors.expired(name.rpartition("@")[0], ordinal, there.start)
            if self._strict and ordinal > there.stop:
                raise errors.offset_lost(name.rpartition("@")[0], ordinal, there.stop if name in published else None)


_JOURNAL = "journal"  # in the place of a StartTimestamp


def _stops(published: dict[str, range]) -> dict[str, int]:
    return {name: there.stop for name, there in published.items()}


def _choice(options: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    given = options.get(name, allowed[0])
    if given not in allowed:
        raise ValueError(f"the option {name} must be {' or '.join(allowed)}, not {given!r}")
    return given
