"""How long QIDO-RS takes over a full index, beside a bare SELECT of 100 rows by primary key.

The studies are real instances, stored through the archive's own verb, and the questions are asked
over HTTP of a node in a process of its own: what a worklist waits for.
"""

from __future__ import annotations

import http.client
import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from pydicom import Dataset
from pydicom.uid import generate_uid

from bench.figures import Figure, Tell, percentile
from bench.load import CT_IMAGE_STORAGE
from bench.node import serving
from pacs.access import Actor
from pacs.archive import Incoming
from pacs.config import Config
from pacs.dicom.data_sets import written
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs.errors import Broken
from pacs.node import compose

LIMIT: Final = 100  # rows of an answer, the page of a worklist
WARM_UP_REQUESTS: Final = 10
TELL_EVERY: Final = 500
STUDIES_PER_PATIENT: Final = 4
FIRST_DAY: Final = date(2016, 1, 1)
DAYS: Final = 3_650
ANSWER_S: Final = 60.0

SENDER: Final = Actor("peer", "BENCH")

FAMILY_NAMES: Final = (
    *("Abele", "Bergmann", "Castellano", "Dubois", "Eriksson", "Fontaine", "Galanis", "Hoffmann"),
    *("Ivanova", "Jansen", "Kowalski", "Lindqvist", "Moreau", "Nakamura", "Okafor", "Petrov"),
    *("Quispe", "Rossi", "Schneider", "Tanaka", "Ueda", "Vasquez", "Weber", "Yilmaz"),
)
GIVEN_NAMES: Final = ("Ada", "Ben", "Cora", "Dan", "Eva", "Finn", "Gro", "Hana", "Ivo", "Jo", "Kim")
MODALITIES: Final = ("CT", "MR", "CR", "US", "DX", "MG", "PT", "NM")


@dataclass(frozen=True, slots=True)
class Made:
    """What a synthetic study can be found by."""

    patient_id: str
    patient_name: str
    accession_number: str
    study_date: str
    modality: str

    @classmethod
    def of(cls, number: int) -> Made:
        """Study number, from 0: always the same."""
        patient = number // STUDIES_PER_PATIENT
        person, dice = random.Random(patient), random.Random(f"study {number}")
        name = f"{person.choice(FAMILY_NAMES)}{patient % 97}^{person.choice(GIVEN_NAMES)}"
        day = FIRST_DAY + timedelta(days=dice.randrange(DAYS))
        modality = dice.choice(MODALITIES)
        return cls(f"B{patient:06}", name, f"A{number:07}", f"{day:%Y%m%d}", modality)

    def data_set(self) -> bytes:
        """Its only instance, encoded; it has no pixels, which no query looks at."""
        made = Dataset()
        made.SOPClassUID, made.SOPInstanceUID = CT_IMAGE_STORAGE, generate_uid()
        made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
        made.PatientID, made.PatientName = self.patient_id, self.patient_name
        made.PatientBirthDate, made.PatientSex = "19700101", "O"
        made.StudyDate, made.StudyTime = self.study_date, "101112"
        made.AccessionNumber, made.StudyID = self.accession_number, "1"
        made.StudyDescription, made.ReferringPhysicianName = "Follow-up", "Phantom^Referrer"
        made.Modality, made.SeriesNumber, made.InstanceNumber = self.modality, 1, 1
        return written(made, EXPLICIT_VR_LITTLE_ENDIAN)


# What is asked, in QIDO-RS's words (PS3.18 8.3.4), for a study known to be there.
QUESTIONS: Final[Mapping[str, Callable[[Made], str]]] = {
    "newest 100": lambda _: "",
    "PatientID": lambda study: f"&PatientID={study.patient_id}",
    "PatientName, beginning": lambda study: f"&PatientName={study.patient_name[:4]}*",
    "PatientName, middle": lambda study: f"&PatientName=*{study.patient_name[2:6]}*",
    "StudyDate, one month": lambda study: f"&StudyDate={_month_around(study.study_date)}",
    "ModalitiesInStudy": lambda study: f"&ModalitiesInStudy={study.modality}",
    "AccessionNumber": lambda study: f"&AccessionNumber={study.accession_number}",
}


def _month_around(day: str) -> str:
    middle = date(int(day[:4]), int(day[4:6]), int(day[6:]))
    first, last = middle - timedelta(days=15), middle + timedelta(days=15)
    return f"{first:%Y%m%d}-{last:%Y%m%d}"


@dataclass(frozen=True, slots=True)
class Query:
    """So many studies in the index, and so many requests of each kind."""

    studies: int
    requests: int

    def measure(self, folder: Path, tell: Tell) -> Iterator[Figure]:
        """The time that 50 % and 95 % of the answers to each question kept to."""
        self._fill(folder / "node", tell)
        middle = self.studies // 2
        questions = {**QUESTIONS, f"offset {middle:,}": lambda _: f"&offset={middle}"}
        with serving(folder / "node", "web") as config, _door(config) as door:
            bare_ms = self._bare_select_ms(folder / "node" / "index.db")
            for name, question in questions.items():
                tell(f"query: {name}")
                took_ms = self._asked(door, question)
                for percent in (50, 95):
                    value = percentile(took_ms, percent / 100)
                    yield Figure("query", f"{name}, p{percent}", value, "ms", bare_ms)

    def _fill(self, data: Path, tell: Tell) -> None:
        node = compose(Config(data=data))
        try:
            for number in range(self.studies):
                if number % TELL_EVERY == 0:
                    tell(f"query: {number} of {self.studies} studies stored")
                made = Incoming(Made.of(number).data_set(), EXPLICIT_VR_LITTLE_ENDIAN)
                node.identified.store(SENDER, made)
            node.index.maintain()  # as the worker does every minute
        finally:
            node.close()

    def _asked(
        self, door: http.client.HTTPConnection, question: Callable[[Made], str]
    ) -> list[float]:
        """How long each request took, in ms, after a few that warm up."""
        dice = random.Random(0)
        took_ms = []
        for _ in range(WARM_UP_REQUESTS + self.requests):
            about = Made.of(dice.randrange(self.studies))
            took_ms.append(_answer_ms(door, f"/dicom-web/studies?limit={LIMIT}{question(about)}"))
        return took_ms[WARM_UP_REQUESTS:]

    def _bare_select_ms(self, database: Path) -> float:
        """The median time in which SQLite alone gives as many studies as a page holds."""
        dice = random.Random(0)
        took_ms = []
        connection = sqlite3.connect(database)
        for _ in range(WARM_UP_REQUESTS + self.requests):
            first = dice.randrange(max(1, self.studies - LIMIT))
            began = time.perf_counter()
            connection.execute(
                "SELECT * FROM studies WHERE id BETWEEN ? AND ?", (first + 1, first + LIMIT)
            ).fetchall()
            took_ms.append((time.perf_counter() - began) * 1000)
        connection.close()
        return percentile(took_ms[WARM_UP_REQUESTS:], 0.5)


def _door(config: Config) -> closing[http.client.HTTPConnection]:
    """One connection that stays open: what is measured is the answer."""
    return closing(http.client.HTTPConnection(config.bind, config.http.port, timeout=ANSWER_S))


def _answer_ms(door: http.client.HTTPConnection, path: str) -> float:
    """How long one answer took, in ms. Raises Broken where it is an error or finds nothing."""
    began = time.perf_counter()
    door.request("GET", path, headers={"Accept": "application/dicom+json"})
    response = door.getresponse()
    body = response.read()
    took_ms = (time.perf_counter() - began) * 1000
    if response.status != 200 or not json.loads(body):
        raise Broken(
            "a query found nothing, and a fast nothing is no figure", status=response.status
        )
    return took_ms
