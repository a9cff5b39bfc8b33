"""Every kind of matching (PS3.4 C.2.2.2), with the same answers on every database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydicom import Dataset
from sqlalchemy import func, select

from pacs.dicom.attributes import INDEXED, Level
from pacs.dicom.matching import Query
from pacs.index import Index, catalog, open_index, queries
from pacs.index.catalog import Scope
from pacs.index.schema import name_tails
from tests import make, parts
from tests.contracts.rows import enter, search

NAMES = {
    "muller": "MÜLLER^Eva",
    "mueller": "Mueller^Eva Maria",
    "doe": "Doe^Jane^Q",
    "wang": "Wang^XiaoDong=王^小東=ワン^シャオドン",
    "yamada": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    "star": "a*b?c[d]e%f_g/h^x",
    "empty": "",
}


def one(name: str, number: int = 1, **given: object) -> Dataset:
    """A study known by a name of ours, which is its StudyID too."""
    return make.data_set(
        number,
        study_instance_uid=make.uid(name),
        SpecificCharacterSet="ISO_IR 192",
        **{"patient_id": f"P-{name}", "StudyID": name} | given,  # type: ignore[arg-type] # any
    )


DATES = {"a": "20231231", "b": "20240101", "c": "20240229", "d": ""}
TIMES = {"a": "10", "b": "1059", "c": "110000", "d": "110000.5"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgresql_server: parts.PostgresqlServer,
) -> Iterator[Index]:
    """An index of studies that differ in what is searched here; no test changes it."""
    is_sqlite = request.param == "sqlite"
    folder = tmp_path_factory.mktemp("search")
    url = f"sqlite:///{folder}/index.db" if is_sqlite else postgresql_server.new_database()
    index = open_index(url)
    enter(
        index, *(one(name, patient_name=person) for name, person in NAMES.items()), archive="names"
    )
    for name in DATES:
        made = one(name, StudyDate=DATES[name], StudyTime=TIMES[name])
        enter(index, made, archive="dates")
    enter(index, *texts(), archive="texts")
    enter(index, *hierarchy(), archive="levels")
    yield index
    index.close()
    if not is_sqlite:
        postgresql_server.drop(url)


@pytest.fixture(params=["looked up", "walked"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a key's matches are few or many must not be seen in any answer."""
    monkeypatch.setattr("pacs.index.narrowing.FEW", 5_000 if request.param == "looked up" else 0)


TEXTS = ["Chest", "chest", "CHEST CT", "100%", "100x", "a_b", "axb", "[a]", "a", "x]y", "d-f", ""]


def texts() -> list[Dataset]:
    return [one(f"t{n}", StudyDescription=text) for n, text in enumerate(TEXTS)]


def hierarchy() -> list[Dataset]:
    """Two patients; the first has two studies, one of them with a CT and an SR series."""
    made = []
    for study, patient, modalities in (
        ("one", "P-1", ["CT", "CT", "SR"]),
        ("two", "P-1", ["MR"]),
        ("three", "P-2", ["CTX"]),
    ):
        for serial, modality in enumerate(modalities, start=1):
            for number in range(1, serial + 1):
                made.append(
                    one(
                        study,
                        number,
                        patient_id=patient,
                        modality=modality,
                        series_instance_uid=make.uid(study, serial),
                        SeriesNumber=serial,
                    )
                )
    return made


def found(index: Index, archive: str, **keys: str) -> set[str]:
    rows = search(index, archive=archive, **keys)  # type: ignore[arg-type] # keys alone
    return {row["StudyID"] for row in rows}


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("MÜLLER^Eva", {"muller"}),
        ("muller^EVA", {"muller"}),
        ("Mu\u0308ller^Eva^^", {"muller"}),
        ("muller", set()),
        ("muller*", {"muller"}),
        ("m*ller*", {"muller", "mueller"}),
        ("m?ller*", {"muller"}),
        ("*^Eva", {"muller"}),
        ("*eva*", {"muller", "mueller"}),
        ("Doe^Jane^Q", {"doe"}),
        ("doe^jane", set()),
        ("王^小東", {"wang"}),
        ("王*", {"wang"}),
        ("=王*", {"wang"}),
        ("Wang*=王*", {"wang"}),
        ("Wang*=山*", set()),
        ("==ワン*", {"wang"}),
        ("王*=", set()),
        ("ヤマダ*", {"yamada"}),
        ("ヤマタ*", {"yamada"}),
        ("a*b?c[d]e%f_g/h^x", {"star"}),
        ("*[d]*", {"star"}),
        ("*%*", {"star"}),
        ("*_*", {"star"}),
        ("*[a-z]*", set()),
        ("", set(NAMES)),
        ("*", set(NAMES)),
        ("=", set(NAMES)),
        ("?*", set(NAMES) - {"empty"}),
    ],
)
def test_a_name_is_matched_folded_in_any_of_its_groups(
    filled: Index, key: str, names: set[str]
) -> None:
    assert found(filled, "names", PatientName=key) == names


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("eva", {"muller", "mueller"}),
        ("Eva Mül", {"muller"}),
        ("maria mueller", {"mueller"}),
        ("ria", set()),
        ("jane", {"doe"}),
        ("王 小", {"wang"}),
        ("eva jane", set()),
        ("%", set()),
        ("_", set()),
        ("", set(NAMES)),
    ],
)
def test_fuzzy_words_begin_words_of_the_name(filled: Index, key: str, names: set[str]) -> None:
    rows = search(filled, archive="names", fuzzy=True, PatientName=key)
    assert {row["StudyID"] for row in rows} == names


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        ("Chest", {"Chest"}),
        ("CHEST", set()),
        ("C*", {"Chest", "CHEST CT"}),
        ("c*", {"chest"}),
        ("?hest", {"Chest", "chest"}),
        ("*%", {"100%"}),
        ("100?", {"100%", "100x"}),
        ("a_?", {"a_b"}),
        ("a_b*", {"a_b"}),
        ("a?b", {"a_b", "axb"}),
        ("[a]", {"[a]"}),
        ("[a]*", {"[a]"}),
        ("*[*", {"[a]"}),
        ("*]*", {"[a]", "x]y"}),
        ("[^x]*", set()),
        ("?-?", {"d-f"}),
        ("??", set()),
        ("", set(TEXTS)),
        ("*", set(TEXTS)),
        ("' OR 1=1 --", set()),
        ("*'*", set()),
    ],
)
def test_text_is_matched_in_its_case_and_wildcards_are_dicoms(
    filled: Index, key: str, texts: set[str]
) -> None:
    rows = search(filled, archive="texts", StudyDescription=key)
    assert {row["StudyDescription"] or "" for row in rows} == texts


def test_a_backslash_in_a_pattern_is_a_character(filled: Index) -> None:
    assert found(filled, "texts", StudyDescription="a\\*") == set()
    assert found(filled, "texts", StudyDescription="*\\") == set()


@pytest.mark.parametrize(
    ("date", "time", "names"),
    [
        ("20240229", "", {"c"}),
        ("20231231-20240101", "", {"a", "b"}),
        ("-20240101", "", {"a", "b"}),
        ("20240101-", "", {"b", "c"}),
        ("20240102-20240228", "", set()),
        ("", "10", {"a", "b"}),
        ("", "1000", {"a"}),
        ("", "11", {"c", "d"}),
        ("", "110000", {"c", "d"}),
        ("", "110000.5", {"d"}),
        ("", "1030-110000.0", {"b", "c"}),
        ("", "-1059", {"a", "b"}),
        ("", "1100-", {"c", "d"}),
        ("20240101-", "11-", {"c"}),
    ],
)
def test_dates_and_times_are_matched_as_values_and_ranges(
    filled: Index, date: str, time: str, names: set[str]
) -> None:
    assert found(filled, "dates", StudyDate=date, StudyTime=time) == names


@pytest.mark.parametrize(
    ("date", "time", "names"),
    [
        ("20231231-20240229", "1030-110000", {"b", "c"}),
        ("20231231-20240229", "09-12", {"a", "b", "c"}),
        ("20240101-", "11-", {"c"}),
        ("-20240101", "-09", {"a"}),
        ("20240101-20240229", "1100-1059", set()),
        ("20240101", "1030-1100", {"b"}),
        ("-20240229", "1030-", {"b", "c"}),
    ],
)
def test_a_range_of_dates_and_one_of_times_are_one_interval_if_combined(
    filled: Index, date: str, time: str, names: set[str]
) -> None:
    rows = search(filled, archive="dates", combined=True, StudyDate=date, StudyTime=time)
    assert {row["StudyID"] for row in rows} == names


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ('""', {"empty"}),
        ("doe*\\wang*", {"doe", "wang"}),
        ("muller^eva\\=王*", {"muller", "wang"}),
        ("*ang^xiaod*", {"wang"}),
        ("*小東", {"wang"}),
        ("a^x", set()),
    ],
)
def test_empty_and_multiple_values_match(filled: Index, key: str, names: set[str]) -> None:
    rows = search(filled, archive="names", empty=True, multiple=True, PatientName=key)
    assert {row["StudyID"] for row in rows} == names


def test_rows_are_counted_from_an_offset_up_to_a_limit(filled: Index) -> None:
    archive = enter(filled, archive="levels")
    with filled.read() as connection:
        for limit, offset, number in ((100, 0, 8), (3, 0, 3), (100, 6, 2), (100, 9, 0)):
            query = Query(Level.INSTANCE, limit=limit, offset=offset)
            assert queries.count(connection, archive, query) == number


def test_uids_are_matched_as_lists(filled: Index) -> None:
    one_, two = make.uid("one"), make.uid("two")
    assert found(filled, "levels", StudyInstanceUID=one_) == {"one"}
    assert found(filled, "levels", StudyInstanceUID=f"{one_}\\{two}\\1.2.3") == {"one", "two"}
    assert found(filled, "levels", StudyInstanceUID="1.2.3") == set()


def test_a_list_of_very_many_uids_is_no_trouble(filled: Index) -> None:
    short = [f"{n}" for n in range(10_000)]
    assert found(filled, "levels", StudyInstanceUID="\\".join(short)) == set()
    assert found(filled, "levels", StudyInstanceUID="1," * 32_000 + "1") == set()


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("CT", {"one"}),
        ("SR", {"one"}),
        ("C*", {"one", "three"}),
        ("MR", {"two"}),
        ("US", set()),
        ("", {"one", "two", "three"}),
    ],
)
def test_modalities_in_study_matches_a_study_by_any_series(
    filled: Index, key: str, names: set[str]
) -> None:
    assert found(filled, "levels", ModalitiesInStudy=key) == names


def test_every_level_answers_with_its_own_and_the_outer_attributes(filled: Index) -> None:
    counts = {}
    for level in Level:
        rows = search(filled, level, archive="levels")
        counts[level] = len(rows)
        wanted = {a.keyword for a in INDEXED.values() if a.level <= level and not a.counted}
        wanted |= {a.keyword for a in INDEXED.values() if a.level is level and a.counted}
        assert all(row.keys() == wanted for row in rows)
    assert counts == {Level.PATIENT: 2, Level.STUDY: 3, Level.SERIES: 5, Level.INSTANCE: 8}


def test_what_is_counted_is_counted(filled: Index) -> None:
    patients = {r["PatientID"]: r for r in search(filled, Level.PATIENT, archive="levels")}
    assert patients["P-1"]["NumberOfPatientRelatedStudies"] == 2
    (study,) = search(filled, archive="levels", StudyID="one")
    assert study["ModalitiesInStudy"] == ("CT", "SR")
    assert study["NumberOfStudyRelatedSeries"] == 3
    assert study["NumberOfStudyRelatedInstances"] == 6
    series = search(filled, Level.SERIES, archive="levels", StudyInstanceUID=make.uid("one"))
    assert [row["NumberOfSeriesRelatedInstances"] for row in series] == [1, 2, 3]
    instance = search(filled, Level.INSTANCE, archive="levels")[0]
    assert instance["AvailableTransferSyntaxUID"] == (make.EXPLICIT,)


def test_numbers_and_keys_of_outer_levels_match(filled: Index) -> None:
    rows = search(filled, Level.SERIES, archive="levels", SeriesNumber="2")
    assert [row["SeriesInstanceUID"] for row in rows] == [make.uid("one", 2)]
    rows = search(filled, Level.INSTANCE, archive="levels", PatientID="P-1", Modality="MR")
    assert [row["InstanceNumber"] for row in rows] == [1]


def test_pages_follow_each_other_without_gap_or_overlap(filled: Index) -> None:
    for level in Level:
        whole = search(filled, level, archive="levels")
        paged = []
        for offset in range(0, len(whole) + 2, 2):
            paged += search(filled, level, archive="levels", limit=2, offset=offset)
        assert paged == whole


@pytest.mark.parametrize(("limit", "rows", "more"), [(0, 0, True), (2, 2, True), (3, 3, False)])
def test_a_page_says_whether_more_exist(filled: Index, limit: int, rows: int, more: bool) -> None:
    archive = enter(filled, archive="levels")
    with filled.read() as connection:
        page, has_more = queries.search(connection, archive, Query(Level.STUDY, limit=limit))
    assert (len(page), has_more) == (rows, more)


def test_studies_come_newest_first_and_those_without_a_date_last(filled: Index) -> None:
    order = [row["StudyID"] for row in search(filled, archive="dates")]
    assert order == ["c", "b", "a", "d"]


def test_what_lacks_its_number_comes_last_and_in_the_order_of_uids(index: Index) -> None:
    numbers = [None, 2, 1, None]
    for serial, number in enumerate(numbers):
        made = make.data_set(1, series_instance_uid=f"1.{serial}", SeriesNumber=number)
        enter(index, made)
    order = [row["SeriesInstanceUID"] for row in search(index, Level.SERIES)]
    assert order == ["1.2", "1.1", "1.0", "1.3"]


def test_the_tails_of_a_name_go_with_its_patient(index: Index) -> None:
    archive = enter(index, make.data_set(patient_name="Doe^Jane"))
    assert len(search(index, PatientName="*oe^j*")) == 1
    with index.write() as connection:
        catalog.remove(connection, archive, Scope(make.uid("study")))
        assert connection.execute(select(func.count()).select_from(name_tails)).scalar() == 0
    assert search(index, PatientName="*oe^j*") == []


def test_a_study_whose_series_name_no_modality_is_answered(index: Index) -> None:
    enter(index, make.data_set(modality=""))
    (row,) = search(index)
    assert row["NumberOfStudyRelatedInstances"] == 1
    assert search(index, Level.SERIES)[0]["Modality"] in (None, "")


def test_an_archive_sees_nothing_of_another(filled: Index) -> None:
    assert search(filled, archive="nothing here") == []
    assert found(filled, "dates") == set(DATES)
