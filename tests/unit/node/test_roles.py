"""What a role says when something breaks, and how it ends when its supervisor is gone."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from pacs.config import Config
from pacs.node.doors import open_doors
from pacs.node.roles import Discreet, _every

PATIENT = "Canary^Carla"


# What a process that logs as a role does may say, with a patient's name in every word it says.
EVERYTHING_BREAKS = f"""
import logging, threading, warnings
from pacs.node.roles import prepare_logging
prepare_logging("web", "info")
for library in ("pydicom", "pynetdicom.x", "highdicom", "urllib3.connectionpool"):
    logging.getLogger(library).error({PATIENT!r})
warnings.warn({PATIENT!r})
logging.getLogger("uvicorn.error").warning({PATIENT!r})
def break_it():
    raise ValueError({PATIENT!r})
thread = threading.Thread(target=break_it)
thread.start()
thread.join()
break_it()
"""


def test_a_bug_is_loud_and_nobody_is_quoted() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", EVERYTHING_BREAKS], capture_output=True, text=True, check=False
    )
    thread, main = ended.stderr.splitlines()
    assert "web CRITICAL pacs.node.roles a bug ended a thread ValueError at " in thread
    assert "web CRITICAL pacs.node.roles a bug ended us ValueError at " in main
    assert "break_it" not in ended.stdout
    assert PATIENT not in ended.stderr
    assert ended.returncode == 1


def test_a_record_is_one_line_whatever_it_holds() -> None:
    try:
        raise ValueError(PATIENT) from KeyError(PATIENT)
    except ValueError as error:
        record = logging.LogRecord("some", 30, "", 1, "a\nb\x1b[31m", (), _exc_info(error))
    said = Discreet("%(message)s").format(record)
    assert said.startswith("a b [31m ValueError at test_roles.py:")
    assert said.isprintable()
    assert PATIENT not in said


def _exc_info(error: Exception) -> tuple[type[Exception], Exception, TracebackType | None]:
    return type(error), error, error.__traceback__


def test_a_sweep_is_due_once_an_interval_the_first_time_after_one() -> None:
    calls: list[int] = []

    def sweep() -> int:
        calls.append(1)
        return 7

    rare, always = _every(60, sweep), _every(0, sweep)
    assert [rare(), always(), always()] == [0, 7, 7]
    assert len(calls) == 2


def test_a_formatter_of_no_exception_says_so() -> None:
    assert Discreet().formatException((None, None, None)) == "no exception at "


def _role(data: Path) -> subprocess.Popen[bytes]:
    """A worker whose supervisor we are."""
    role = subprocess.Popen(
        [sys.executable, "-m", "pacs.node.roles", "worker"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert role.stdin is not None
    config, doors = open_doors(Config(data=data), ["worker"])
    role.stdin.write(f"{config.model_dump_json()}\n{doors.told('worker', 0)}\n".encode())
    role.stdin.flush()
    return role


def test_a_role_ends_with_its_supervisor(tmp_path: Path) -> None:
    with _role(tmp_path) as role:
        assert role.stdin is not None
        role.stdin.close()
        assert role.wait(20) in (0, 1)


def test_a_role_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "demo.key").write_bytes(b"short")
    with _role(tmp_path) as role:
        _, said = role.communicate(timeout=20)
    assert role.returncode == 1
    assert said.count(b"\n") == 1
    assert b"worker ERROR __main__ cannot start: the key of a project is damaged" in said


def test_settings_with_secrets_do_not_stand_on_the_command_line(tmp_path: Path) -> None:
    with _role(tmp_path) as role:
        words: list[bytes] = []
        while len(words) < 2:  # until it is the new programme, the kernel shows no words
            words = Path(f"/proc/{role.pid}/cmdline").read_bytes().split(b"\0")
        role.terminate()
        role.communicate()
    assert words[1:] == [b"-m", b"pacs.node.roles", b"worker", b""]
