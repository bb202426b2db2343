"""Fixtures of the integrations: handlers that are closed at the end, and a stream for the engines."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy.typing as npt
import pytest

from tests.integrations.engines import COUNT, ticks, times, write


@pytest.fixture
def handlers(et: ModuleType) -> ModuleType:
    return importlib.import_module("evtape.integrations.logging")


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What went to `handleError`, in place of its lines on standard error."""
    found: list[BaseException] = []

    def keep(_handler: logging.Handler, _record: logging.LogRecord) -> None:
        import sys

        error = sys.exc_info()[1]
        assert error is not None
        found.append(error)

    monkeypatch.setattr(logging.Handler, "handleError", keep)
    return found


@pytest.fixture
def logger(handlers: ModuleType) -> Iterator[Callable[..., logging.Logger]]:
    """Makes a logger with one handler of evtape, which is closed at the end."""
    made: list[Any] = []

    def make(path: Any, formatter: logging.Formatter | None = None, **options: Any) -> logging.Logger:
        handler = handlers.Handler(path, **options)
        handler.setFormatter(formatter)
        made.append(handler)
        logger = logging.Logger("app.orders")
        logger.addHandler(handler)
        return logger

    yield make
    for handler in made:
        handler.close()


@pytest.fixture
def rows() -> npt.NDArray[Any]:
    """The rows of the stream at `path`."""
    return ticks(COUNT)


@pytest.fixture
def path(et: ModuleType, tmp_path: Path, rows: npt.NDArray[Any]) -> Path:
    path = tmp_path / "a.tape"
    write(et, path, rows, times(COUNT))
    return path


@pytest.fixture
def read(et: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is read of the streams as Arrow: for each call its columns and ordinals."""
    seen: list[Any] = []
    slices = importlib.import_module("evtape.stream.slices")
    arrow = slices.Slice.arrow

    def noted(self: Any, columns: Any = None, **options: Any) -> Any:
        if len(self):
            seen.append((columns, self.ordinals[0], self.ordinals[-1] + 1))
        return arrow(self, columns, **options)

    monkeypatch.setattr(slices.Slice, "arrow", noted)
    return seen
