"""Research projects: from the identified archive, through de-identification, into their own.

A release reads each received instance of a study, has it cleaned under the project's key, and
stores the copy in the project's archive. Keys and derived UIDs make it repeatable: released again,
every copy is the same data set, and nothing changes. What cannot be cleaned is withheld; the job
tells how many and why, never whose.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pacs.access import Actor
from pacs.archive import Archive, Incoming, Instance, Scope
from pacs.deid import BASIC, REASONS, Policy, Withheld, deidentify
from pacs.dicom.data_sets import read_data_set, written
from pacs.dicom.part10 import IMPLICIT_VR_LITTLE_ENDIAN
from pacs.errors import BadObject, Broken
from pacs.index import jobs
from pacs.index.jobs import Job
from pacs.worker import End

KEY_BYTES: Final = 32  # of a project's secret; it is made once and never changed
UNDECODABLE: Final = "undecodable"

NODE: Final = Actor("node", "release")


@dataclass(frozen=True, slots=True)
class Project:
    """One research project: its archive, its policy and its secret key."""

    name: str
    archive: Archive
    key: bytes
    policy: Policy = BASIC


def project_key(folder: Path, project: str) -> bytes:
    """The secret of a project, made at its first use. It lies outside the index, on purpose.

    Whoever has key and copy can link a person to the copy; destroying the key closes the project.
    """
    path = folder / f"{project}.key"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _make_key(path)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise Broken("the key of a project is damaged; restore it from a backup")
    return key


def _make_key(path: Path) -> None:
    """Make a key, whole or not at all: a process killed meanwhile leaves no half of one.

    Of two processes that make it at once, the first to link it wins, and both then read it.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # mode 0600
        file.write(secrets.token_bytes(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(file.name)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Releases:
    """The handler of `release` jobs."""

    def __init__(self, identified: Archive, projects: dict[str, Project]) -> None:
        self._identified = identified
        self._projects = projects

    def handle(self, job: Job) -> End:
        """Release one study to one project. Raises NodeError."""
        project = self._projects[job.payload["project"]]
        instances = self._identified.retrieve(NODE, Scope(job.study_instance_uid))
        received = [instance for instance in instances if not instance.made_by]
        withheld = Counter(filter(None, (self._release(one, project) for one in received)))
        return _end(len(received), withheld)

    def _release(self, instance: Instance, project: Project) -> str:
        """Release one instance; why it is withheld, or nothing."""
        syntax = instance.transfer_syntax_uid
        try:
            original = read_data_set(self._identified.data_set(instance), syntax)
            cleaned = deidentify(original, project.policy, project.key)
            copy = written(cleaned.data_set, _kept_syntax(original.original_encoding, syntax))
        except Withheld as reason:
            return reason.code
        except BadObject:
            return UNDECODABLE
        project.archive.store(NODE, Incoming(copy, syntax))
        return ""


def _kept_syntax(encoding: tuple[bool | None, bool | None], syntax: str) -> str:
    """The copy is written as the original was, also where that is not what it declares."""
    return IMPLICIT_VR_LITTLE_ENDIAN if encoding[0] else syntax


def _end(received: int, withheld: Counter[str]) -> End:
    held_back = sum(withheld.values())
    sentence = f"{received - held_back} of {received} instances released."
    if not withheld:
        return End(reason=sentence)
    reasons = " ".join(
        f"{number} withheld: {REASONS[code]}" for code, number in sorted(withheld.items())
    )
    state = jobs.SUCCEEDED if received > held_back else jobs.SKIPPED
    return End(state, min(withheld), f"{sentence} {reasons}")
