"""The one table of indexed attributes, and the four levels they belong to.

`INDEXED` gives the columns of the index, the keys and returned attributes of C-FIND and QIDO-RS,
and the tables of the conformance statement. A new key is a new line here and a migration.
VR and tag are looked up in PS3.6, never restated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword


class Level(IntEnum):
    """The levels of the query/retrieve information model (PS3.4 C.6.1.1), outermost first."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    INSTANCE = 3

    @property
    def query_retrieve_level(self) -> str:
        """The value of (0008,0052) that names this level."""
        return "IMAGE" if self is Level.INSTANCE else self.name


@dataclass(frozen=True)
class Attribute:
    """An attribute that the index knows by heart.

    `counted` attributes hold no value of a data set: the index counts or collects them (PS3.4
    C.3.4). They are returned; only ModalitiesInStudy can be matched as well.
    """

    keyword: str
    level: Level
    counted: bool = False

    @cached_property
    def tag(self) -> int:
        """The tag as one number, group in the upper half."""
        tag = tag_for_keyword(self.keyword)
        assert tag is not None, f"{self.keyword} is no keyword of PS3.6"
        return tag

    @cached_property
    def vr(self) -> str:
        """The value representation of PS3.6."""
        return dictionary_VR(self.tag)

    @property
    def matchable(self) -> bool:
        """Whether a query may name it with a value."""
        return not self.counted or self.keyword == "ModalitiesInStudy"


def _table(*rows: tuple[Level, str, bool]) -> dict[str, Attribute]:
    return {
        keyword: Attribute(keyword, level, counted)
        for level, keywords, counted in rows
        for keyword in keywords.split()
    }


INDEXED: Final = _table(
    (
        Level.PATIENT,
        "PatientID IssuerOfPatientID PatientName PatientBirthDate PatientSex",
        False,
    ),
    (
        Level.PATIENT,
        "NumberOfPatientRelatedStudies",
        True,
    ),
    (
        Level.STUDY,
        "StudyInstanceUID StudyDate StudyTime AccessionNumber StudyID StudyDescription"
        " ReferringPhysicianName",
        False,
    ),
    (
        Level.STUDY,
        "ModalitiesInStudy NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances",
        True,
    ),
    (
        Level.SERIES,
        "SeriesInstanceUID Modality SeriesNumber SeriesDescription BodyPartExamined SeriesDate"
        " SeriesTime PerformedProcedureStepStartDate PerformedProcedureStepStartTime"
        " Manufacturer FrameOfReferenceUID",
        False,
    ),
    (Level.SERIES, "NumberOfSeriesRelatedInstances", True),
    (
        Level.INSTANCE,
        "SOPInstanceUID SOPClassUID InstanceNumber Rows Columns BitsAllocated NumberOfFrames",
        False,
    ),
    (Level.INSTANCE, "AvailableTransferSyntaxUID", True),
)

# What a modality may ask of the worklist (PS3.4 table K.6-1). The attributes of the level SERIES are
# those of an item of ScheduledProcedureStepSequence: a step is what one or more series come from.
WORKLIST: Final = _table(
    (Level.PATIENT, "PatientName PatientID IssuerOfPatientID", False),
    (Level.STUDY, "AccessionNumber RequestedProcedureID StudyInstanceUID", False),
    (
        Level.SERIES,
        "ScheduledStationAETitle ScheduledProcedureStepStartDate ScheduledProcedureStepStartTime"
        " Modality ScheduledPerformingPhysicianName ScheduledProcedureStepID",
        False,
    ),
)

UNIQUE_KEY: Final = {
    Level.PATIENT: INDEXED["PatientID"],
    Level.STUDY: INDEXED["StudyInstanceUID"],
    Level.SERIES: INDEXED["SeriesInstanceUID"],
    Level.INSTANCE: INDEXED["SOPInstanceUID"],
}


def read_from_data_set(level: Level) -> tuple[Attribute, ...]:
    """The attributes of one level whose values come out of a data set, in the table's order."""
    return tuple(a for a in INDEXED.values() if a.level is level and not a.counted)
