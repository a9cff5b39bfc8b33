"""What the HTTP door is put together from.

`pacs.node` builds the parts and hands them over; no module of the door reads configuration or
opens anything by itself. Every router of the door is a function of these parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from inference.registry import Registry
from pacs.archive import Archive
from pacs.commitment import Commitments
from pacs.decode import Decoder
from pacs.forwarding import Forwarding
from pacs.peers import Echo, Peers
from pacs.procedure_steps import ProcedureSteps
from pacs.workflow import Workflow
from pacs.workitems import Workitems
from pacs.worklist import Worklist
from web.limits import Limits


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one node that HTTP can reach.

    `projects` maps a research project's name to its de-identified archive; it is asked at every
    request, so it may grow while the node runs. `echo` asks the peer of an AE title whether it is
    there. `spool` is an existing folder for bodies too long
    for memory, and `limits` bound what one body may hold. What `trusted_proxies` say of where the
    client sent its request is believed. `hosts` are the names, in lower case, that it answers to
    besides localhost and any address.
    """

    identified: Archive
    projects: Mapping[str, Archive]
    workflow: Workflow
    worklist: Worklist
    procedure_steps: ProcedureSteps
    models: Registry
    peers: Peers
    forwarding: Forwarding
    workitems: Workitems
    echo: Callable[[str], Echo]
    commitments: Commitments
    decoder: Decoder
    spool: Path
    version: str
    limits: Limits = field(default_factory=Limits)
    trusted_proxies: Sequence[IPv4Network | IPv6Network] = ()
    hosts: frozenset[str] = frozenset()
