"""N-CREATE, N-SET and N-GET of performed procedure steps (PS3.4 annex F), on either side.

As SCP the door translates: attributes go to `pacs/procedure_steps.py` as they came, and its errors
become the statuses of F.7.2. As SCU it tells a peer what a modality told us, in the same words.
"""

from __future__ import annotations

import logging
from io import BytesIO
from typing import Final, NamedTuple, cast

from pydicom import Dataset
from pynetdicom.dimse_primitives import N_CREATE, N_GET, N_SET
from pynetdicom.events import Event

from pacs.dicom.data_sets import read_data_set
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from pacs.dimse import scu
from pacs.dimse.handlers import actor_of, answer
from pacs.dimse.identifiers import elements_of, write_identifier
from pacs.dimse.status import (
    MAY_NO_LONGER_BE_UPDATED,
    PROCEDURE_STEP,
    SUCCESS,
    status_of,
)
from pacs.dimse.upper_layer import PeerAssociation
from pacs.errors import BadObject, NodeError, Refused, Unreachable
from pacs.index.performed import Message
from pacs.procedure_steps import AlreadyFinal, ProcedureSteps

PROCEDURE_STEP_CLASS: Final = "1.2.840.10008.3.1.2.3.3"
RETRIEVE_CLASS: Final = "1.2.840.10008.3.1.2.3.4"

SOME_ATTRIBUTES_UNKNOWN: Final = 0x0001  # PS3.4 F.8.2.1.4
DUPLICATE_INSTANCE: Final = 0x0111
# Of the statuses of a peer: what is success enough, and what may pass.
TAKEN: Final = frozenset({SUCCESS, SOME_ATTRIBUTES_UNKNOWN, 0x0107, 0x0116})
MAY_PASS: Final = frozenset({0x0110, 0x0213})

Response = tuple[Dataset | int, Dataset | None]

log = logging.getLogger(__name__)


def on_n_create(event: Event, steps: ProcedureSteps) -> Response:
    """Answer one N-CREATE-RQ (F.7.2.1): a modality has begun. 0000 once that is durable."""
    request = cast(N_CREATE, event.request)
    given = str(request.AffectedSOPInstanceUID or "")
    try:
        uid = steps.create(actor_of(event), given, *_attributes(event, request.AttributeList))
    except NodeError as error:
        return refusal(error), None
    told = Dataset()
    if not given:
        told.AffectedSOPInstanceUID = uid
    return SUCCESS, told


def on_n_set(event: Event, steps: ProcedureSteps) -> Response:
    """Answer one N-SET-RQ (F.7.2.2): a modality goes on, or has ended. 0000 once that is durable."""
    request = cast(N_SET, event.request)
    uid = str(request.RequestedSOPInstanceUID or "")
    try:
        steps.change(actor_of(event), uid, *_attributes(event, request.ModificationList))
    except NodeError as error:
        return refusal(error), None
    return SUCCESS, None


def on_n_get(event: Event, steps: ProcedureSteps) -> Response:
    """Answer one N-GET-RQ (F.8.2): the attributes asked for, or all of them."""
    request = cast(N_GET, event.request)
    asked = request.AttributeIdentifierList
    tags = [] if asked is None else asked if isinstance(asked, list) else [asked]
    keys = {f"{int(tag):08X}" for tag in tags}
    try:
        model = steps.get(actor_of(event), str(request.RequestedSOPInstanceUID or ""))
    except NodeError as error:
        return refusal(error), None
    found = {key: element for key, element in model.items() if not keys or key in keys}
    syntax = EXPLICIT_VR_LITTLE_ENDIAN
    told = read_data_set(write_identifier(elements_of(found), syntax), syntax)
    return SOME_ATTRIBUTES_UNKNOWN if keys - model.keys() else SUCCESS, told


def _attributes(event: Event, encoded: BytesIO | None) -> tuple[memoryview | bytes, str]:
    """The attributes of a request as they came, and how they are encoded."""
    raw = b"" if encoded is None else encoded.getbuffer()
    return raw, str(event.context.transfer_syntax)


def refusal(error: NodeError) -> Dataset:
    """The status of a request that is refused, with its Error Comment and, where due, Error ID."""
    log.warning("a procedure step is refused: %s", error, extra={"facts": error.facts})
    told = answer(status_of(error, PROCEDURE_STEP), error.message)
    if isinstance(error, AlreadyFinal):
        told.ErrorID = MAY_NO_LONGER_BE_UPDATED
    return told


class Verdict(NamedTuple):
    """What a peer says to an N-CREATE or N-SET: status and Error ID, 0 where it has none."""

    status: int
    error_id: int = 0


def tell(peer: scu.Peer, sop_instance_uid: str, message: Message, is_repeat: bool) -> None:
    """Tell a peer a message of a step, return once it has taken it.

    Raises Unreachable where it does not answer or may take it later, Refused where it will not, and
    BadObject for attributes that cannot be put into its transfer syntax.
    """
    syntaxes = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
    association = scu.associated(peer, [(PROCEDURE_STEP_CLASS, *syntaxes)])
    try:
        verdict = _told(association, sop_instance_uid, message)
    finally:
        if association.is_established:
            association.release()
    judge(verdict, is_creation=message.number == 0, is_repeat=is_repeat)


def _told(association: PeerAssociation, uid: str, message: Message) -> Verdict:
    data_set = read_data_set(message.attributes, message.transfer_syntax_uid)
    send = association.send_n_set if message.number else association.send_n_create
    try:
        response, _ = send(data_set, PROCEDURE_STEP_CLASS, uid)
    except (ValueError, RuntimeError) as error:
        if not association.is_established:
            raise Unreachable("the association has ended") from error
        raise BadObject("the attributes cannot be encoded for the peer") from error
    if "Status" not in response:
        raise Unreachable(association.trouble or "it did not answer in time")
    return Verdict(int(response.Status), int(response.get("ErrorID") or 0))


def judge(verdict: Verdict, *, is_creation: bool, is_repeat: bool) -> None:
    """Return if a peer has taken a message, now or when it was told before.

    Raises Unreachable for a status that may pass, Refused for another.
    """
    if verdict.status in TAKEN or (is_creation and verdict.status == DUPLICATE_INSTANCE):
        return
    is_final = verdict.error_id == MAY_NO_LONGER_BE_UPDATED
    if is_final and is_repeat:
        return
    reason = f"it answers a procedure step with status {verdict.status:04X}"
    if verdict.status in MAY_PASS and not is_final:
        raise Unreachable(reason)
    raise Refused(reason)
