"""One ONNX file, checked and in memory, ready to run.

onnxruntime reads a graph in native code and follows what it says: external data to other files,
operator domains to loaded libraries. So the file is parsed and walked here first, and only a plain
graph of standard operators, whose inputs and outputs are those of the manifest, reaches it.
`Runner` is the extension point: whatever takes and gives named arrays as a manifest's file says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, Protocol

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from inference.manifest import GraphFile, Tensor
from pacs.errors import BadModel, Broken, Exhausted

Arrays = Mapping[str, NDArray[Any]]
Device = Literal["auto", "cuda", "cpu"]

# A larger file is refused unread: protobuf itself ends at 2 GiB.
GRAPH_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024 - 1
# Graphs nested deeper (in If, Loop, Scan) are refused.
NESTING_MAX: Final = 8
# Operators outside these domains would come from a library.
STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx"})

PROVIDERS: Final[Mapping[Device, tuple[str, ...]]] = {
    "auto": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "cpu": ("CPUExecutionProvider",),
}
ELEMENT_TYPES: Final[Mapping[int, str]] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.BOOL: "bool",
}
# onnxruntime's exceptions share no ancestor but Exception.
LOAD_ERRORS: Final = (
    onnxruntime_errors.Fail,
    onnxruntime_errors.InvalidArgument,
    onnxruntime_errors.InvalidGraph,
    onnxruntime_errors.InvalidProtobuf,
    onnxruntime_errors.NotImplemented,
    onnxruntime_errors.RuntimeException,
)
RUN_ERRORS: Final = (*LOAD_ERRORS, onnxruntime_errors.EPFail)


class Runner(Protocol):
    """One graph file in memory. Every runner passes `tests/contracts/test_runner.py`."""

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graph, which may not be the one asked for."""

    def run(self, inputs: Arrays) -> Arrays:
        """Every output by name, as the manifest describes it.

        Raises BadModel where the graph fails, or gives another type, shape or a number that is
        none; Exhausted where memory ends.
        """


class OnnxRunner:
    """A runner on onnxruntime. There is none whose file and manifest disagree."""

    def __init__(
        self, content: bytes, file: GraphFile, *, device: Device, threads_max: int
    ) -> None:
        check_graph(content, file)
        self._file = file
        self._session = _session(content, file, device, threads_max)
        self.provider: str = self._session.get_providers()[0]
        if device == "cuda" and self.provider != "CUDAExecutionProvider":
            raise Broken("CUDA was asked for and onnxruntime cannot use it here", file=file.path)

    def run(self, inputs: Arrays) -> Arrays:
        _check_arrays(inputs, self._file.inputs, self._file.path)
        names = list(self._file.outputs)
        try:
            outputs = dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except RUN_ERRORS as error:
            if "allocate memory" in str(error):
                raise Exhausted("the model needs more memory", file=self._file.path) from error
            raise BadModel("the graph failed while it ran", file=self._file.path) from error
        _check_arrays(outputs, self._file.outputs, self._file.path)
        return outputs


def check_graph(content: bytes, file: GraphFile) -> None:
    """Refuse whatever onnxruntime should not see. Raises BadModel with the reason."""
    if len(content) > GRAPH_BYTES_MAX:
        raise BadModel(f"the file is larger than {GRAPH_BYTES_MAX} bytes", file=file.path)
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise BadModel("the file is no ONNX model", file=file.path) from error
    for sentence in _objections(model):
        raise BadModel(sentence, file=file.path)
    weights = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in weights]
    _agree(given, file.inputs, "input", file.path)
    _agree(model.graph.output, file.outputs, "output", file.path)


def _objections(model: onnx.ModelProto) -> Iterator[str]:
    domains = {imported.domain for imported in model.opset_import}
    for domain in sorted(domains - STANDARD_DOMAINS):
        yield f"operators of the domain {domain!r} are not allowed"
    if model.functions:
        yield "local functions are not allowed"
    yield from _objections_within(model.graph, 1)


def _objections_within(graph: onnx.GraphProto, depth: int) -> Iterator[str]:
    """What is wrong with a graph, its constants and the graphs inside it."""
    if depth > NESTING_MAX:
        yield f"graphs are nested deeper than {NESTING_MAX}"
        return
    sparse = [tensor for pair in graph.sparse_initializer for tensor in (pair.values, pair.indices)]
    for tensor in (*graph.initializer, *sparse):
        yield from _objection_to(tensor)
    for node in graph.node:
        if node.domain not in STANDARD_DOMAINS:
            yield f"operators of the domain {node.domain!r} are not allowed"
        for attribute in node.attribute:
            yield from _objections_in_attribute(attribute, depth)


def _objections_in_attribute(attribute: onnx.AttributeProto, depth: int) -> Iterator[str]:
    sparse = (attribute.sparse_tensor, *attribute.sparse_tensors)
    pairs = [tensor for pair in sparse for tensor in (pair.values, pair.indices)]
    for tensor in (attribute.t, *attribute.tensors, *pairs):
        yield from _objection_to(tensor)
    inner = [attribute.g] if attribute.HasField("g") else []
    for graph in (*inner, *attribute.graphs):
        yield from _objections_within(graph, depth + 1)


def _objection_to(tensor: onnx.TensorProto) -> Iterator[str]:
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield "weights outside the file are not allowed"


def _agree(
    values: Iterable[onnx.ValueInfoProto],
    declared: Mapping[str, Tensor],
    kind: str,
    path: str,
) -> None:
    """The graph's inputs or outputs are those of the manifest."""
    found = {value.name: value.type.tensor_type for value in values}
    if set(found) != set(declared):
        raise BadModel(
            f"the graph's {kind}s are {', '.join(sorted(found))} and the manifest's "
            f"{', '.join(sorted(declared))}",
            file=path,
        )
    for name, tensor in declared.items():
        element = ELEMENT_TYPES.get(found[name].elem_type)
        shape = tuple(size.dim_value or None for size in found[name].shape.dim)
        if element != tensor.dtype or not _fits(shape, tensor):
            raise BadModel(
                f"{kind} {name} is {element} {list(shape)} in the graph and {tensor.dtype} "
                f"{list(tensor.shape)} in the manifest",
                file=path,
            )


def _fits(shape: tuple[int | None, ...], tensor: Tensor) -> bool:
    """Whether a shape is the declared one; lengths that a graph leaves open (None) fit any."""
    return len(shape) == len(tensor.shape) and all(
        size is None or isinstance(wanted, str) or size == wanted
        for size, wanted in zip(shape, tensor.shape, strict=True)
    )


def _check_arrays(arrays: Arrays, declared: Mapping[str, Tensor], path: str) -> None:
    for name, tensor in declared.items():
        array = arrays[name]
        if array.dtype.name != tensor.dtype or not _fits(array.shape, tensor):
            raise BadModel(
                f"{name} is {array.dtype.name} {list(array.shape)} and should be {tensor.dtype} "
                f"{list(tensor.shape)}",
                file=path,
            )
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise BadModel(f"{name} holds a value that is no number", file=path)


def _session(
    content: bytes, file: GraphFile, device: Device, threads_max: int
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads_max
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin after a request burn the processor that the next step wants.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only, and those are raised as well
    available = set(onnxruntime.get_available_providers())
    providers = [provider for provider in PROVIDERS[device] if provider in available]
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except LOAD_ERRORS as error:
        raise BadModel("onnxruntime refuses the graph", file=file.path) from error
