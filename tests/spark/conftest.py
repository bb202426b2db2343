"""One session of Spark for all tests of this directory. `.ci/run spark` runs them; they need Java and pyspark."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

if importlib.util.find_spec("pyspark") is None or shutil.which("java") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """A session with two threads, whose workers run the native core."""
    from pyspark.sql import SparkSession

    import evtape.integrations.spark

    os.environ["PYSPARK_PYTHON"] = sys.executable  # else the workers are whatever python3 is
    builder = SparkSession.builder.master("local[2]").appName("evtape")
    for name, value in {
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.session.timeZone": "America/New_York",  # so that nothing depends on UTC by chance
        "spark.sql.shuffle.partitions": "2",
    }.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    evtape.integrations.spark.register(session)
    yield session
    session.stop()
