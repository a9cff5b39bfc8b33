"""One object with an identifier in every place that is known to leak; none may be left.

The places were collected by hand from the standard and from what other engines leaked, without a
look into the engine's tables. Each identifier is a canary that stands nowhere else, so a leak is
exact, even in bytes. The classes are persons and places (S), prose (F), dates (D), UIDs (U), nested
copies (N), private attributes (P), graphics (G) and what surrounds a data set (M).
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pacs.deid import BASIC, deidentify
from tests.unit.deid.objects import KEY, TRANSFER_SYNTAXES, chest_ct, part10, read_back

PERSONS_AND_PLACES = {
    "AccessionNumber": "SH",
    "AdmissionID": "LO",
    "CountryOfResidence": "LO",
    "DeviceSerialNumber": "LO",
    "InstitutionAddress": "ST",
    "InstitutionName": "LO",
    "InstitutionalDepartmentName": "LO",
    "IssuerOfPatientID": "LO",
    "MilitaryRank": "LO",
    "NameOfPhysiciansReadingStudy": "PN",
    "OperatorsName": "PN",
    "OtherPatientIDs": "LO",
    "OtherPatientNames": "PN",
    "PatientAddress": "LO",
    "PatientBirthName": "PN",
    "PatientID": "LO",
    "PatientInsurancePlanCodeSequence": "SQ",
    "PatientMotherBirthName": "PN",
    "PatientName": "PN",
    "PatientTelephoneNumbers": "SH",
    "PerformingPhysicianName": "PN",
    "PhysiciansOfRecord": "PN",
    "ReferringPhysicianAddress": "ST",
    "ReferringPhysicianName": "PN",
    "RequestingPhysician": "PN",
    "ResponsiblePerson": "PN",
    "ScheduledPerformingPhysicianName": "PN",
    "StationName": "SH",
    "StudyID": "SH",
}
PROSE = {
    "AcquisitionComments": "LT",
    "AcquisitionProtocolDescription": "LT",
    "AdditionalPatientHistory": "LT",
    "AdmittingDiagnosesDescription": "LO",
    "Allergies": "LO",
    "CommentsOnThePerformedProcedureStep": "ST",
    "ContentDescription": "LO",
    "ContrastBolusAgent": "LO",
    "DerivationDescription": "ST",
    "DeviceID": "LO",
    "FrameComments": "LT",
    "ImageComments": "LT",
    "MedicalAlerts": "LO",
    "Occupation": "SH",
    "PatientComments": "LT",
    "PerformedProcedureStepDescription": "LO",
    "PositionReferenceIndicator": "LO",
    "ProtocolName": "LO",
    "ReasonForStudy": "LO",
    "RequestedProcedureComments": "LT",
    "RequestedProcedureDescription": "LO",
    "SeriesDescription": "LO",
    "StudyComments": "LT",
    "TextComments": "LT",
    "TextString": "SH",
    "VisitComments": "LT",
}
DATES = [
    "AcquisitionDate",
    "AdmittingDate",
    "ContentDate",
    "DateOfLastCalibration",
    "InstanceCreationDate",
    "PatientBirthDate",
    "PerformedProcedureStepStartDate",
    "SeriesDate",
    "StudyDate",
]
MOMENTS = ["AcquisitionDateTime", "FrameReferenceDateTime", "StudyUpdateDateTime"]
UIDS = [
    "ConcatenationUID",
    "DeviceUID",
    "DimensionOrganizationUID",
    "FrameOfReferenceUID",
    "IrradiationEventUID",
    "MultiFrameSourceSOPInstanceUID",
    "SOPInstanceUID",
    "SOPInstanceUIDOfConcatenationSource",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "SynchronizationFrameOfReferenceUID",
    "TargetFrameOfReferenceUID",
    "VolumeFrameOfReferenceUID",
]


@dataclass
class Garden:
    """An object and the canaries planted in it, by class and place."""

    data_set: Dataset = field(default_factory=chest_ct)
    canaries: dict[str, bytes] = field(default_factory=dict)

    def canary(self, place: str) -> str:
        digest = hmac.digest(b"seed", place.encode(), "sha256")
        word = base64.b32encode(digest).decode("ascii")[:10]
        self.canaries[place] = word.encode()
        return word

    def date(self, place: str) -> str:
        number = len(self.canaries)
        text = f"19{20 + number // 12 % 70:02d}{1 + number % 12:02d}{1 + number % 27:02d}"
        self.canaries[place] = text.encode()
        return text

    def uid(self, place: str) -> str:
        text = f"1.2.826.0.1.3680043.2.{len(self.canaries)}.77"
        self.canaries[place] = text.encode()
        return text

    def text(self, place: str, vr: str) -> str:
        given = f"^{self.canary(place + ' given')}" if vr == "PN" else ""
        return self.canary(place) + given


@pytest.fixture
def garden() -> Garden:
    garden = Garden()
    for plant in (
        _plant_text,
        _plant_times_and_uids,
        _plant_nested,
        _plant_private,
        _plant_graphics,
    ):
        plant(garden)
    return garden


def _plant_text(garden: Garden) -> None:
    for name, vr in {**PERSONS_AND_PLACES, **PROSE}.items():
        if vr == "SQ":
            setattr(garden.data_set, name, [_code(garden, name)])
        else:
            setattr(garden.data_set, name, garden.text(f"text {name}", vr))
    garden.data_set.PatientAge = "093Y"
    garden.canaries["text PatientAge"] = b"093Y"


def _plant_times_and_uids(garden: Garden) -> None:
    for name in DATES:
        setattr(garden.data_set, name, garden.date(f"date {name}"))
    for name in MOMENTS:
        setattr(garden.data_set, name, garden.date(f"date {name}") + "113355.125")
    for name in UIDS:
        setattr(garden.data_set, name, garden.uid(f"uid {name}"))


def _plant_nested(garden: Garden) -> None:
    top = garden.data_set
    reference = Dataset()
    reference.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    reference.ReferencedSOPInstanceUID = garden.uid("nested reference")
    reference.PurposeOfReferenceCodeSequence = [_code(garden, "nested purpose")]
    top.ReferencedImageSequence = [reference]
    top.ProcedureCodeSequence = [_code(garden, "nested procedure")]
    top.DerivationCodeSequence = [_code(garden, "nested derivation")]
    top.AnatomicRegionSequence = [_public_code(garden)]
    top.RequestAttributesSequence = [_named(garden, "request")]
    top.OriginalAttributesSequence = [_named(garden, "original")]
    top.ContributingEquipmentSequence = [_named(garden, "equipment")]
    top.ReferencedPatientSequence = [_named(garden, "referenced patient")]
    # Four deep, by way of sequences that neither the table nor anybody else says anything about.
    place: Dataset = top
    for keyword in (
        "CTExposureSequence",
        "CTAdditionalXRaySourceSequence",
        "MACParametersSequence",
    ):
        item = _named(garden, f"in {keyword}")
        setattr(place, keyword, [item])
        place = item
    place.FrameContentSequence = [_named(garden, "deepest")]


def _plant_private(garden: Garden) -> None:
    for place, data_set in (
        ("top", garden.data_set),
        ("item", garden.data_set.CTExposureSequence[0]),
    ):
        data_set.add_new(0x00290010, "LO", garden.canary(f"private creator {place}"))
        data_set.add_new(0x00291001, "OB", garden.canary(f"private bytes {place}").encode())
        data_set.add_new(0x00291002, "UN", garden.canary(f"private unknown {place}").encode())
        data_set.add_new(0x00291003, "PN", garden.canary(f"private name {place}"))
        data_set.add_new(0x00291004, "DA", garden.date(f"private date {place}"))
        inner = _named(garden, f"private sequence {place}")
        data_set.add_new(0x00291005, "SQ", Sequence([inner]))


def _plant_graphics(garden: Garden) -> None:
    top = garden.data_set
    top.add_new(0x60000010, "US", 4)
    top.add_new(0x60000011, "US", 4)
    top.add_new(0x60000022, "LO", garden.canary("overlay description"))
    top.add_new(0x60000100, "US", 1)
    top.add_new(0x60000102, "US", 0)
    top.add_new(0x60001500, "LO", garden.canary("overlay label"))
    top.add_new(0x60003000, "OW", garden.canary("overlay data").encode())
    top.add_new(0x60004000, "LT", garden.canary("overlay comments"))
    top.add_new(0x50003000, "OW", garden.canary("curve data").encode())
    icon = Dataset()
    icon.Rows = icon.Columns = 2
    icon.add_new("PixelData", "OB", garden.canary("icon").encode())
    top.IconImageSequence = [icon]
    top.add_new(0xFFFCFFFC, "OB", garden.canary("trailing padding").encode())
    top.add_new(0x00420011, "OB", garden.canary("encapsulated document").encode())
    # New in the table's edition, and unknown to the dictionary that reads them.
    top.add_new(0x00100011, "SQ", Sequence([_named(garden, "name to use")]))
    top.add_new(0x00100047, "LT", garden.canary("newer attribute"))
    top.add_new(0x00080FFF, "LO", garden.canary("attribute of a later edition"))


def _named(garden: Garden, place: str) -> Dataset:
    item = Dataset()
    item.PatientName = garden.text(f"nested name {place}", "PN")
    item.PatientID = garden.canary(f"nested ID {place}")
    item.InstitutionName = garden.canary(f"nested institution {place}")
    item.Manufacturer = "Siemens"
    item.StudyDate = garden.date(f"nested date {place}")
    item.ContributionDescription = garden.canary(f"nested text {place}")
    return item


def _code(garden: Garden, place: str) -> Dataset:
    item = Dataset()
    item.CodeValue = garden.canary(f"code value {place}")
    item.CodingSchemeDesignator = "99LOCAL"
    item.CodeMeaning = garden.canary(f"code meaning {place}")
    return item


def _public_code(garden: Garden) -> Dataset:
    item = Dataset()
    item.CodeValue = "51185008"
    item.CodingSchemeDesignator = "SCT"
    item.CodeMeaning = f"Chest of {garden.canary('meaning of a public code')}"
    return item


def _spellings(canary: bytes) -> Iterator[bytes]:
    text = canary.decode()
    for codec in ("ascii", "utf-16-le", "utf-16-be"):
        yield text.encode(codec)
    yield base64.b64encode(canary)
    yield canary.lower()
    yield canary[::-1]


@pytest.mark.parametrize("transfer_syntax_uid", TRANSFER_SYNTAXES)
def test_no_planted_identifier_is_left(garden: Garden, transfer_syntax_uid: str) -> None:
    assert len(garden.canaries) >= 76
    before = part10(garden.data_set, transfer_syntax_uid)
    received = read_back(garden.data_set, transfer_syntax_uid)
    after = part10(deidentify(received, BASIC, KEY).data_set, transfer_syntax_uid)
    unplanted = [place for place, canary in garden.canaries.items() if canary not in before]
    left = [
        place
        for place, canary in garden.canaries.items()
        if any(spelling in after for spelling in _spellings(canary))
    ]
    assert not unplanted
    assert not left


def test_an_object_that_was_never_written_leaks_as_little(garden: Garden) -> None:
    after = part10(deidentify(garden.data_set, BASIC, KEY).data_set)
    assert not [place for place, canary in garden.canaries.items() if canary in after]
