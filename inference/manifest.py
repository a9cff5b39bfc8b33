"""What a model takes and gives, as its makers wrote it: `model.yaml`, read and checked.

A manifest is data, never code: it names files by digest, series by conditions, steps by the names
of a closed registry (`transforms.py`) and results by code triples. Whatever is unknown here, be it
a key, an operation or a version, is refused: a model that is half understood gives numbers that
look right. Reading a manifest runs nothing of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydicom.datadict import tag_for_keyword

from inference.findings import Code
from inference.transforms import PostOperation, PreOperation
from inference.volume import Geometry
from pacs.errors import BadModel

MANIFEST_NAME: Final = "model.yaml"
# A longer manifest is refused unread.
MANIFEST_BYTES_MAX: Final = 1024 * 1024
# Longer patterns are refused: a pattern runs over headers that anybody may send.
REGEX_CHARACTERS_MAX: Final = 200


def _code(triple: object) -> object:
    match triple:
        case [str() | int() as value, str() as scheme, str() as meaning]:
            return Code(str(value), scheme, meaning)
        case _:
            raise ValueError("a code is a triple: value, coding scheme, meaning")


Text = Annotated[str, StringConstraints(min_length=1)]
Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Version = Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A file of the model's own folder: no separator, so nothing outside can be named.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
TestFile = Annotated[str, StringConstraints(pattern=r"^tests/[A-Za-z0-9][A-Za-z0-9_.-]*$")]
CodeTriple = Annotated[Code, BeforeValidator(_code)]
Color = Annotated[int, Field(ge=0, le=255)]
Dimension = PositiveInt | Text


class Part(BaseModel, frozen=True, extra="forbid"):
    """A part of the manifest. Unknown keys are refused."""


class License(Part):
    """Under which terms the code and the weights may be used."""

    code: Text
    weights: Text


class Regulatory(Part):
    """Where the model stands with the authorities; RESEARCH marks every object it writes."""

    status: Literal["RESEARCH", "PRODUCT"]
    udi: str | None = None
    clearance: str | None = None
    jurisdiction: tuple[str, ...] = ()


class ModelCard(Part):
    """What a reader must know to trust or distrust a result."""

    training_data: tuple[str, ...] = ()
    population: Mapping[str, str] = {}
    metrics: tuple[str, ...] = ()
    subgroups: tuple[str, ...] = ()
    limitations: tuple[Text, ...]
    references: tuple[str, ...] = ()


class Algorithm(Part):
    """How results name the algorithm (PS3.16 TID 4019)."""

    name: Text
    manufacturer: Text
    family: CodeTriple


class Metadata(Part):
    """Identity and purpose. (id, version, digest) never changes: any change raises the version."""

    id: Id
    version: Version
    title: Text
    task: Literal["classification", "detection", "segmentation", "regression", "quantification"]
    license: License
    regulatory: Regulatory
    intended_use: Text
    model_card: ModelCard
    algorithm: Algorithm


class Tensor(Part):
    """Element type and shape of one input or output; a text stands for any length."""

    dtype: Literal["float32", "float64", "uint8", "int64", "bool"]
    shape: tuple[Dimension, ...]


class GraphFile(Part):
    """One ONNX file, pinned by digest, and what it takes and gives."""

    path: FileName
    sha256: Sha256
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


class Graph(Part):
    """The ONNX files of a model; a cascade has several."""

    opset: PositiveInt
    files: Annotated[tuple[GraphFile, ...], Field(min_length=1)]

    def file(self, path: str) -> GraphFile:
        return next(file for file in self.files if file.path == path)


class Condition(Part):
    """One demand on one attribute of an instance. `missing` says what absence means."""

    tag: str
    in_: tuple[str, ...] | None = Field(default=None, alias="in")
    contains: str | None = None
    not_contains: str | None = None
    regex: Annotated[str, Field(max_length=REGEX_CHARACTERS_MAX)] | None = None
    ge: float | None = None
    le: float | None = None
    missing: Literal["reject", "unknown"] = "reject"

    @field_validator("tag")
    @classmethod
    def _is_keyword(cls, keyword: str) -> str:
        if tag_for_keyword(keyword) is None:
            raise ValueError(f"{keyword} is no keyword of the DICOM dictionary")
        return keyword

    @field_validator("regex")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _has_one_demand(self) -> Self:
        demands = (self.in_, self.contains, self.not_contains, self.regex, self.ge, self.le)
        if sum(demand is not None for demand in demands) != 1:
            raise ValueError(
                "a condition has exactly one of in, contains, not_contains, regex, ge, le"
            )
        return self


class Where(Part):
    """All of these must hold for an instance."""

    all: tuple[Condition, ...]


class Smallest(Part):
    """Rank series with the smallest value first."""

    min: Literal["spacing_mm", "slices"]


class Largest(Part):
    """Rank series with the largest value first."""

    max: Literal["spacing_mm", "slices"]


class Slot(Part):
    """One input of a model: which series may fill it, and which of them is best."""

    required: Literal[True] = True
    take: Literal["best"] = "best"
    where: Where
    geometry: Geometry
    rank: tuple[Smallest | Largest, ...] = ()


class Selection(Part):
    """Which series of a study the model reads; for now through exactly one slot."""

    trigger: Literal["study"] = "study"
    slots: Annotated[Mapping[Id, Slot], Field(min_length=1, max_length=1)]
    on_unmatched: Literal["skip"] = "skip"

    @property
    def slot(self) -> Slot:
        return next(iter(self.slots.values()))


class PerSlice(Part):
    """Run one file over the slices, some at a time; its outputs become masks of the same names."""

    mode: Literal["per_slice"]
    file: FileName
    batch_slices: Annotated[int, Field(ge=1, le=64)] = 8


class Label(Part):
    """A mask that is reported as a segment, with its codes (PS3.3 C.8.20.4)."""

    mask: str
    id: Id
    label: Text
    category: CodeTriple
    type: CodeTriple
    color_rgb: tuple[Color, Color, Color]
    site: CodeTriple
    laterality: CodeTriple | None = None


class VolumeOf(Part):
    """Voxels times the volume of a voxel, in millilitres."""

    op: Literal["volume_ml"]


class MeanOf(Part):
    """Mean of the voxels, in Hounsfield units."""

    op: Literal["mean_hu"]


class PercentAtOrBelow(Part):
    """Share of voxels at or below a value, in percent."""

    op: Literal["percent_at_or_below"]
    hu: int


class Percentile(Part):
    """The smallest value at or below which at least `percent` of the voxels lie."""

    op: Literal["percentile"]
    percent: Annotated[float, Field(gt=0, lt=100)]


Measure = Annotated[VolumeOf | MeanOf | PercentAtOrBelow | Percentile, Field(discriminator="op")]


class Quantity(Part):
    """A number that is reported, with its codes (PS3.16 TID 300)."""

    id: Id
    title: Text
    measure: Measure
    concept: CodeTriple
    unit: CodeTriple
    derivation: CodeTriple | None = None
    method: CodeTriple | None = None
    decimals: Annotated[int, Field(ge=0, le=6)] = 1


class Quantification(Part):
    """What is measured, and within which label.

    `file` takes voxels and mask, and gives `voxels`, `sum_hu` and `histogram`: bins of 1 HU, the
    first at `histogram_from_hu`, where bin b counts b - 1 < HU ≤ b.
    """

    file: FileName
    of: Id
    histogram_from_hu: int
    quantities: tuple[Quantity, ...]


class SegOutput(Part):
    """A DICOM SEG of all labels, on the grid of the source."""

    kind: Literal["seg"]
    type: Literal["BINARY"] = "BINARY"
    grid: Literal["source"] = "source"


class ReportOutput(Part):
    """A Comprehensive 3D SR; `procedure` is the imaging procedure, not the algorithm."""

    kind: Literal["sr_tid1500"]
    procedure: CodeTriple


class Delivery(Part):
    """How far a result goes (shadow: stored only; advisory: shown; production: delivered)."""

    deploy: Literal["shadow", "advisory", "production"]


class Limits(Part):
    """What one run may use."""

    timeout_s: PositiveFloat
    retries: NonNegativeInt = 1


class TestVector(Part):
    """An input with the answers it must give on every host."""

    __test__ = False  # the name is the field's, and this is no test class of pytest's

    input: TestFile
    sha256: Sha256
    expect: Mapping[Id, float]
    atol: NonNegativeFloat


class Manifest(Part):
    """What a model takes and gives. Believed only after checks."""

    api_version: Literal["isocenter/v1"] = Field(alias="apiVersion")
    kind: Literal["Model"]
    metadata: Metadata
    graph: Graph
    selection: Selection
    preprocess: Mapping[str, tuple[PreOperation, ...]]
    inference: PerSlice
    postprocess: tuple[PostOperation, ...]
    labels: tuple[Label, ...]
    quantification: Quantification
    outputs: tuple[SegOutput, ReportOutput]
    delivery: Delivery
    limits: Limits
    tests: tuple[TestVector, ...] = ()

    @property
    def procedure_reported(self) -> Code:
        return self.outputs[1].procedure

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        """Whatever a part refers to must exist."""
        for sentence in self._dangling():
            raise ValueError(sentence)
        return self

    def _dangling(self) -> Iterator[str]:
        files = {file.path for file in self.graph.files}
        for path in {self.inference.file, self.quantification.file} - files:
            yield f"{path} is not among graph.files"
        if self.inference.file in files:
            yield from self._dangling_masks(set(self.graph.file(self.inference.file).outputs))
        if self.quantification.of not in {label.id for label in self.labels}:
            yield f"quantification.of: there is no label {self.quantification.of}"
        quantities = {quantity.id for quantity in self.quantification.quantities}
        for vector in self.tests:
            for name in set(vector.expect) - quantities:
                yield f"tests: there is no quantity {name}"

    def _dangling_masks(self, made: set[str]) -> Iterator[str]:
        for number, step in enumerate(self.postprocess):
            for name in step.reads() - made:
                yield f"postprocess.{number}: no earlier step makes the mask {name}"
            made |= step.makes()
        for label in self.labels:
            if label.mask not in made:
                yield f"labels: no step makes the mask {label.mask}"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a model folder. Raises BadModel with where and why."""
    return parse_manifest(manifest_bytes(folder), folder.name)


def manifest_bytes(folder: Path) -> bytes:
    """model.yaml as it stands in the folder. Raises BadModel."""
    path = folder / MANIFEST_NAME
    try:
        size = path.stat().st_size
        if size > MANIFEST_BYTES_MAX:
            raise BadModel(f"{MANIFEST_NAME} is larger than {MANIFEST_BYTES_MAX} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BadModel(f"{MANIFEST_NAME} cannot be read", folder=folder.name) from error


def parse_manifest(content: bytes, name: str) -> Manifest:
    """Read manifest bytes; name is for the error. Raises BadModel."""
    try:
        return Manifest.model_validate(yaml.load(content, _PlainLoader))  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        raise BadModel(
            f"{MANIFEST_NAME} is no plain YAML: {_one_line(error)}", model=name
        ) from error
    except ValidationError as error:
        raise BadModel(f"{MANIFEST_NAME}: {_sentence(error)}", model=name) from error


class _PlainLoader(yaml.SafeLoader):
    """Plain YAML: no tags of Python, no aliases (they grow exponentially), no key written twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401  # PyYAML's own signature
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubled = sorted({key for key in keys if keys.count(key) > 1})
        if doubled:
            raise yaml.YAMLError(f"the key {doubled[0]} is written twice")
        return super().construct_mapping(node, deep)


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


def _sentence(error: ValidationError) -> str:
    """The first complaint, with the path to the key it is about."""
    first, count = error.errors()[0], error.error_count()
    where = ".".join(str(step) for step in first["loc"]) or "manifest"
    what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
    return f"{where}: {what}" + (f" (and {count - 1} more)" if count > 1 else "")
