"""Times on the command line: distances from now, local times, and numbers in another unit than nanoseconds."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import evtape

pytest.importorskip("click")
pytest.importorskip("rich")
pytest.importorskip("dateparser")

from evtape.cli import _times
from evtape.core import times

NOW = dt.datetime(2026, 11, 25, 1, 30, 15, 123456, tzinfo=dt.UTC)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is that of Berlin: UTC+1, in summer UTC+2."""
    if not hasattr(time, "tzset"):
        pytest.skip("the time zone of this process cannot be set")
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def understood(text: str, now: dt.datetime = NOW) -> str:
    return times.iso(_times.understand(text, now))


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("now", "2026-11-25T01:30:15.123456000Z"),
        ("-1h", "2026-11-25T00:30:15.123456000Z"),
        ("1h", "2026-11-25T00:30:15.123456000Z"),
        ("1 hour ago", "2026-11-25T00:30:15.123456000Z"),
        ("-1h30m", "2026-11-25T00:00:15.123456000Z"),
        ("+1h", "2026-11-25T02:30:15.123456000Z"),
        ("in 5 minutes", "2026-11-25T01:35:15.123456000Z"),
        (" 10 min ago ", "2026-11-25T01:20:15.123456000Z"),
        ("10 MIN AGO", "2026-11-25T01:20:15.123456000Z"),
        ("-30s", "2026-11-25T01:29:45.123456000Z"),
        ("-2d", "2026-11-23T01:30:15.123456000Z"),
        ("2 weeks ago", "2026-11-11T01:30:15.123456000Z"),
        ("today", "2026-11-24T23:00:00.000000000Z"),  # local midnight
        ("yesterday", "2026-11-23T23:00:00.000000000Z"),
        ("Tomorrow", "2026-11-25T23:00:00.000000000Z"),
        ("yesterday 14:00", "2026-11-24T13:00:00.000000000Z"),  # 02:30 on the 25th here, so the 24th
        ("yesterday at 2pm", "2026-11-24T13:00:00.000000000Z"),
        ("2 days ago 10:00", "2026-11-23T09:00:00.000000000Z"),
    ],
)
def test_relative(text: str, when: str) -> None:
    assert understood(text) == when


@pytest.mark.usefixtures("berlin")
def test_a_distance_is_not_changed_by_the_clocks() -> None:
    spring = dt.datetime(2026, 3, 29, 1, 30, tzinfo=dt.UTC)  # half an hour after 02:00 became 03:00
    assert understood("-1h", spring) == "2026-03-29T00:30:00.000000000Z"
    assert understood("3 hours ago", spring) == "2026-03-28T22:30:00.000000000Z"
    assert understood("today", spring) == "2026-03-28T23:00:00.000000000Z"
    assert understood("tomorrow", spring) == "2026-03-29T22:00:00.000000000Z"
    autumn = dt.datetime(2026, 10, 25, 1, 30, tzinfo=dt.UTC)
    assert understood("-1h", autumn) == "2026-10-25T00:30:00.000000000Z"
    assert understood("today", autumn) == "2026-10-24T22:00:00.000000000Z"


@pytest.mark.usefixtures("berlin")
def test_a_time_without_a_zone_is_local() -> None:
    assert understood("2026-11-22T20:59:01.123456789") == "2026-11-22T19:59:01.123456789Z"
    assert understood("2026-07-01 12:00") == "2026-07-01T10:00:00.000000000Z"
    assert understood("2026-11-22") == "2026-11-21T23:00:00.000000000Z"
    assert understood("2026-10-25 02:30") == "2026-10-25T00:30:00.000000000Z"  # it happens twice: the earlier one
    assert understood("2026-11-22T20:59:01Z") == "2026-11-22T20:59:01.000000000Z"
    assert understood("2026-11-22T20:59:01-05:00") == "2026-11-23T01:59:01.000000000Z"
    with pytest.raises(ValueError, match="no zone"):  # what another program wrote is not local to this machine
        _times.parse("2026-11-22T20:59:01")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "July 4",
        "03/04/2026",
        "12:30",
        "monday",
        "5 apples ago",
        "2026-13-01T00:00Z",
        "2026-11-22T25:00",
        "10 min ago or so",
        "99999999999 years ago",
        "\x1b[31m",
        "h" * 10_000,
    ],
)
def test_what_is_not_a_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time; give"):
        _times.understand(text, NOW)


@pytest.mark.parametrize("text", ["in 300 years", "9999-01-01", "1600-01-01T00:00Z", "500 years ago", str(2**63)])
def test_what_is_out_of_range(text: str) -> None:
    with pytest.raises(ValueError, match="outside int64"):
        _times.understand(text, NOW)


@pytest.mark.parametrize(
    ("number", "unit", "advice"),
    [
        ("1795381141", "seconds", "1795381141000000000 or 2026-11-22T20:59:01.000000000Z"),
        ("1000000000", "seconds", "2001-09-09T01:46:40.000000000Z"),
        ("9223372036", "seconds", "9223372036000000000"),
        ("1795381141123", "milliseconds", "1795381141123000000 or 2026-11-22T20:59:01.123000000Z"),
        ("1795381141123456", "microseconds", "1795381141123456000 or 2026-11-22T20:59:01.123456000Z"),
        ("1795381141.25", "seconds", "1795381141250000000 or 2026-11-22T20:59:01.250000000Z"),
    ],
)
def test_numbers_in_another_unit(number: str, unit: str, advice: str) -> None:
    with pytest.raises(ValueError, match=f"{number} looks like {unit} since 1970") as caught:
        _times.understand(number)
    message = str(caught.value)
    assert advice in message
    for word in message.replace(",", "").replace(")", "").split():  # what it says to write is taken
        if word[:2].isdecimal() and word != number:
            _times.understand(word)


@pytest.mark.parametrize("value", [0, 1, 999_999_999, 9_999_999_999, 10**11, 10**17, 10**18 + 1, -1_795_381_141])
def test_numbers_of_nanoseconds(value: int) -> None:
    assert _times.understand(str(value)) == value


def run(*arguments: object, before: str = "", after: str = "") -> subprocess.CompletedProcess[str]:
    program = f"import sys; {before}\nfrom evtape.cli import run\ncode = run(sys.argv[1:])\n{after}\nsys.exit(code)"
    env = os.environ | {"PYTHONPATH": str(Path(evtape.__file__).parents[1])}
    argv = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, env=env, check=False, timeout=60)


def test_options(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    now = time.time_ns()
    with evtape.open(path, "x") as tape:
        tape.append_many([b"0", b"1", b"2"], [now - 7200 * 10**9, now - 1800 * 10**9, now + 7200 * 10**9])
    for options, ordinals in [
        (["--since", "-1h"], [1, 2]),
        (["--from", "1 hour ago", "--until", "now"], [1]),
        (["--to", "10 min ago"], [0, 1]),
    ]:
        done = run("cat", "--json", path, *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert [json.loads(line)["ordinal"] for line in done.stdout.splitlines()] == ordinals
    done = run("cat", path, "--since", "1795381141")
    assert done.returncode == 2
    assert "1795381141 looks like seconds" in done.stderr


def test_dateparser_is_imported_when_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    evtape.open(path, "x").close()
    after = "print('dateparser' in sys.modules)"
    for text, used in [("2026-11-22", "False"), ("0", "False"), ("yesterday", "False"), ("-1h", "True")]:
        assert run("cat", path, "--from", text, after=after).stdout.split() == [used]
    done = run("cat", path, "--from", "-1h", before="sys.modules['dateparser'] = None")
    assert done.returncode == 2
    assert "needs dateparser; run: pip install 'evtape[cli]'" in done.stderr
