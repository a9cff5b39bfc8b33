"""Who is told that a study is available: a job per peer, in the transaction of its completion.

What is due to be said is therefore never lost, and said again until the peer has taken it. The words
on the wire are those of `pacs/dimse/availability.py`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from pacs.index import jobs, parties
from pacs.index.parties import Right

NOTIFY: Final = "notify"


def announce(
    connection: Connection, archive_id: int, study_instance_uid: str, generation: int
) -> None:
    """Write a job for each peer that is notified; equal causes make no second one."""
    for peer in parties.listed(connection):
        if Right.NOTIFY not in peer.rights:
            continue
        jobs.enqueue(
            connection,
            key=f"{NOTIFY}/{peer.ae_title}/{archive_id}/{study_instance_uid}/{generation}",
            kind=NOTIFY,
            archive_id=archive_id,
            study_instance_uid=study_instance_uid,
            generation=generation,
            payload={"peer": peer.ae_title},
            attempts_max=jobs.DELIVERY_ATTEMPTS_MAX,
            lane=f"{NOTIFY}/{peer.ae_title}",
        )
