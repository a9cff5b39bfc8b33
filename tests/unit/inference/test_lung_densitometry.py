"""The built-in model from data sets to numbers, on phantoms whose truth is known."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from inference.check import check
from inference.findings import Reason, Result
from inference.models.ct_lung_densitometry import build
from inference.quantities import Statistics
from inference.registry import BUILT_IN, Registry
from inference.run import LoadedModel, infer, load
from inference.selection import select
from pacs.errors import BadModel, BadObject, Exhausted
from tests.unit.inference.stacks import CHEST_SPACING_MM, chest_hu, ct_stack

FOLDER = BUILT_IN / "ct_lung_densitometry"
LOADED = load(Registry().get("ct-lung-densitometry"), device="cpu", threads_max=2)
WANTED = LOADED.model.manifest


def chest(hu: NDArray[np.int16] | None = None, **geometry: Any) -> list[Dataset]:  # noqa: ANN401  # passed on to ct_stack
    return ct_stack(chest_hu() if hu is None else hu, spacing_mm=CHEST_SPACING_MM, **geometry)


def result_of(study: list[Dataset], loaded: LoadedModel = LOADED) -> Result:
    return infer(loaded, select(WANTED.selection, study), study)


def values(result: Result) -> dict[str, float]:
    return {measurement.id: measurement.value for measurement in result.measurements}


def test_lung_volume_is_that_of_the_phantom() -> None:
    result = result_of(chest())
    truth_ml = 2 * 4 / 3 * math.pi * 100 * 72 * 50 / 1000
    assert result.state == "succeeded"
    assert values(result)["lung_volume"] == pytest.approx(truth_ml, rel=0.02)
    assert values(result)["mean_lung_density"] == pytest.approx(-860, abs=15)
    assert values(result)["perc15"] == -860
    assert result.warnings == ()


def test_neither_table_nor_trachea_nor_outside_is_lung() -> None:
    (segmentation,) = result_of(chest()).segmentations
    hu = chest_hu()
    assert not segmentation.mask[hu <= -1000].any()
    assert segmentation.mask[hu == -860].mean() > 0.999


def test_laa950_is_the_share_of_light_voxels() -> None:
    hu = chest_hu()
    inside = np.flatnonzero(hu == -860)
    light = np.random.default_rng(7).choice(inside, inside.size // 10, replace=False)
    hu.flat[light] = -950
    found = values(result_of(chest(hu)))
    assert found["laa950"] == pytest.approx(10, abs=0.1)
    hu.flat[light] = -949
    assert values(result_of(chest(hu)))["laa950"] == 0


def test_a_vessel_belongs_to_the_lung() -> None:
    hu = chest_hu()
    plain = values(result_of(chest(hu)))["lung_volume"]
    hu[10:40, 52:54, 88:90] = 40
    assert values(result_of(chest(hu)))["lung_volume"] == pytest.approx(plain, rel=1e-4)


def test_the_result_does_not_depend_on_order_handedness_or_place() -> None:
    plain = values(result_of(chest()))
    shuffled = chest(origin_mm=(-500, 300, -1200))
    shuffled.reverse()
    assert values(result_of(shuffled)) == plain
    upside_down = chest(chest_hu()[::-1], step_mm=(0, 0, -5.0))
    assert values(result_of(upside_down)) == plain


def test_the_whole_record_of_a_run_is_kept() -> None:
    result = result_of(chest())
    assert result.provider == "CPUExecutionProvider"
    assert set(result.timings_ms) == {"prepared", "inferred"}
    assert [step.op for step in result.steps][:2] == ["per_slice", "open"]
    assert len(result.steps) == len(WANTED.postprocess) + 2
    assert (result.model_sha256, len(result.model_sha256)) == (LOADED.model.sha256, 64)


def test_a_body_without_lungs_is_skipped_and_never_a_normal_finding() -> None:
    hu = np.where(chest_hu() == -860, 40, chest_hu()).astype(np.int16)
    result = result_of(chest(hu))
    assert (result.state, result.measurements) == ("skipped", ())
    assert result.reason is not None
    assert result.reason.code == "no_lungs"


def test_empty_images_are_skipped() -> None:
    result = result_of(chest(np.full_like(chest_hu(), -1000)))
    assert result.reason is not None
    assert result.reason.code == "no_lungs"


def test_lungs_that_were_cut_off_are_remarked() -> None:
    result = result_of(chest(chest_hu()[15:]))
    assert result.state == "succeeded"
    assert [warning.code for warning in result.warnings] == ["lungs_cut"]


def test_a_study_with_a_missing_slice_is_skipped_with_the_position() -> None:
    study = chest()
    study.pop(20)
    result = result_of(study)
    assert (result.state, result.provider) == ("skipped", "CPUExecutionProvider")
    assert result.reason is not None
    assert result.reason.code == "missing_slices"
    assert "100.0 mm" in result.reason.sentence


class Faulty:
    """A runner that breaks the contract in one way."""

    provider = "FaultyExecutionProvider"

    def __init__(self, outputs: Mapping[str, Any] | Exception) -> None:
        self.outputs = outputs

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        assert inputs
        if isinstance(self.outputs, Exception):
            raise self.outputs
        return self.outputs


def faulty(file: str, outputs: Mapping[str, Any] | Exception) -> LoadedModel:
    return LoadedModel(LOADED.model, {**LOADED.runners, file: Faulty(outputs)})


@pytest.mark.parametrize(
    ("file", "outputs"),
    [
        ("segment.onnx", BadModel("air holds a value that is no number")),
        ("segment.onnx", {"air": np.zeros((1, 1, 2, 2)), "tissue": np.zeros((1, 1, 2, 2))}),
        ("statistics.onnx", {"voxels": 9, "sum_hu": 0.0, "histogram": np.zeros(2048, np.int64)}),
    ],
)
def test_a_model_that_breaks_its_word_has_failed(file: str, outputs: Any) -> None:  # noqa: ANN401  # any breakage
    result = result_of(chest(), faulty(file, outputs))
    assert (result.state, result.measurements, result.segmentations) == ("failed", (), ())
    assert result.reason is not None
    assert result.reason.code == "bad_output"


def test_pixels_that_a_sandbox_refuses_skip_the_study() -> None:
    study = chest()

    def decoding() -> Iterator[Dataset]:
        yield from study[:20]
        raise BadObject("the codec gave up")

    result = infer(LOADED, select(WANTED.selection, study), decoding())
    assert result.state == "skipped"
    assert result.reason == Reason("unreadable_pixels", "the codec gave up")


def test_want_of_memory_is_left_to_the_queue() -> None:
    with pytest.raises(Exhausted):
        result_of(chest(), faulty("segment.onnx", Exhausted("no memory")))


# Statistics and files.


def counted(histogram: Mapping[int, int]) -> Statistics:
    total = Statistics(WANTED.quantification, voxel_volume_mm3=2.0)
    bins = np.zeros(2048, np.int64)
    for hu, count in histogram.items():
        bins[hu + 1024] = count
    total.add({"voxels": bins.sum(), "sum_hu": np.array(0.0), "histogram": bins})
    return total


def reported(total: Statistics) -> dict[str, float]:
    return {q.id: total.value_of(q.measure) for q in WANTED.quantification.quantities}


def test_the_percentile_of_a_ramp() -> None:
    ramp = dict.fromkeys(range(-1000, -499), 1)
    assert reported(counted(ramp))["perc15"] == -925


def test_percent_at_or_below_includes_the_threshold() -> None:
    assert reported(counted({-950: 10, -949: 90}))["laa950"] == 10


def test_counts_of_batches_add_up() -> None:
    total = counted({-900: 100})
    more = counted({-800: 300}).histogram
    total.add({"voxels": more.sum(), "sum_hu": np.array(-300.0), "histogram": more})
    assert reported(total) == {
        "lung_volume": pytest.approx(0.8),
        "mean_lung_density": -0.75,
        "laa950": 0,
        "perc15": -900,
    }


def test_values_between_whole_numbers_are_counted_on_the_right_side() -> None:
    runner = LOADED.runners["statistics.onnx"]
    hu = np.array([-950.5, -950.0, -949.5, -3000, 3000], np.float32).reshape(1, 1, 1, 5)
    found = runner.run({"hu": hu, "mask": np.ones(hu.shape, np.bool_)})
    assert found["voxels"] == 5
    assert found["histogram"][: -950 + 1024 + 1].sum() == 3
    assert found["histogram"][-949 + 1024] == 1
    assert found["histogram"][-1] == 1


def test_an_empty_mask_is_counted_as_nothing() -> None:
    runner = LOADED.runners["statistics.onnx"]
    hu = np.zeros((1, 1, 2, 2), np.float32)
    found = runner.run({"hu": hu, "mask": np.zeros(hu.shape, np.bool_)})
    assert [int(found[name].sum()) for name in ("voxels", "sum_hu", "histogram")] == [0, 0, 0]


def test_the_test_vector_is_reproduced_here() -> None:
    checks = check(FOLDER, device="cpu")
    assert [(done.rule, done.holds) for done in checks] == [
        ("files", True),
        ("tests/phantom.dcm", True),
    ]


def test_a_vector_that_is_not_reproduced_says_by_how_much(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "copy"))
    manifest = folder / "model.yaml"
    manifest.write_text(manifest.read_text().replace("laa950: 4.05", "laa950: 9.05"))
    checks = check(folder, device="cpu")
    assert not checks[1].holds
    assert checks[1].sentence == "laa950 is 4.05 and should be 9.05"


def test_a_folder_without_a_model_fails_the_check(tmp_path: Path) -> None:
    (done,) = check(tmp_path)
    assert not done.holds


def test_the_files_in_the_folder_are_those_the_script_writes() -> None:
    for name, content in build.files().items():
        there = (FOLDER / name).read_bytes()
        if name.endswith(".onnx"):
            assert onnx.ModelProto.FromString(there) == onnx.ModelProto.FromString(content)
        else:
            vector = pydicom.dcmread(FOLDER / name)
            assert np.array_equal(vector.pixel_array, build.vector_voxels())
