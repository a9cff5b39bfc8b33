"""`python -m bench`: measure, print the table, keep the figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench import figures
from bench.beside import Beside
from bench.figures import Figure, Topic
from bench.inference import Inference
from bench.ingest import Ingest
from bench.query import Query
from bench.web import Web
from pacs.errors import NodeError

RESULTS: Final = Path(__file__).parent / "results"

FULL: Final[Mapping[str, Topic]] = {
    "ingest": Ingest(instances=400, rounds=3),
    "query": Query(studies=20_000, requests=100),
    "inference": Inference(rounds=3),
    "web": Web(slices=200, rounds=3),
    "beside": Beside(studies=20_000, slices=200, requests=20),
}
QUICK: Final[Mapping[str, Topic]] = {
    "ingest": Ingest(instances=80, rounds=1),
    "query": Query(studies=2_000, requests=20),
    "inference": Inference(rounds=1),
    "web": Web(slices=20, rounds=1),
    "beside": Beside(studies=300, slices=20, requests=5),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for; the exit code."""
    options = _options(arguments)
    topics = QUICK if options.quick else FULL
    try:
        with TemporaryDirectory(prefix="isocenter-bench-", dir=options.folder) as name:
            report, table = _measured(topics, options, Path(name))
    except NodeError as error:
        figures.tell()
        sys.stderr.write(f"bench: {error}\n")
        return 1
    figures.tell()
    file = RESULTS / figures.file_name(report)
    file.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1) if options.json else table)
    sys.stderr.write(f"kept as bench/results/{file.name}\n")
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="|".join(FULL), help="default: all of them")
    parser.add_argument("--quick", action="store_true", help="less of everything, in a minute")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where node and yardstick write: on a disk, not in memory (default: the system's)",
    )
    options = parser.parse_args(arguments)
    options.topics = options.topics or list(FULL)
    for topic in options.topics:
        if topic not in FULL:
            parser.error(f"there is no topic {topic}; topics are {', '.join(FULL)}")
    return options


def _measured(
    topics: Mapping[str, Topic], options: argparse.Namespace, folder: Path
) -> tuple[dict[str, Any], str]:
    found: list[Figure] = []
    sync_ms = figures.sync_ms(folder)
    for topic in options.topics:
        work = folder / topic
        work.mkdir(exist_ok=True)
        found += topics[topic].measure(work, figures.tell)
    return figures.report(found, quick=options.quick, sync_ms=sync_ms), figures.table(found)


if __name__ == "__main__":
    sys.exit(main())
