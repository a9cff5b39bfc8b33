"""Which series of a study a model reads, and for every other series why not.

Only headers are needed, so nothing is decoded that is not wanted. A series whose geometry does not
fit (a gap, a tilt) is passed over for the next best that does; the reasons of all are kept, since
"why was my series not read" is the first question of whoever waits for a result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pydicom.multival import MultiValue

from inference import manifest
from inference.findings import Reason, SeriesVerdict
from inference.manifest import Condition, Smallest
from inference.volume import Grid, Unfit, grid_of, value_of

# What a verdict is called when a condition on this attribute fails.
CODE_OF_KEYWORD: Final[Mapping[str, str]] = {
    "BodyPartExamined": "body_part",
    "ImageType": "image_type",
    "Modality": "modality",
    "SOPClassUID": "sop_class",
}
OTHER_CONDITION: Final = "condition"
# Verdicts on series that were never meant for the model.
NOT_MEANT: Final = frozenset({*CODE_OF_KEYWORD.values(), OTHER_CONDITION})


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The series to read and its grid, or neither; and a verdict on every series of the study."""

    series_instance_uid: str | None
    grid: Grid | None
    verdicts: tuple[SeriesVerdict, ...]

    @property
    def reason(self) -> Reason:
        """Why nothing was taken: a geometry's own reason if one series alone was meant."""
        meant = [verdict for verdict in self.verdicts if verdict.code not in NOT_MEANT]
        if len(meant) == 1:
            return Reason(meant[0].code, meant[0].sentence)
        sentences = "; ".join(sorted({verdict.sentence for verdict in self.verdicts}))
        return Reason("no_series", f"no series fits: {sentences or 'the study is empty'}")

    @property
    def sop_instance_uids(self) -> frozenset[str]:
        """The instances whose pixels are needed."""
        frames = self.grid.frames if self.grid else ()
        return frozenset(frame.sop_instance_uid for frame in frames)


def select(wanted: manifest.Selection, headers: Iterable[Dataset]) -> Selection:
    """Choose the series for the model's slot from the headers of all instances of a study."""
    slot = wanted.slot
    verdicts: dict[str, SeriesVerdict] = {}
    grids: dict[str, Grid] = {}
    for uid, series in _by_series(headers).items():
        try:
            grids[uid] = grid_of(_matching(series, slot.where.all), slot.geometry)
        except Unfit as unfit:
            verdicts[uid] = SeriesVerdict(uid, unfit.code, unfit.message)
    ranked = sorted(grids, key=lambda uid: (*_ranks(grids[uid], slot.rank), uid))
    for place, uid in enumerate(ranked):
        verdicts[uid] = _placed(uid, place)
    best = ranked[0] if ranked else None
    return Selection(
        series_instance_uid=best,
        grid=grids[best] if best else None,
        verdicts=tuple(verdicts[uid] for uid in sorted(verdicts)),
    )


def _placed(uid: str, place: int) -> SeriesVerdict:
    if place == 0:
        return SeriesVerdict(uid, "selected", "read by the model")
    return SeriesVerdict(uid, "ranked_lower", "another series of the study fits the model better")


def _by_series(headers: Iterable[Dataset]) -> dict[str, list[Dataset]]:
    series: dict[str, list[Dataset]] = {}
    for header in headers:
        series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(header)
    return series


def _matching(series: list[Dataset], conditions: Iterable[Condition]) -> list[Dataset]:
    """The instances of a series that meet every condition; Unfit names the one that all fail."""
    for condition in conditions:
        matching = [header for header in series if _holds(condition, header)]
        if not matching:
            raise Unfit(
                CODE_OF_KEYWORD.get(condition.tag, OTHER_CONDITION),
                _complaint(condition, series[0]),
            )
        series = matching
    return series


def _holds(condition: Condition, header: Dataset) -> bool:
    values = _values(header, condition.tag)
    if not values:
        return condition.missing == "unknown"
    if condition.in_ is not None:
        return any(value in condition.in_ for value in values)
    if condition.contains is not None:
        return condition.contains in values
    if condition.not_contains is not None:
        return condition.not_contains not in values
    if condition.regex is not None:
        return any(re.search(condition.regex, value) for value in values)
    return all(_within(condition, value) for value in values)


def _within(condition: Condition, value: str) -> bool:
    try:
        number = float(value)
    except ValueError:
        return False
    return (condition.ge is None or number >= condition.ge) and (
        condition.le is None or number <= condition.le
    )


def _values(header: Dataset, keyword: str) -> list[str]:
    value = value_of(header, keyword)
    items = value if isinstance(value, MultiValue | list) else [value]
    return [str(item) for item in items if item not in (None, "")]


def _complaint(condition: Condition, header: Dataset) -> str:
    found = "\\".join(_values(header, condition.tag)) or "missing"
    return f"{condition.tag} is {found}"


def _ranks(grid: Grid, rules: Iterable[manifest.Smallest | manifest.Largest]) -> tuple[float, ...]:
    """Sort keys of a grid, the smallest first."""
    measures = {"spacing_mm": grid.spacing_mm[0], "slices": float(grid.shape[0])}
    return tuple(
        measures[rule.min] if isinstance(rule, Smallest) else -measures[rule.max] for rule in rules
    )
