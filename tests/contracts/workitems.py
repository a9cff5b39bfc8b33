"""Workitems for tests: what a new one holds, and what its performer says of it in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pacs.access import Actor
from pacs.dicom.attribute_lists import element, first
from pacs.dicom.json_model import JsonModel
from pacs.index import Index, catalog
from pacs.workitems import Declined, Kind, Status, Workitems
from tests import make

ORDERER = Actor("peer", "ORDERER", "192.0.2.3")
PERFORMER = Actor("peer", "PERFORMER", "192.0.2.4")

ONE, LOCK, OTHER_LOCK = make.uid("one"), make.uid("lock"), make.uid("other lock")

CODE: JsonModel = {
    **element("CodeValue", "110004"),
    **element("CodingSchemeDesignator", "DCM"),
    **element("CodeMeaning", "Image Processing"),
}


def service(index: Index, **options: Any) -> Workitems:  # noqa: ANN401 - as the service takes them
    """The workitems of an archive in an index."""
    with index.write() as connection:
        archive = catalog.archive_id(connection, "main")
    return Workitems(index, archive, "main", **options)


def scheduled(**attributes: object) -> JsonModel:
    """A workitem as it is ordered; attributes by keyword replace or join its own."""
    given: dict[str, object] = {
        "ProcedureStepState": "SCHEDULED",
        "ScheduledProcedureStepPriority": "MEDIUM",
        "ProcedureStepLabel": "Lung densitometry",
        "WorklistLabel": "AI",
        "ScheduledProcedureStepStartDateTime": "20260102093000",
        "InputReadinessState": "READY",
        "PatientID": "P-1",
        "PatientName": {"Alphabetic": "Phantom^One"},
        "StudyInstanceUID": make.uid("study"),
        "ScheduledWorkitemCodeSequence": CODE,
        **attributes,
    }
    model: JsonModel = {}
    for keyword, value in given.items():
        model |= element(keyword, *(value if isinstance(value, tuple) else (value,)))
    return model


def performed() -> JsonModel:
    """What must be known of a workitem before it can be COMPLETED."""
    return element(
        "UnifiedProcedureStepPerformedProcedureSequence",
        {
            **element("PerformedStationNameCodeSequence", CODE),
            **element("PerformedProcedureStepStartDateTime", "20260102093100"),
            **element("PerformedWorkitemCodeSequence", CODE),
            **element("PerformedProcedureStepEndDateTime", "20260102093200"),
            **element("OutputInformationSequence", element("StudyInstanceUID", make.uid("study"))),
        },
    )


def discontinued() -> JsonModel:
    """What must be known of a workitem before its performer can make it CANCELED."""
    return element(
        "ProcedureStepProgressInformationSequence",
        {
            **element("ProcedureStepCancellationDateTime", "20260102093200"),
            **element("ProcedureStepDiscontinuationReasonCodeSequence", CODE),
            **element("ReasonForCancellation", "the scanner is on fire"),
        },
    )


def refused(status: Status, ask: Callable[[], object]) -> None:
    with pytest.raises(Declined) as declined:
        ask()
    assert declined.value.status is status


def state(kept: Workitems, uid: str = ONE) -> str:
    return first(kept.get(ORDERER, uid), "ProcedureStepState")


def claimed(kept: Workitems, uid: str = ONE) -> None:
    kept.create(ORDERER, uid, scheduled())
    assert kept.change_state(PERFORMER, uid, "IN PROGRESS", LOCK) is Status.SUCCESS


def ended(kept: Workitems, end: str, uid: str = ONE) -> None:
    claimed(kept, uid)
    kept.update(PERFORMER, uid, performed() | discontinued(), LOCK)
    assert kept.change_state(PERFORMER, uid, end, LOCK) is Status.SUCCESS


def told(kept: Workitems, ae_title: str) -> list[tuple[str, Kind, str]]:
    return [
        (event.target, Kind(event.kind), first(event.information, "ProcedureStepState"))
        for event in kept.events([ae_title], 0)
    ]
