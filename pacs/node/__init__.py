"""The node put together: the only place that knows settings and every part.

`compose` builds what the roles share, from plain values. Each role process composes its own.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Final

from inference.registry import Registry
from pacs.archive import Archive, Duplicates, Held
from pacs.availability import announce
from pacs.commitment import Commitments
from pacs.config import Config, Dimse
from pacs.decode import Decoder
from pacs.delivery import Outcome, Send
from pacs.dimse import scu, sending
from pacs.dimse.procedure_steps import tell
from pacs.dimse.tls import Credentials
from pacs.errors import Refused, Unavailable, Unreachable
from pacs.forwarding import Forwarding
from pacs.index import Index, open_index
from pacs.index.performed import Message
from pacs.peers import Address, Echo, Peer, Peers, addresses_of
from pacs.procedure_steps import ProcedureSteps
from pacs.procedure_steps import Send as Tell
from pacs.projects import Project, project_key
from pacs.store import ObjectStore, open_store
from pacs.workflow import ModelRef, Plan, Workflow
from pacs.workitems import Workitems
from pacs.worklist import Worklist

IDENTIFIED: Final = "identified"
ROLES: Final = ("dimse", "web", "worker")


def version() -> str:
    """This release, as the distribution says."""
    return distribution_version("isocenter")


@dataclass(frozen=True, slots=True)
class Node:
    """The parts that every role shares."""

    config: Config
    index: Index
    identified: Archive
    peers: Peers
    projects: Mapping[str, Project]
    models: Registry
    workflow: Workflow
    forwarding: Forwarding
    workitems: Workitems
    worklist: Worklist
    procedure_steps: ProcedureSteps
    commitments: Commitments

    @property
    def archives(self) -> tuple[Archive, ...]:
        """The identified archive first, then those of the projects."""
        return (self.identified, *(project.archive for project in self.projects.values()))

    def echo(self, ae_title: str) -> Echo:
        """Ask a listed peer whether it is there. Raises Missing or BadQuery."""

        def ask(peer: Peer) -> None:
            scu.echo(scu.Peer.listed(peer, self.config.dimse.aet, self.credentials))

        return self.peers.echo(ae_title, ask)

    def archive(self, name: str) -> Archive:
        """The archive of a name."""
        return next(archive for archive in self.archives if archive.name == name)

    def sender(self, decoder: Decoder) -> Send:
        """What sends instances to a peer as we do, decoding what it does not take as it is."""

        def send(
            archive: Archive, peer: Peer, held: Sequence[Held], halt: threading.Event
        ) -> Generator[Outcome | None, None, None]:
            called = scu.Peer.listed(peer, self.config.dimse.aet, self.credentials)
            supply = sending.Supply(archive, decoder, self.spool)
            return sending.sent(sending.batches_to(called, supply, held), halt)

        return send

    @property
    def credentials(self) -> Credentials:
        """What we show by TLS, and whom we trust."""
        return _credentials(self.config)

    @property
    def spool(self) -> Path:
        """Where what arrives waits. Its files have no names: a crash leaves none behind."""
        folder = self.config.data / "spool"
        folder.mkdir(exist_ok=True)
        return folder

    def close(self) -> None:
        """Close every connection."""
        self.index.close()


def compose(config: Config) -> Node:
    """Open store and index and build everything on them. Raises NodeError."""
    config.data.mkdir(parents=True, exist_ok=True)
    index = open_index(config.index_url)
    archive = _archives(config, index)
    identified = archive(IDENTIFIED)
    projects = {
        name: Project(name, archive(f"project-{name}"), project_key(config.data / "keys", name))
        for name in config.projects
    }
    models = Registry(config.models_folder)
    plan = Plan(
        tuple(ModelRef(model.id, model.version, model.sha256) for model in models.list()),
        tuple(projects),
    )
    forwarding = Forwarding(
        index,
        identified,
        {name: project.archive for name, project in projects.items()},
        is_us=partial(is_us, config.dimse),
    )
    peers = Peers(index, unknown_callers=config.dimse.unknown_callers)
    workflow = Workflow(
        index,
        identified,
        plan,
        quiet_s=config.study.quiet_s,
        consequences=[
            forwarding.on_complete,
            lambda connection, study: steps.tell_gaps(connection, study.study_instance_uid),
            lambda connection, done: announce(
                connection, done.archive_id, done.study_instance_uid, done.generation
            ),
        ],
    )
    steps = ProcedureSteps(
        index, identified.id, complete=workflow.complete, send=_teller(config, peers)
    )
    worklist = Worklist(
        index, leaves_at=config.worklist.leaves_at, kept_days=config.worklist.kept_days
    )
    workitems = Workitems(index, identified.id, identified.name)
    return Node(
        config=config,
        index=index,
        identified=identified,
        peers=peers,
        projects=projects,
        models=models,
        workflow=workflow,
        forwarding=forwarding,
        workitems=workitems,
        worklist=worklist,
        procedure_steps=steps,
        commitments=Commitments(identified),
    )


def is_us(dimse: Dimse, peer: Peer) -> bool:
    """Whether a peer is our own DIMSE door, by title and address, as far as this machine can tell."""
    if peer.ae_title != dimse.aet or peer.port not in (dimse.port, dimse.tls_port):
        return False
    try:
        return any(_is_local(address) for address in addresses_of(peer.host))
    except Unreachable:
        return False  # a host that nobody knows now is not where we are


def _is_local(address: Address) -> bool:
    """Whether this machine has an address: only then may a socket be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.bind((str(address), 0))
    except OSError:
        return False
    return True


def _teller(config: Config, peers: Peers) -> Tell:
    """Tells peers of procedure steps, and notes at the peer why one could not be told."""

    def send(peer: Peer, uid: str, message: Message, is_repeat: bool) -> None:
        called = scu.Peer.listed(peer, config.dimse.aet, _credentials(config))
        try:
            tell(called, uid, message, is_repeat)
        except (Refused, Unavailable) as error:
            peers.note(peer.ae_title, error.message)
            raise

    return send


def _credentials(config: Config) -> Credentials:
    dimse = config.dimse
    return Credentials(dimse.tls_certificate, dimse.tls_key, dimse.tls_ca)


def _archives(config: Config, index: Index) -> Callable[[str], Archive]:
    """Each archive lies below a prefix of its own, which no other can reach."""

    def archive(name: str) -> Archive:
        store: ObjectStore = open_store(config.store_url, name)
        return Archive(
            name,
            store,
            index,
            duplicates=Duplicates(config.duplicates),
            recycle_s=config.recycle_s,
        )

    return archive
