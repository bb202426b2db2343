"""The description of the machine in a result. It identifies neither the machine nor its user."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

# File systems in memory: a flush returns at once, and nothing on them is durable.
NO_FLUSH = {"tmpfs", "ramfs"}


def no_flush_warning(kind: str) -> str:
    return f"The streams are on {kind}, which has no disk to flush to: the section `durable` measured nothing durable."


def read_field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def cpu_model() -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return read_field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def file_system(directory: Path) -> str:
    """The type of the file system that contains `directory`: the mount with the longest matching prefix."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return kind
    for line in mounts:
        _device, point, found, *_rest = line.split()
        inside = str(directory.resolve()) == point or str(directory.resolve()).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def evtape_about() -> dict[str, str]:
    """Runs in its own process, because the environment chooses the core."""
    code = "import evtape; print(evtape.backend); print(getattr(evtape, '__version__', 'unknown'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"core": "not importable", "version": "unknown"}
    core, version = done.stdout.split()
    return {"core": core, "version": version}


def describe(directory: Path) -> dict[str, Any]:
    memory_kb = read_field("/proc/meminfo", "MemTotal").split()
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(int(memory_kb[0]) / (1 << 20), 1) if memory_kb else None,
        "architecture": platform.machine(),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "file_system": file_system(directory),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "evtape": evtape_about(),
    }
