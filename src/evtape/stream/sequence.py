"""What a sequence of events is: everything of a `Sequence`, without being registered as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

E = TypeVar("E", covariant=True)

if TYPE_CHECKING:

    class EventSequence(Sequence[E]):
        """To a type checker, a sequence."""

else:

    class EventSequence(Generic[E]):
        """The methods of `collections.abc.Sequence`, which rest on ``len`` and indexing.

        `isinstance(tape, Sequence)` is False: polars makes a column of Python objects of what is a Sequence, before it
        looks for the Arrow interface, and `pl.DataFrame(tape)` is to be a table.
        """

        __contains__ = Sequence.__contains__
        __reversed__ = Sequence.__reversed__
        index = Sequence.index
        count = Sequence.count
