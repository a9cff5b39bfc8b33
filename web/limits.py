"""What one request may cost this node; each limit says what happens when it is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NUMBER_MAX: Final = (1 << 63) - 1  # of ids and places in the index; a larger one is refused: 400


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request body may hold, and where its parts wait."""

    part_header_bytes_max: int = 16 << 10  # longer headers of one part break the body: 400
    padding_bytes_max: int = 64 << 10  # so does more than this before the first or after the last
    parts_max: int = 100_000  # more parts: 413; those already answered for stay stored
    part_bytes_max: int = 8 << 30  # a longer part is read to its end, dropped and marked too long
    body_bytes_max: int = 1 << 40  # a longer body: 413
    metadata_bytes_max: int = 64 << 20  # of a body of metadata and bulk data; more: 413
    held_bytes_max: int = 16 << 30  # of bulk data that wait for their instance; more: 413
    unreadable_parts_max: int = 1_000  # where nothing else came; one more such part: 400
    chunk_wait_s_max: float = 30.0  # a body that pauses longer: 408
    rate_bytes_s_min: int = 1_024  # a body that comes slower than this: 408 ...
    rate_free_s: float = 60.0  # ... once it has been waited for so long
    memory_bytes_max: int = 8 << 20  # a longer part continues in a file of the spool folder
