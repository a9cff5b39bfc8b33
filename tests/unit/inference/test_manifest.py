"""A manifest that is not understood to the last key is refused, with the place and the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference.findings import PRIVATE_SCHEME, Code
from inference.manifest import MANIFEST_BYTES_MAX, parse_manifest, read_manifest
from inference.registry import BUILT_IN, Registry, open_model
from pacs.errors import BadModel, Missing
from tests.unit.inference.dictionary import is_known

FOLDER = BUILT_IN / "ct_lung_densitometry"
TEXT = (FOLDER / "model.yaml").read_text()


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    tree = yaml.safe_load(TEXT)
    change(tree)
    return yaml.safe_dump(tree).encode()


def test_the_built_in_manifest_is_read() -> None:
    manifest = read_manifest(FOLDER)
    assert manifest.metadata.id == "ct-lung-densitometry"
    assert manifest.delivery.deploy == "advisory"
    assert [quantity.id for quantity in manifest.quantification.quantities] == [
        "lung_volume",
        "mean_lung_density",
        "laa950",
        "perc15",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(plugin="evil.py"), "plugin: unknown key"),
        (lambda t: t.update(apiVersion="isocenter/v2"), "apiVersion"),
        (lambda t: t["metadata"].pop("intended_use"), "metadata.intended_use: Field required"),
        (lambda t: t["metadata"].update(version="1"), "metadata.version"),
        (lambda t: t["postprocess"][0].update(op="run_python"), "postprocess.0"),
        (lambda t: t["postprocess"][0].update(radius=2), "radius: unknown key"),
        (lambda t: t["postprocess"][3].update(other="nothing"), "makes the mask nothing"),
        (lambda t: t["labels"][0].update(mask="nothing"), "makes the mask nothing"),
        (lambda t: t["labels"][0].update(type=["39607008", "SCT"]), "a code is a triple"),
        (lambda t: t["inference"].update(file="other.onnx"), "not among graph.files"),
        (lambda t: t["graph"]["files"][0].update(path="../up.onnx"), "graph.files.0.path"),
        (lambda t: t["graph"]["files"][0].update(sha256="00"), "graph.files.0.sha256"),
        (lambda t: t["tests"][0].update(input="/etc/passwd"), "tests.0.input"),
        (lambda t: t["tests"][0]["expect"].update(joy=1), "there is no quantity joy"),
        (lambda t: t["quantification"].update({"of": "liver"}), "there is no label liver"),
        (
            lambda t: t["selection"]["slots"].update(pet=deepcopy(t["selection"]["slots"]["ct"])),
            "slots",
        ),
        (
            lambda t: t["selection"]["slots"]["ct"]["where"]["all"][0].update(tag="Modalty"),
            "Modalty is no keyword",
        ),
        (
            lambda t: t["selection"]["slots"]["ct"]["where"]["all"][4].update(regex="(("),
            "no regular expression",
        ),
        (
            lambda t: t["selection"]["slots"]["ct"]["where"]["all"][0].update(contains="CT"),
            "exactly one of",
        ),
        (
            lambda t: t["selection"]["slots"]["ct"]["geometry"].update(tilt="resample"),
            "geometry.tilt",
        ),
    ],
)
def test_a_mistake_in_a_manifest_names_its_place(
    change: Callable[[dict[str, Any]], object], words: str
) -> None:
    with pytest.raises(BadModel) as caught:
        parse_manifest(changed(change), "model")
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: &x [1, 2]\nb: *x\n", "aliases are not allowed"),
        (b"kind: Model\nkind: Model\n", "kind is written twice"),
        (b"!!python/object/apply:os.system ['true']", "no plain YAML"),
        (b"[unclosed", "no plain YAML"),
        (b"- 1", "valid dictionary"),
        (b"\xff\xfe\xfa", "no plain YAML"),
        (b"? [1]\n: 2\n", "no plain YAML"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(BadModel) as caught:
        parse_manifest(content, "model")
    assert words in caught.value.message


def test_a_manifest_of_absurd_size_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_bytes(b"#" * (MANIFEST_BYTES_MAX + 1))
    with pytest.raises(BadModel, match="larger than"):
        read_manifest(tmp_path)


def _codes(value: object) -> list[Code]:
    if isinstance(value, Code):
        return [value]
    if isinstance(value, dict):
        return [code for item in value.values() for code in _codes(item)]
    if isinstance(value, list | tuple):
        return [code for item in value for code in _codes(item)]
    if hasattr(value, "__pydantic_fields__"):
        return [code for _, item in value for code in _codes(item)]  # type: ignore[attr-defined]  # a model
    return []


def test_every_code_of_the_built_in_model_is_the_dictionarys() -> None:
    codes = _codes(read_manifest(FOLDER))
    assert len(codes) > 10
    private = {code for code in codes if code.scheme == PRIVATE_SCHEME}
    assert {code.value for code in private} == {"laa950", "perc15"}
    unknown = [code for code in codes if code not in private and not is_known(code)]
    # pydicom's dictionary has "CT Chest Report" for it; this is LOINC's own short name.
    assert unknown == [Code("24627-2", "LN", "CT Chest")]


# The registry.


def copied(tmp_path: Path, name: str = "copy") -> Path:
    return Path(
        shutil.copytree(FOLDER, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    )


def test_the_registry_lists_built_in_and_added_models(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    manifest = folder / "model.yaml"
    manifest.write_text(TEXT.replace("id: ct-lung-densitometry", "id: another"))
    registry = Registry(tmp_path)
    assert [model.id for model in registry.list()] == ["another", "ct-lung-densitometry"]
    assert registry.get("another").sha256 != registry.get("ct-lung-densitometry").sha256
    assert registry.faults() == ()


def test_a_model_that_is_not_there_is_missing() -> None:
    with pytest.raises(Missing):
        Registry(None).get("nothing")


def test_an_exchanged_graph_is_a_fault_and_the_other_models_go_on(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "segment.onnx").write_bytes((folder / "statistics.onnx").read_bytes())
    registry = Registry(tmp_path)
    assert [model.id for model in registry.list()] == ["ct-lung-densitometry"]
    (fault,) = registry.faults()
    assert (fault.folder, "digest" in fault.sentence) == ("copy", True)


def test_a_second_model_of_one_id_is_a_fault(tmp_path: Path) -> None:
    copied(tmp_path)
    (fault,) = Registry(tmp_path).faults()
    assert "another model with the id" in fault.sentence


def test_a_link_in_place_of_a_graph_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "segment.onnx").unlink()
    (folder / "segment.onnx").symlink_to(FOLDER / "segment.onnx")
    with pytest.raises(BadModel, match="link"):
        open_model(folder)


def test_a_manifest_cannot_be_changed() -> None:
    manifest = read_manifest(FOLDER)
    with pytest.raises(ValueError, match="frozen"):
        manifest.kind = "Model"  # type: ignore[misc]  # that is the point
