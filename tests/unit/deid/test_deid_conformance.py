"""A cleaned CT is as good a CT as before, in the eyes of dciodvfy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from pacs.deid import BASIC, deidentify
from tests.unit.deid.objects import KEY, chest_ct, part10

VALIDATOR = shutil.which("dciodvfy")


@pytest.mark.skipif(VALIDATOR is None, reason="dciodvfy is missing: apt-get install dicom3tools")
def test_a_cleaned_ct_has_no_new_errors(tmp_path: Path) -> None:
    original = chest_ct()
    before = _errors(tmp_path / "before.dcm", original)
    after = _errors(tmp_path / "after.dcm", deidentify(original, BASIC, KEY).data_set)
    assert after <= before


def _errors(path: Path, data_set: Dataset) -> set[str]:
    path.write_bytes(part10(data_set))
    assert VALIDATOR is not None
    answer = subprocess.run(
        [VALIDATOR, str(path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert "CTImage" in answer.stderr + answer.stdout
    return {line for line in answer.stderr.splitlines() if line.startswith("Error")}
