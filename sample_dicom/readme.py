"""The README of `sample_dicom`, written from the tables it speaks of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from sample_dicom.studies import STUDIES
from sample_dicom.trouble import TROUBLES
from sample_dicom.truth import CHEST_CT_TRUTH

_TEXT = """\
# Sample DICOM

Synthetic studies for the demo and the tests. **No patient was ever here**: every image is made of
ellipsoids, every name, date and UID is invented. Licence: Apache-2.0, as the rest of the project.

This file and all others here are written by `python -m sample_dicom` (`--to DIR` writes them
elsewhere); do not edit them by hand. Running it again changes no byte. Another version of an
encoder may write other bytes beneath `compressed/`, which then decode to the same image.
`sha256sum -c SHA256SUMS`, run here, checks what you have.

## What a densitometry of the chest CT must find

Computed from the geometry in closed form (`truth.py`), not by counting voxels:

| measure | true value |
|---|---|
{truth}

The lungs are the two ellipsoids with their bullae; the trachea is no part of them. All voxels
at or below -950 HU inside the lungs lie in the bullae, at -980 HU. The instance numbers and file
names of this study are shuffled: only the geometry tells the order of its slices.

## Studies

| folder | what | Patient ID | instances | Study Instance UID |
|---|---|---|---|---|
{studies}

## Odd files

One file in `odd/` for every known trouble, and what a receiver should do: keep it unchanged, or
refuse it with this status of the C-STORE response. `trouble.py` has the same table for tests.

| file | what is wrong | expected |
|---|---|---|
{troubles}
"""


def readme(paths: Iterable[str]) -> str:
    """The README for files at these paths, relative to `sample_dicom`."""
    truth = CHEST_CT_TRUTH
    instances = Counter(str(PurePosixPath(path).parent) for path in paths)
    return _TEXT.format(
        truth=_rows(
            ("lung volume", f"{truth.lung_volume_ml:.1f} ml"),
            ("LAA-950", f"{truth.laa950_percent:.2f} %"),
            ("Perc15", f"{truth.perc15_hu:.1f} HU"),
            ("mean lung density", f"{truth.mean_lung_density_hu:.1f} HU"),
        ),
        studies=_rows(
            *(
                (f"`{s.folder}`", s.title, s.patient_id, instances[s.folder], s.study_instance_uid)
                for s in STUDIES
            )
        ),
        troubles=_rows(
            *(
                (f"`{t.file}`", t.what, t.expected if t.status == 0 else f"refused, {t.expected}")
                for t in TROUBLES
            )
        ),
    )


def _rows(*rows: tuple[str | int, ...]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
