"""What surrounds the cores: objects nobody was meant to make, and payloads of every kind."""

from __future__ import annotations

import numpy as np

from .helpers import run_python

MADE = """
import evtape, sys
from evtape._backend import core
event = core.Event(1, b"x")
kind = type(iter(event))
try:
    list(kind())
except TypeError:
    pass
scanner = core.Scanner.__new__(core.Scanner)
for call in (lambda: scanner.run(0), scanner.skip):
    try:
        call()
    except (TypeError, AttributeError):
        pass
print("alive")
"""


def test_a_type_made_by_a_user_is_no_crash(core):
    assert run_python(core, MADE).strip() == "alive"


def test_structured_arrays_with_times_are_stored(et, tmp_path):
    array = np.zeros(3, dtype=[("at", "datetime64[ns]"), ("value", "<f8")])
    array["at"] = np.arange(3)
    with et.open(tmp_path / "s.tape", "a") as tape:
        tape.append(array)
        tape.append(array[0:0], timestamp=None)
    with et.open(tmp_path / "s.tape") as tape:
        assert [bytes(data) for _, data in tape] == [array.tobytes(), b""]
