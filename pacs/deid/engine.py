"""`deidentify`: one data set in, its de-identified copy out, or a reason why there is none.

One walk visits every element at every depth; the policy's plan says what to do with it, and a
table says who does it. The function is pure: the input is never changed, and the same input,
policy and key give the same output in every process. Pixel data is handed on as it is, never
decoded. After the walk the output is searched for the patient's own identifiers (`residue`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pacs.deid import codes, identity
from pacs.deid.dummies import DUMMIES
from pacs.deid.elements import (
    DEFAULT_CODECS,
    LAX_CODECS,
    Codecs,
    Element,
    codecs_of,
    copied,
    element_of,
    items,
    strings,
    tags_of,
)
from pacs.deid.policy import Action, Plan, Policy, Step, plan
from pacs.deid.reasons import Withheld
from pacs.deid.release import require_releasable
from pacs.deid.residue import residue
from pacs.deid.standard import ROOT, registered_name
from pacs.deid.values import cleaned_code_string, is_clean_text, is_number

NESTING_MAX: Final = 64  # sequences inside sequences; an object with deeper ones is withheld

_UTF8: Final = "UTF8"  # pydicom's name of ISO_IR 192, in which every result is written
_BASIC_PROFILE: Final = codes.Code("113100", "DCM", "", "Basic Application Confidentiality Profile")
_UID: Final = re.compile(r"[0-9.]{1,64}")

_PATIENT_ID, _ISSUER_OF_PATIENT_ID = 0x00100020, 0x00100021
_STUDY_INSTANCE_UID, _SOP_CLASS_UID = 0x0020000D, 0x00080016


@dataclass(frozen=True, slots=True)
class Report:
    """What was done to one object: the profile, and how many attributes met each action.

    It names no attribute and no value, so it may be kept and shown outside the archive.
    """

    profile: str
    version: int
    edition: str
    actions: tuple[tuple[Action, int], ...]


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A de-identified data set, without file meta information, and the report of its making.

    The data set shares its pixel data with the original. Its transfer syntax is unchanged.
    """

    data_set: Dataset
    report: Report


def deidentify(
    data_set: Dataset, policy: Policy, key: bytes, *, pseudonym: str | None = None
) -> Cleaned:
    """The de-identified copy of an object (PS3.15 Annex E), under a project's secret key.

    pseudonym becomes Patient ID and Patient's Name; without it, one is derived from key, Patient
    ID and its issuer. Raises Withheld, with a reason code, for an object that may not be released.
    """
    assert len(key) >= identity.KEY_BYTES_MIN, "the key of a project is at least 128 bits"
    require_releasable(data_set, policy)
    walk = _Walk(plan(policy, _text(data_set, _SOP_CLASS_UID)), key)
    cleaned = walk.item(data_set, ROOT, DEFAULT_CODECS, depth=0)
    _set_identity(cleaned, pseudonym or _pseudonym(data_set, key), data_set, key)
    _set_statement(cleaned, policy)
    left = residue(cleaned, data_set)
    if left:
        raise Withheld("residue", kinds=", ".join(left))
    actions = tuple(sorted(walk.counts.items()))
    return Cleaned(cleaned, Report(policy.profile, policy.version, policy.edition, actions))


class _Place(NamedTuple):
    """Where an element stands, for what is decided by its surroundings."""

    step: Step
    codecs: Codecs
    depth: int


class _Walk:
    """One object on its way: the plan, the key, and what has been done so far."""

    def __init__(self, plan: Plan, key: bytes) -> None:
        self.plan = plan
        self.key = key
        self.uids: dict[str, str] = {}
        self.counts: Counter[Action] = Counter()

    def item(self, source: Dataset, sequence: int, inherited: Codecs, depth: int) -> Dataset:
        """A new data set with the cleaned elements of source."""
        if depth > NESTING_MAX:
            raise Withheld("nested_too_deep", nesting_max=NESTING_MAX)
        codecs = codecs_of(source, inherited)
        target = _empty_like(source)
        is_coded = codes.is_coded_entry(source)
        for tag in tags_of(source):
            if is_coded and tag in codes.CODE_TAGS:
                continue
            element, step = source.get_item(tag), self.plan[sequence << 32 | tag]
            self.counts[step.action] += 1
            cleaned = _HANDLERS[step.action](self, element, _Place(step, codecs, depth))
            if cleaned is not None:
                target[tag] = cleaned
        if is_coded:
            _add(target, codes.coded_entry(codes.cleaned_code(source, codecs)))
        return target

    def empty(self, element: Element, place: _Place) -> Element | None:
        """Z: the attribute stays, with a value of zero length."""
        return DataElement(element.tag, place.step.vr, [] if place.step.vr == "SQ" else None)

    def dummy(self, element: Element, place: _Place) -> Element | None:
        """D: a constant of the VR; of a sequence, one item of constants."""
        vr = place.step.vr
        if vr != "SQ":
            return DataElement(element.tag, vr, DUMMIES[vr]) if vr in DUMMIES else None
        first = items(element)[:1]
        return _sequence(element, [self.dummy_item(i, element.tag, place.depth + 1) for i in first])

    def dummy_item(self, source: Dataset, sequence: int, depth: int) -> Dataset:
        """An item of the same shape in which every value is a constant or a replaced UID."""
        if depth > NESTING_MAX:
            raise Withheld("nested_too_deep", nesting_max=NESTING_MAX)
        target = _empty_like(source)
        for tag in tags_of(source):
            step = self.plan[sequence << 32 | tag]
            if step.action is Action.REMOVE or tag in codes.CODE_TAGS:
                continue
            handler = _Walk.uid if step.vr == "UI" else _Walk.dummy
            cleaned = handler(self, source.get_item(tag), _Place(step, None, depth))
            if cleaned is not None:
                target[tag] = cleaned
        if codes.is_coded_entry(source):
            _add(target, codes.coded_entry(codes.DUMMY))
        return target

    def uid(self, element: Element, place: _Place) -> Element | None:
        """U: every value replaced, but for the UIDs that the standard itself registers."""
        values = strings(element, LAX_CODECS) or ()
        if place.step.action is Action.CHECK and all(_UID.fullmatch(value) for value in values):
            return copied(element, "UI")
        return DataElement(element.tag, "UI", [self.replaced(value) for value in values])

    def replaced(self, uid: str) -> str:
        if uid not in self.uids:
            known = not uid or registered_name(uid) is not None
            self.uids[uid] = uid if known else identity.replaced_uid(self.key, uid)
        return self.uids[uid]

    def keep(self, element: Element, place: _Place) -> Element | None:
        """K: the value as it is; of a sequence, every item cleaned, unless nothing is left of it."""
        if place.step.vr != "SQ":
            return copied(element, place.step.vr)
        sources = items(element)
        cleaned = [self.item(i, element.tag, place.codecs, place.depth + 1) for i in sources]
        is_emptied = any(sources) and not any(cleaned)
        return None if is_emptied else _sequence(element, cleaned)

    def check(self, element: Element, place: _Place) -> Element | None:
        """C: kept if it is what its VR promises, else what the Type of the attribute asks for."""
        match place.step.vr:
            case "UI":
                return self.uid(element, place)
            case "CS":
                checked = _checked_code_string(element)
            case "LO" | "SH":
                checked = _checked_text(element, place)
            case vr:
                checked = copied(element, vr) if is_number(element, vr) else None
        return _HANDLERS[place.step.otherwise](self, element, place) if checked is None else checked


def _checked_code_string(element: Element) -> Element | None:
    values = strings(element, DEFAULT_CODECS)
    if values is None:
        return None
    kept = tuple(cleaned_code_string(value) for value in values)
    return copied(element, "CS") if kept == values else DataElement(element.tag, "CS", list(kept))


def _checked_text(element: Element, place: _Place) -> Element | None:
    values = strings(element, place.codecs)
    if values is None or not is_clean_text(values):
        return None
    return DataElement(element.tag, place.step.vr, list(values))


_HANDLERS: Final[dict[Action, Callable[[_Walk, Element, _Place], Element | None]]] = {
    Action.REMOVE: lambda _walk, _element, _place: None,
    Action.EMPTY: _Walk.empty,
    Action.DUMMY: _Walk.dummy,
    Action.REPLACE_UID: _Walk.uid,
    Action.KEEP: _Walk.keep,
    Action.CHECK: _Walk.check,
}


def _empty_like(source: Dataset) -> Dataset:
    """A data set that takes the raw elements of source as they are, its text in ISO_IR 192."""
    target = Dataset(parent_encoding=[_UTF8])
    implicit_vr, little_endian = source.original_encoding
    target.set_original_encoding(implicit_vr, little_endian, [_UTF8])
    return target


def _sequence(element: Element, datasets: list[Dataset]) -> DataElement:
    return DataElement(element.tag, "SQ", Sequence(datasets))


def _add(target: Dataset, elements: list[DataElement]) -> None:
    for element in elements:
        target.add(element)


def _pseudonym(data_set: Dataset, key: bytes) -> str:
    return identity.patient_pseudonym(
        key,
        _text(data_set, _PATIENT_ID),
        _text(data_set, _ISSUER_OF_PATIENT_ID),
        _text(data_set, _STUDY_INSTANCE_UID),
    )


def _text(data_set: Dataset, tag: int) -> str:
    """The text of a top-level attribute; bytes that nothing decodes are taken one by one."""
    element = element_of(data_set, tag)
    if element is None:
        return ""
    values = strings(element, codecs_of(data_set, DEFAULT_CODECS))
    return "\\".join(strings(element, LAX_CODECS) or () if values is None else values)


def _set_identity(cleaned: Dataset, pseudonym: str, original: Dataset, key: bytes) -> None:
    cleaned.SpecificCharacterSet = "ISO_IR 192"
    cleaned.PatientName = pseudonym
    cleaned.PatientID = pseudonym
    cleaned.StudyID = identity.study_pseudonym(key, _text(original, _STUDY_INSTANCE_UID))


def _set_statement(cleaned: Dataset, policy: Policy) -> None:
    """Say what was done; what an earlier de-identification said of itself stays (PS3.15 E.1.1)."""
    earlier = cleaned.get("DeidentificationMethod") or []
    methods = [earlier] if isinstance(earlier, str) else list(earlier)
    if policy.statement not in methods:
        cleaned.DeidentificationMethod = [*methods, policy.statement]
    earlier_codes = list(cleaned.get("DeidentificationMethodCodeSequence") or [])
    if all(code.get("CodeValue") != _BASIC_PROFILE.value for code in earlier_codes):
        code = _empty_like(cleaned)
        _add(code, codes.coded_entry(_BASIC_PROFILE))
        cleaned.DeidentificationMethodCodeSequence = [*earlier_codes, code]
    cleaned.PatientIdentityRemoved = "YES"
    cleaned.LongitudinalTemporalInformationModified = "REMOVED"
