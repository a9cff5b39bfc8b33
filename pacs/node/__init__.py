"""The node put together: the only place that knows settings and every part.

`compose` builds what the roles share, from plain values. Each role process composes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as distribution_version
from typing import Final

from inference.registry import Registry
from pacs.archive import Archive, Duplicates
from pacs.config import Config
from pacs.dimse import scu
from pacs.dimse.tls import Credentials
from pacs.index import Index, open_index
from pacs.peers import Echo, Peer, Peers
from pacs.projects import Project, project_key
from pacs.store import ObjectStore, open_store
from pacs.workflow import ModelRef, Plan, Workflow
from pacs.workitems import Workitems

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
    workitems: Workitems

    @property
    def archives(self) -> tuple[Archive, ...]:
        """The identified archive first, then those of the projects."""
        return (self.identified, *(project.archive for project in self.projects.values()))

    def echo(self, ae_title: str) -> Echo:
        """Ask a listed peer whether it is there. Raises Missing or BadQuery."""

        def ask(peer: Peer) -> None:
            scu.echo(scu.Peer.listed(peer, self.config.dimse.aet, self.credentials))

        return self.peers.echo(ae_title, ask)

    @property
    def credentials(self) -> Credentials:
        """What we show by TLS, and whom we trust."""
        dimse = self.config.dimse
        return Credentials(dimse.tls_certificate, dimse.tls_key, dimse.tls_ca)

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
    workflow = Workflow(index, identified, plan, quiet_s=config.study.quiet_s)
    peers = Peers(index, unknown_callers=config.dimse.unknown_callers)
    workitems = Workitems(index, identified.id, identified.name)
    return Node(config, index, identified, peers, projects, models, workflow, workitems)


def _archives(config: Config, index: Index) -> Callable[[str], Archive]:
    """Each archive lies below a prefix of its own, which no other can reach."""

    def archive(name: str) -> Archive:
        store: ObjectStore = open_store(config.store_url, name)
        return Archive(name, store, index, duplicates=Duplicates(config.duplicates))

    return archive
