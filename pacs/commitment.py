"""Storage commitment: a promise about named instances, given to peers and asked of them.

As an SCP (PS3.4 J.3) a request is rows and a job before it is answered. A worker reads every byte
of each instance again, in slices, so that a long request neither delays another peer's nor starts
anew after a restart; what became of them is then reported until the peer confirms that it knows.
As an SCU a request is a row that waits for the peer's report, and is told as unconfirmed if none
comes. The words on the wire are those of `pacs/dimse/commitment.py`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection

from pacs.access import Actor
from pacs.archive import Archive
from pacs.dicom.uids import derived_uid
from pacs.errors import BadQuery, Broken, Exhausted, Missing, Unavailable
from pacs.index import audit, commitments, jobs
from pacs.index.commitments import (
    ASKED,
    CHECKING,
    COMMITTED,
    CONFIRMED,
    FAILED,
    REPORTED,
    REPORTING,
    SCP,
    SCU,
    STATES,
    UNDELIVERED,
    Commitment,
    Reference,
)
from pacs.index.jobs import Job

__all__ = ["ASK", "CHECK", "REPORT", "STATES", "Commitment", "Commitments", "Reference"]

REFERENCES_MAX: Final = 50_000  # instances of one request; one with more is refused (0213)
REQUESTS_OPEN_MAX: Final = 2_000  # requests of one peer whose reports are not delivered; more: 0213
REFERENCES_OPEN_MAX: Final = 1_000_000  # and the instances they name; more: 0213
BATCH: Final = 100  # verdicts written in one transaction
SLICE_S: Final = 10.0  # of checking in one job; what is left becomes the next one
UNCONFIRMED_S: Final = 86_400.0  # a peer that has not reported by then has not confirmed
KEPT_S: Final = 90 * 86_400.0  # requests are listed for so long, then forgotten
LISTED_MAX: Final = 1_000  # requests of one page

CHECK, REPORT, ASK = "commit-check", "commit-report", "commit-ask"
NODE: Final = Actor("node", "commitment")

# Failure reasons (PS3.3 C.14.1.1).
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
DUPLICATE_TRANSACTION: Final = 0x0131
RESOURCE_LIMITATION: Final = 0x0213

log = logging.getLogger(__name__)


class Commitments:
    """The promises about the instances of one archive, and those of peers about what they got."""

    def __init__(self, archive: Archive, *, patience_s: float = UNCONFIRMED_S) -> None:
        self._archive = archive
        self._index = archive.index
        self._patience_s = patience_s

    # as an SCP

    def request(self, actor: Actor, transaction_uid: str, references: Iterable[Reference]) -> None:
        """Take a peer's request; it would survive a power cut when this returns. Audited.

        A request that is open and asked again is the same one. Another under a Transaction UID that
        is in use will be reported on as such, instance by instance (0131). Raises Exhausted.
        """
        wanted = tuple(dict.fromkeys(references))
        if len(wanted) > REFERENCES_MAX:
            raise Exhausted("the request names too many instances", instances_max=REFERENCES_MAX)
        with self._index.write() as connection:
            if not self._enter(connection, actor.name, transaction_uid, wanted):
                return
            requests, named = commitments.open_for(connection, SCP, actor.name)
            if requests > REQUESTS_OPEN_MAX or named > REFERENCES_OPEN_MAX:
                raise Exhausted("too many requests of this peer wait", requests=requests)
            self._audit(connection, actor, "commit", "asked", transaction_uid, len(wanted))

    def _enter(
        self,
        connection: Connection,
        ae_title: str,
        transaction_uid: str,
        wanted: Sequence[Reference],
    ) -> bool:
        """Make the rows of a request and its job; False if it was made before."""
        commitment_id, is_new = self._add(connection, SCP, ae_title, transaction_uid, wanted)
        if not is_new:
            known = commitments.instances_of(connection, commitment_id)
            if _named(known) == _named(wanted):
                return False
            refused = [
                Reference(one.sop_class_uid, one.sop_instance_uid, DUPLICATE_TRANSACTION)
                for one in wanted
            ]
            commitment_id, is_new = self._add(
                connection, SCP, ae_title, transaction_uid, refused, suffix=f"/{_digest(wanted)}"
            )
        if is_new:
            self._go_on(connection, ae_title, commitment_id, CHECKING, CHECK)
        return is_new

    def _add(
        self,
        connection: Connection,
        role: str,
        ae_title: str,
        transaction_uid: str,
        wanted: Sequence[Reference],
        *,
        suffix: str = "",
    ) -> tuple[int, bool]:
        return commitments.add(
            connection,
            self._archive.id,
            role=role,
            ae_title=ae_title,
            transaction_uid=transaction_uid,
            wanted=wanted,
            state=CHECKING if role == SCP else ASKED,
            suffix=suffix,
        )

    def _go_on(
        self,
        connection: Connection,
        ae_title: str,
        commitment_id: int,
        state: str,
        kind: str,
        step: int = 1,
    ) -> None:
        """Write the job that carries a request on, in the caller's transaction."""
        key = f"{kind}/{commitment_id}/{step}"
        jobs.enqueue(
            connection,
            key=key,
            kind=kind,
            archive_id=self._archive.id,
            study_instance_uid="",
            generation=0,
            payload={"commitment": commitment_id, "peer": ae_title, "step": step},
            attempts_max=jobs.DELIVERY_ATTEMPTS_MAX,
            lane=f"commitment/{ae_title}",
        )
        commitments.carry_on(connection, commitment_id, state, key)

    def check(self, job: Job) -> None:
        """The handler of `commit-check`: judge instances for a while, then write the next job.

        Raises Unavailable while store or index do not answer, but not for ever: an instance that
        could not be read in jobs.ATTEMPTS_MAX attempts fails for want of resources (0213).
        """
        commitment_id, until = int(job.payload["commitment"]), time.monotonic() + SLICE_S
        ae_title = str(job.payload["peer"])
        is_last_try = job.attempts >= jobs.ATTEMPTS_MAX
        has_more = self._judge_some(commitment_id, until, is_last_try=is_last_try)
        while has_more and time.monotonic() < until:
            has_more = self._judge_some(commitment_id, until, is_last_try=is_last_try)
        with self._index.write() as connection:
            jobs.finish(connection, job, jobs.SUCCEEDED)
            if has_more:
                step = int(job.payload["step"]) + 1
                self._go_on(connection, ae_title, commitment_id, CHECKING, CHECK, step)
            else:
                self._go_on(connection, ae_title, commitment_id, REPORTING, REPORT)

    def _judge_some(self, commitment_id: int, until: float, *, is_last_try: bool) -> bool:
        """Judge the next instances, one at least, until a moment; False if there are none."""
        with self._index.read() as connection:
            batch = commitments.unjudged(connection, commitment_id, BATCH)
        verdicts: dict[int, int] = {}
        for row_id, reference in batch:
            verdicts[row_id] = self._verdict(reference, is_last_try=is_last_try)
            if time.monotonic() > until:
                break
        with self._index.write() as connection:
            commitments.judge(connection, verdicts)
        return bool(batch)

    def _verdict(self, reference: Reference, *, is_last_try: bool) -> int:
        """The failure reason of an instance whose every byte is read again; 0 for none."""
        try:
            sop_class_uid = self._archive.prove(NODE, reference.sop_instance_uid)
        except Missing:
            return NO_SUCH_INSTANCE
        except Broken as error:
            log.error("an instance cannot be committed to: %s", error, extra={"facts": error.facts})
            return PROCESSING_FAILURE
        except Unavailable:
            if is_last_try:
                return RESOURCE_LIMITATION
            raise
        return COMMITTED if sop_class_uid == reference.sop_class_uid else CLASS_INSTANCE_CONFLICT

    def to_report(self, job: Job) -> tuple[Commitment, list[Reference]] | None:
        """The request that a job is to report on, with its verdicts; None once that was done."""
        return self._of_job(job, REPORTING)

    def is_still_ours(self, job: Job) -> bool:
        """Whether the report is still to be sent, asked when the line to the peer stands.

        Raises Conflict where another worker has taken the job over, and does so itself.
        """
        with self._index.write() as connection:
            jobs.renew(connection, job)
        return self._of_job(job, REPORTING) is not None

    def reported(self, commitment: Commitment) -> None:
        """Note that a peer has confirmed our report, whoever holds the job by now. Audited."""
        with self._index.write() as connection:
            if commitments.end(connection, commitment.id, REPORTED):
                self._audit_end(connection, NODE, commitment, "report commitment", REPORTED)

    # as an SCU

    def ask(
        self,
        connection: Connection,
        ae_title: str,
        references: Iterable[Reference],
        *,
        cause: str = "",
    ) -> str:
        """Have a peer asked to commit to instances, in the caller's transaction; Transaction UID.

        `cause` names what led to it, or it is the list itself: an equal cause asks once. Raises
        BadQuery for no instances or too many.
        """
        wanted = tuple(dict.fromkeys(references))
        if not 1 <= len(wanted) <= REFERENCES_MAX:
            raise BadQuery("a request names one instance or more", instances_max=REFERENCES_MAX)
        transaction_uid = derived_uid(
            "commitment", self._archive.name, ae_title, cause or _digest(wanted)
        )
        if commitments.newest(connection, SCU, ae_title, transaction_uid) is None:
            commitment_id, is_new = self._add(connection, SCU, ae_title, transaction_uid, wanted)
            if is_new:
                self._go_on(connection, ae_title, commitment_id, ASKED, ASK)
        return transaction_uid

    def request_commitment(
        self, ae_title: str, references: Iterable[Reference], *, cause: str = ""
    ) -> str:
        """The same in a transaction of its own."""
        with self._index.write() as connection:
            return self.ask(connection, ae_title, references, cause=cause)

    def ask_all(self, ae_title: str, pairs: Sequence[tuple[str, str]]) -> None:
        """The same by SOP class and instance UID, in as many requests as it takes."""
        for start in range(0, len(pairs), REFERENCES_MAX):
            some = [Reference(*pair) for pair in pairs[start : start + REFERENCES_MAX]]
            self.request_commitment(ae_title, some)

    def to_ask(self, job: Job) -> tuple[Commitment, list[Reference]] | None:
        """The request that a job is to send, with its instances; None once it was reported on."""
        return self._of_job(job, ASKED)

    def confirm(
        self, actor: Actor, transaction_uid: str, verdicts: Mapping[tuple[str, str], int]
    ) -> str:
        """Take a peer's report: failure reasons, 0 for none, by SOP class and instance UID.

        What it does not name is not committed. The state that the request is in then; a report that
        comes again changes nothing. Raises Missing where nothing was asked under this UID. Audited.
        """
        with self._index.write() as connection:
            asked = commitments.newest(connection, SCU, actor.name, transaction_uid)
            if asked is None:
                raise Missing("no request with this Transaction UID waits for a report")
            if asked.ended_at is not None or _is_of_a_repeat(verdicts):
                return asked.state
            commitments.judge_named(connection, asked.id, verdicts)
            known = commitments.instances_of(connection, asked.id)
            missed = sum(one.failure_reason is None for one in known)
            is_whole = all(one.failure_reason == COMMITTED for one in known)
            state = CONFIRMED if is_whole else FAILED
            reason = f"The report does not name {missed} of the instances." if missed else ""
            commitments.end(connection, asked.id, state, reason=reason)
            self._audit_end(connection, actor, asked, "confirm commitment", state)
        return state

    # in both roles

    def _of_job(self, job: Job, state: str) -> tuple[Commitment, list[Reference]] | None:
        with self._index.read() as connection:
            found = commitments.find(connection, int(job.payload["commitment"]))
            if found is None or found.state != state:
                return None
            return found, commitments.instances_of(connection, found.id)

    def outstanding(
        self, *, role: str = "", state: str = "", limit: int = 100, cursor: int = 0
    ) -> list[Commitment]:
        """Requests, newest first; those with ids below cursor. Raises BadQuery."""
        if role not in ("", SCP, SCU) or state not in ("", *STATES):
            raise BadQuery(f"a role is {SCP} or {SCU}; a state is one of {', '.join(STATES)}")
        with self._index.read() as connection:
            return commitments.listed(
                connection, role=role, state=state, limit=min(limit, LISTED_MAX), cursor=cursor
            )

    def expire(self) -> int:
        """Say of what waited too long that it did, and forget what is old; how many requests."""
        with self._index.write() as connection:
            lost = commitments.given_up(connection)
            for commitment, reason in lost:
                if commitment.role == SCP:
                    commitments.end(connection, commitment.id, UNDELIVERED, reason=reason)
                    self._audit_end(connection, NODE, commitment, "report commitment", UNDELIVERED)
                else:
                    commitments.unconfirm(connection, commitment.id, reason)
            late = commitments.overdue(connection, self._patience_s)
            for commitment_id in late:
                commitments.unconfirm(connection, commitment_id, "The peer has sent no report.")
            return len(lost) + len(late) + commitments.forget(connection, KEPT_S)

    def _audit_end(
        self,
        connection: Connection,
        actor: Actor,
        commitment: Commitment,
        action: str,
        outcome: str,
    ) -> None:
        uid, number = commitment.transaction_uid, commitment.instances
        self._audit(connection, actor, action, outcome, uid, number)

    def _audit(
        self,
        connection: Connection,
        actor: Actor,
        action: str,
        outcome: str,
        transaction_uid: str,
        number: int,
    ) -> None:
        subject = {"transaction": transaction_uid, "instances": number}
        audit.append(
            connection, actor, action, archive=self._archive.name, outcome=outcome, subject=subject
        )


def _named(references: Iterable[Reference]) -> set[tuple[str, str]]:
    return {(one.sop_class_uid, one.sop_instance_uid) for one in references}


def _digest(references: Iterable[Reference]) -> str:
    """What tells one list of instances from another."""
    running = hashlib.sha256()
    for pair in sorted(_named(references)):
        running.update("\0".join((*pair, "")).encode())
    return running.hexdigest()[:16]


def _is_of_a_repeat(verdicts: Mapping[tuple[str, str], int]) -> bool:
    """Whether a report only says that the Transaction UID was sent before: the first one stands."""
    return bool(verdicts) and set(verdicts.values()) == {DUPLICATE_TRANSACTION}
