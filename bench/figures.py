"""What was measured, as a table for people and as JSON for programs."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, Final, Protocol

ROOT: Final = Path(__file__).parents[1]
SYNC_ROUNDS: Final = 40

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value and its yardstick, both in `unit`; 0 where there is no yardstick."""

    topic: str
    name: str
    value: float
    unit: str
    yardstick: float = 0.0

    @property
    def ratio(self) -> float | None:
        """The value over its yardstick: up to 1 for a rate, from 1 for a duration."""
        return self.value / self.yardstick if self.yardstick else None


class Topic(Protocol):
    """Something to measure; its fields say how much of it."""

    def measure(self, folder: Path, tell: Tell) -> Iterator[Figure]:
        """Measure in an empty folder, and tell what is being done."""


def table(figures: Sequence[Figure]) -> str:
    """The figures below a heading for each topic."""
    width = 2 + max((len(figure.name) for figure in figures), default=0)
    lines = []
    for topic, group in groupby(figures, key=lambda figure: figure.topic):
        lines.append(f"{topic:{width}}{'figure':>10}  {'unit':<11}{'yardstick':>10}{'ratio':>8}")
        lines += [_line(figure, width) for figure in group]
    return "\n".join(lines)


def _line(figure: Figure, width: int) -> str:
    line = f"{'  ' + figure.name:{width}}{_number(figure.value):>10}  {figure.unit:<11}"
    if figure.ratio is not None:
        line += f"{_number(figure.yardstick):>10}{_number(figure.ratio):>8}"
    return line.rstrip()


def _number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def report(figures: Sequence[Figure], *, quick: bool, sync_ms: float) -> dict[str, Any]:
    """Everything as JSON: when, which commit, what kind of machine, and the figures."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "quick": quick,
        "machine": {**machine(), "sync_ms": round(sync_ms, 3)},
        "figures": [_rounded(asdict(figure) | {"ratio": figure.ratio}) for figure in figures],
    }


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in fields.items()}


def file_name(report: dict[str, Any]) -> str:
    """The name of a report's file: its day and its commit."""
    return f"{report['at'][:10]}-{report['commit']}.json"


def commit() -> str:
    """The short hash of what was measured; `-dirty` where files differ from it."""
    wanted = ("describe", "--always", "--exclude=*", "--dirty")
    try:
        told = subprocess.run(
            ["git", *wanted],  # noqa: S607 - git, wherever it is
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def machine() -> dict[str, Any]:
    """What figures depend on, and nothing that tells whose machine it is."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "architecture": platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def sync_ms(folder: Path) -> float:
    """The median time to write and sync 4 KiB, in ms: near 0 where the disk is only memory."""
    took = []
    with (folder / "synced").open("wb", buffering=0) as file:
        for _ in range(SYNC_ROUNDS):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return median(took) * 1000


def tell(what: str = "") -> None:
    """What is being done: one line that is overwritten on a terminal, a line each elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{what}")
    elif what:
        sys.stderr.write(f"{what}\n")
    sys.stderr.flush()


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that a share of the values, 0 to 1, does not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]
