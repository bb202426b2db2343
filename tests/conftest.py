"""Both cores in one test run: every test that asks for `et` runs once per core, with the core's name in its id.

The package is loaded once per core. The compiled module can be initialised only once in a process, so the native copy
is the normal import and the pure one is made beside it, by importing the package again under EVTAPE_BACKEND=python.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from types import ModuleType

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "default",
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "long", hypothesis.settings.get_profile("default"), max_examples=2000, stateful_step_count=60
)
hypothesis.settings.load_profile(os.environ.get("EVTAPE_HYPOTHESIS", "default"))


# A shell starts what runs in the background with SIGINT ignored, and children inherit that; some tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _take_modules() -> dict[str, ModuleType]:
    """Remove every module of the package from sys.modules and return them."""
    names = [name for name in sys.modules if name == "evtape" or name.startswith("evtape.")]
    return {name: sys.modules.pop(name) for name in names}


def _load(core: str) -> dict[str, ModuleType]:
    """The package on one core, as its modules by name. sys.modules is left without them."""
    before = os.environ.get("EVTAPE_BACKEND")
    os.environ["EVTAPE_BACKEND"] = core
    try:
        package = importlib.import_module("evtape")
        assert package.backend == core
    finally:
        if before is None:
            del os.environ["EVTAPE_BACKEND"]
        else:
            os.environ["EVTAPE_BACKEND"] = before
    return _take_modules()


def _has_native() -> bool:
    """Whether the compiled core is installed, found out without importing the package."""
    package = importlib.util.find_spec("evtape")
    assert package is not None
    directories = [os.path.join(location, "core") for location in package.submodule_search_locations or ()]
    return importlib.machinery.PathFinder.find_spec("evtape.core.native", directories) is not None


assert "evtape" not in sys.modules, (
    "imported before conftest: the compiled core would keep the modules of that first import"
)
# An install without a compiler has no native core. Its tests are then not generated at all.
CORES = ["native", "python"] if _has_native() else ["python"]
_COPIES = {core: _load(core) for core in CORES}
sys.modules.update(_COPIES[CORES[0]])  # what `import evtape` means outside of the fixtures


@contextlib.contextmanager
def using(core: str) -> Iterator[ModuleType]:
    """Make one core's copy of the package the imported one, so that pickles and late imports resolve to it."""
    outer = _take_modules()
    sys.modules.update(_COPIES[core])
    try:
        yield _COPIES[core]["evtape"]
    finally:
        _COPIES[core].update(_take_modules())
        sys.modules.update(outer)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--core", choices=("native", "python"), help="run the tests of one core only")


def pytest_configure(config: pytest.Config) -> None:
    wanted = config.getoption("--core", default=None)
    if wanted is not None and wanted not in CORES:
        raise pytest.UsageError("--core native: the compiled core is not installed here")


def pytest_report_header(config: pytest.Config) -> str:
    return f"evtape: cores under test: {', '.join(_wanted(config))}" + (
        "" if "native" in CORES else " (no compiled core)"
    )


def _wanted(config: pytest.Config) -> list[str]:
    wanted = config.getoption("--core", default=None)
    return [wanted] if wanted else CORES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = _wanted(metafunc.config)
    if "et" in metafunc.fixturenames:
        metafunc.parametrize("et", wanted, indirect=True, ids=wanted)
    if "pair" in metafunc.fixturenames:  # one core writes, one reads
        pairs = [(one, other) for one in wanted for other in wanted]
        metafunc.parametrize("pair", pairs, indirect=True, ids=[f"{one}-{other}" for one, other in pairs])
    if "packages" in metafunc.fixturenames:  # every core there is, be it one
        metafunc.parametrize("packages", [wanted], indirect=True, ids=["+".join(wanted)])
    if "both" in metafunc.fixturenames:  # the same on both cores, compared
        lonely = pytest.mark.skipif(len(wanted) < 2, reason="comparing the cores needs both of them")
        metafunc.parametrize("both", [pytest.param(wanted, marks=lonely, id="+".join(wanted))], indirect=True)


@pytest.fixture
def et(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The package on the core of this test."""
    with using(request.param) as package:
        yield package


@pytest.fixture
def core(et: ModuleType) -> str:
    """The name of the core of this test, for the environment of a subprocess."""
    return et.backend


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> tuple[ModuleType, ModuleType]:
    """The package twice: on the core that writes and on the core that reads."""
    one, other = request.param
    return _COPIES[one]["evtape"], _COPIES[other]["evtape"]


@pytest.fixture
def both(request: pytest.FixtureRequest) -> list[ModuleType]:
    """The package on every core."""
    return [_COPIES[core]["evtape"] for core in request.param]


@pytest.fixture
def packages(request: pytest.FixtureRequest) -> dict[str, ModuleType]:
    """The package by the name of its core."""
    return {core: _COPIES[core]["evtape"] for core in request.param}
