"""`/api/rules` and `/api/deliveries`: what is forwarded to whom, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Response

from pacs.errors import BadQuery
from pacs.forwarding import PAGE_MAX, Delivery, Rule, Trigger, standing
from web.auth import Caller
from web.limits import NUMBER_MAX
from web.parts import Parts

TEST_DAYS: Final = 7.0  # that a dry run looks back unless it is told otherwise
TEST_DAYS_MAX: Final = 3_650.0  # a longer look is a bad request

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Cursor = Annotated[int, Query(ge=0, le=NUMBER_MAX)]
DeliveryNumber = Annotated[int, Path(ge=1, le=NUMBER_MAX)]
Days = Annotated[float, Query(gt=0, le=TEST_DAYS_MAX)]


@dataclass(frozen=True, slots=True)
class RuleBody:
    """What is said of a rule: `trigger` is received, complete or result.

    `conditions` gives by keyword the values of which one must match; `project` the research project
    whose copies are meant, none for what was received; `commitment` asks for storage commitment.
    """

    peer: str
    trigger: str
    conditions: dict[str, list[str]] = field(default_factory=dict)
    project: str = ""
    commitment: bool = False
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class RuleView:
    """One rule. Times are seconds since 1970."""

    name: str
    peer: str
    trigger: str
    conditions: dict[str, list[str]]
    project: str
    commitment: bool
    enabled: bool
    created_at: float | None
    changed_at: float | None


@dataclass(frozen=True, slots=True)
class RuleViews:
    """The rules, by name."""

    rules: list[RuleView]


@dataclass(frozen=True, slots=True)
class StudyView:
    """A study that a rule matches: how many of its instances, and when the last one came."""

    study_instance_uid: str
    instances: int
    last_received_at: float


@dataclass(frozen=True, slots=True)
class DryRun:
    """The studies of which a rule would forward something, newest first, 200 at most."""

    studies: list[StudyView]


@dataclass(frozen=True, slots=True)
class TrafficView:
    """How many instances stand where on their way to one peer, and what last went wrong there."""

    peer: str
    waiting: int
    delivered: int
    failed: int
    last_error: str
    last_error_at: float | None


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """What goes of one study to one peer: how it stands, in numbers of instances and in words.

    `state` is waiting, sending, delivered, failed or cancelled; `lost` are instances that were
    deleted or replaced here first. Times are seconds since 1970.
    """

    id: int
    peer: str
    archive: str
    study_instance_uid: str
    state: str
    waiting: int
    delivered: int
    refused: int
    lost: int
    attempts: int
    reason_code: str
    reason: str
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Deliveries, newest first, and the traffic to each peer.

    `cursor` asks for the next page; it is null on the last one.
    """

    peers: list[TrafficView]
    deliveries: list[DeliveryView]
    cursor: int | None


@dataclass(frozen=True, slots=True)
class Ordered:
    """How many deliveries an order concerned."""

    deliveries: int


def router(parts: Parts) -> APIRouter:
    """The routes of forwarding."""
    api = Api(parts)
    routes = APIRouter(prefix="/api", tags=["Forwarding"])
    routes.add_api_route("/rules", api.rules)
    routes.add_api_route("/rules/{name}", api.rule)
    routes.add_api_route("/rules/{name}", api.put, methods=["PUT"])
    routes.add_api_route("/rules/{name}", api.remove, methods=["DELETE"], status_code=204)
    routes.add_api_route("/rules/{name}/test", api.test, methods=["POST"])
    routes.add_api_route("/deliveries", api.deliveries)
    routes.add_api_route("/deliveries/retry", api.retry_peer, methods=["POST"])
    routes.add_api_route("/deliveries/cancel", api.cancel_peer, methods=["POST"])
    routes.add_api_route("/deliveries/{delivery}/retry", api.retry, methods=["POST"])
    routes.add_api_route("/deliveries/{delivery}/cancel", api.cancel, methods=["POST"])
    return routes


class Api:
    """What an operator sees of forwarding, and can do about it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._forwarding = parts.forwarding

    def rules(self, caller: Caller) -> RuleViews:
        """The rules of this node."""
        del caller  # every signed-in caller may know where studies go
        return RuleViews([_rule_view(rule) for rule in self._forwarding.rules()])

    def rule(self, name: str, caller: Caller) -> RuleView:
        """One rule. Raises Missing."""
        del caller  # as above
        return _rule_view(self._forwarding.get(name))

    def put(self, name: str, body: RuleBody, caller: Caller, response: Response) -> RuleView:
        """Enter a rule (201), or replace what it says (200). Raises BadQuery, Missing, Exhausted."""
        is_new = self._forwarding.put(caller, _rule(name, body))
        response.status_code = HTTPStatus.CREATED if is_new else HTTPStatus.OK
        return _rule_view(self._forwarding.get(name))

    def remove(self, name: str, caller: Caller) -> None:
        """Remove a rule; what is on its way goes on. Raises Missing."""
        self._forwarding.remove(caller, name)

    def test(
        self, name: str, caller: Caller, body: RuleBody | None = None, days: Days = TEST_DAYS
    ) -> DryRun:
        """A dry run of a rule, or of what a body would make of it. Raises Missing, BadQuery."""
        rule = self._forwarding.get(name) if body is None else _rule(name, body)
        found = self._forwarding.test(caller, rule, days)
        return DryRun(
            [
                StudyView(study.study_instance_uid, study.instances, study.last_received_at)
                for study in found
            ]
        )

    def deliveries(
        self,
        caller: Caller,
        peer: str = "",
        state: str = "",
        limit: Limit = 100,
        cursor: Cursor = 0,
    ) -> Deliveries:
        """One page of deliveries, to one peer or in one state where that is asked for."""
        del caller  # they name studies and peers, no patient
        found = self._forwarding.deliveries(peer=peer, state=state, limit=limit, cursor=cursor)
        last = found[-1].job.id if len(found) == limit else None
        return Deliveries(self._traffic(), [_delivery_view(one) for one in found], last)

    def _traffic(self) -> list[TrafficView]:
        known = {peer.ae_title: peer for peer in self._parts.peers.list()}
        told = []
        for traffic in self._forwarding.traffic():
            peer = known.get(traffic.peer)
            error, at = (peer.last_error, peer.last_error_at) if peer else (_UNLISTED, None)
            numbers = (traffic.waiting, traffic.delivered, traffic.failed)
            told.append(TrafficView(traffic.peer, *numbers, error, at))
        return told

    def retry(self, delivery: DeliveryNumber, caller: Caller) -> Ordered:
        """Try a delivery again at once. Raises Missing."""
        return Ordered(self._forwarding.retry(caller, delivery=delivery))

    def retry_peer(self, peer: str, caller: Caller) -> Ordered:
        """Try again at once whatever waits for a peer or failed."""
        return Ordered(self._forwarding.retry(caller, peer=peer))

    def cancel(self, delivery: DeliveryNumber, caller: Caller) -> Ordered:
        """Send no more of a delivery. Raises Missing."""
        return Ordered(self._forwarding.cancel(caller, delivery=delivery))

    def cancel_peer(self, peer: str, caller: Caller) -> Ordered:
        """Send no more of what waits for a peer."""
        return Ordered(self._forwarding.cancel(caller, peer=peer))


_UNLISTED: Final = "it is no longer listed"


def _rule(name: str, body: RuleBody) -> Rule:
    try:
        trigger = Trigger(body.trigger)
    except ValueError as error:
        known = ", ".join(trigger.value for trigger in Trigger)
        raise BadQuery(f"a rule's trigger is one of {known}") from error
    return Rule(
        name,
        body.peer.strip(),
        trigger,
        body.conditions,
        body.project,
        body.commitment,
        body.enabled,
    )


def _rule_view(rule: Rule) -> RuleView:
    return RuleView(
        name=rule.name,
        peer=rule.peer,
        trigger=rule.trigger.value,
        conditions={keyword: list(values) for keyword, values in rule.conditions.items()},
        project=rule.project,
        commitment=rule.commitment,
        enabled=rule.enabled,
        created_at=rule.created_at,
        changed_at=rule.changed_at,
    )


def _delivery_view(delivery: Delivery) -> DeliveryView:
    job = delivery.job
    return DeliveryView(
        id=job.id,
        peer=job.lane,
        archive=job.archive,
        study_instance_uid=job.study_instance_uid,
        state=standing(delivery),
        waiting=delivery.waiting,
        delivered=delivery.delivered,
        refused=delivery.refused,
        lost=delivery.lost,
        attempts=job.attempts,
        reason_code=job.reason_code,
        reason=job.reason,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )
