"""The decoding process: it reads hostile bytes in native code, so it may break alone.

Started as `python -m pacs.decode.child` with a socket as its standard input. Once every codec is
imported it gives up what decoding does not need: it can open no file, socket or pipe any more
(there is no free descriptor), write nothing, start no process, and has a bounded address space.
CPU time is bounded per request. The pool bounds wall time, and kills.
"""

from __future__ import annotations

import logging
import resource
import socket
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final

from pacs.decode import codecs, encoders, wire
from pacs.decode.display import pictures
from pacs.decode.image import ImagePixel
from pacs.errors import BadObject

DESCRIPTORS: Final = 3  # standard input, output and error: the socket and twice nothing
REQUEST_BYTES_MAX: Final = 1 << 30  # frames of one request


def main() -> None:
    """Serve the pool until it hangs up."""
    logging.disable()
    warnings.simplefilter("ignore")
    for module in (codecs, encoders, pictures):
        module.load()
    connection = socket.socket(fileno=0)
    reader = wire.Reader(connection)
    head, _ = wire.receive(reader, parts_bytes_max=0)
    _give_up(int(head["memory_bytes_max"]))
    cpu_s_max = int(head["cpu_s_max"])
    while True:
        try:
            request, parts = wire.receive(reader, parts_bytes_max=REQUEST_BYTES_MAX)
        except EOFError:
            return
        _limit_cpu_time(cpu_s_max)
        wire.send(connection, *_answer(request, parts))


def _give_up(memory_bytes_max: int) -> None:
    """Lower every limit that decoding does not need; none can be raised again."""
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes_max),
        (resource.RLIMIT_NOFILE, DESCRIPTORS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _limit_cpu_time(seconds: int) -> None:
    """Let the kernel end this process when it has computed that much longer (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(
        resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, hard)
    )


def _answer(request: dict[str, Any], parts: list[bytes]) -> tuple[dict[str, object], list[bytes]]:
    try:
        return _TASKS[request["task"]](request, parts)
    except BadObject as error:
        return {"failed": wire.REFUSED, "sentence": error.message}, []
    except MemoryError:
        return {"failed": wire.MEMORY}, []


def _decoded(
    request: dict[str, Any], encoded: list[bytes]
) -> tuple[dict[str, object], list[bytes]]:
    frames: list[bytes] = []
    photometric_interpretation = ""
    image = ImagePixel(**request["image"])
    for frame in encoded:
        decoded, photometric_interpretation = codecs.decode(
            image, request["transfer_syntax_uid"], frame
        )
        frames.append(decoded)
    return {"photometric_interpretation": photometric_interpretation}, frames


def _encoded(request: dict[str, Any], native: list[bytes]) -> tuple[dict[str, object], list[bytes]]:
    image = ImagePixel(**request["image"])
    return {}, [encoders.encode(image, request["transfer_syntax_uid"], frame) for frame in native]


def _rendered(request: dict[str, Any], parts: list[bytes]) -> tuple[dict[str, object], list[bytes]]:
    return {}, pictures.rendered(request, parts)


_Task = Callable[[dict[str, Any], list[bytes]], tuple[dict[str, object], list[bytes]]]
_TASKS: Final[Mapping[str, _Task]] = {"decode": _decoded, "encode": _encoded, "render": _rendered}


if __name__ == "__main__":
    main()
