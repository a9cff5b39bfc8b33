"""What every runner promises, tried on onnxruntime; and what it never lets through.

A back end that is added (CUDA, OpenVINO, TensorRT) adds itself to `RUNNERS` and must pass.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference.manifest import GraphFile, Tensor
from inference.runner import NESTING_MAX, OnnxRunner, Runner
from pacs.errors import BadModel, Broken

FLOATS = {"x": Tensor(dtype="float32", shape=("n",))}
FILE = GraphFile(
    path="double.onnx",
    sha256="0" * 64,
    inputs=FLOATS,
    outputs={"y": Tensor(dtype="float32", shape=("n",))},
)


def graph(
    *nodes: onnx.NodeProto,
    weights: tuple[onnx.TensorProto, ...] = (),
    size: str | int = "n",
    element: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            list(nodes),
            "test",
            [value("x", element, [size])],
            [value("y", element, [size])],
            list(weights),
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


DOUBLE = graph(helper.make_node("Add", ["x", "x"], ["y"]))
ROOT = graph(helper.make_node("Sqrt", ["x"], ["y"]))


def on_onnxruntime(model: onnx.ModelProto) -> Runner:
    return OnnxRunner(model.SerializeToString(), FILE, device="cpu", threads_max=1)


RUNNERS = [pytest.param(on_onnxruntime, id="onnxruntime")]
each_runner = pytest.mark.parametrize("runner_of", RUNNERS)
RunnerOf = Callable[[onnx.ModelProto], Runner]


def floats(*values: float) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    return {"x": np.array(values, np.float32)}


@each_runner
def test_a_runner_gives_every_output_by_name(runner_of: RunnerOf) -> None:
    assert runner_of(DOUBLE).run(floats(1, 2))["y"].tolist() == [2, 4]


@each_runner
def test_a_runner_says_what_it_ran_on(runner_of: RunnerOf) -> None:
    assert runner_of(DOUBLE).provider.endswith("ExecutionProvider")


@each_runner
def test_a_runner_gives_the_same_answer_twice(runner_of: RunnerOf) -> None:
    runner = runner_of(ROOT)
    values = floats(*np.linspace(0, 9, 1000))
    assert np.array_equal(runner.run(values)["y"], runner.run(values)["y"])


@each_runner
def test_an_output_that_is_no_number_is_the_models_fault(runner_of: RunnerOf) -> None:
    with pytest.raises(BadModel, match="no number"):
        runner_of(ROOT).run(floats(-1))


@each_runner
def test_an_input_of_another_type_is_refused(runner_of: RunnerOf) -> None:
    with pytest.raises(BadModel, match="float64"):
        runner_of(DOUBLE).run({"x": np.zeros(2, np.float64)})


@each_runner
def test_a_graph_that_fails_while_it_runs_is_the_models_fault(runner_of: RunnerOf) -> None:
    reshape = graph(
        helper.make_node("Reshape", ["x", "shape"], ["z"]),
        helper.make_node("Squeeze", ["z"], ["y"]),
        weights=(numpy_helper.from_array(np.array([3], np.int64), "shape"),),
    )
    with pytest.raises(BadModel, match="failed while it ran"):
        runner_of(reshape).run(floats(1, 2))


def nested(depth: int) -> onnx.ModelProto:
    """A graph within a graph within a graph."""
    inner = helper.make_node("Identity", ["x"], ["deep"])
    for _ in range(depth):
        body = helper.make_graph(
            [inner], "body", [], [helper.make_tensor_value_info("deep", TensorProto.FLOAT, ["n"])]
        )
        inner = helper.make_node("If", ["yes"], ["deep"], then_branch=body, else_branch=body)
    return graph(
        inner,
        helper.make_node("Identity", ["deep"], ["y"]),
        weights=(numpy_helper.from_array(np.array(True), "yes"),),
    )


def external() -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def with_function() -> onnx.ModelProto:
    model = graph(helper.make_node("Add", ["x", "x"], ["y"]))
    model.functions.add(name="Hidden", domain="ai.onnx")
    return model


def with_domain() -> onnx.ModelProto:
    model = graph(helper.make_node("Add", ["x", "x"], ["y"]))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


ADD_WEIGHT = helper.make_node("Add", ["x", "w"], ["y"])
HOSTILE = [
    (graph(ADD_WEIGHT, weights=(external(),)), "weights outside"),
    (
        graph(
            helper.make_node("Constant", [], ["w"], value=external()),
            ADD_WEIGHT,
        ),
        "weights outside",
    ),
    (graph(helper.make_node("Evil", ["x"], ["y"], domain="evil")), "domain 'evil'"),
    (with_domain(), "com.microsoft"),
    (with_function(), "local functions"),
    (nested(NESTING_MAX), "nested deeper"),
    (graph(helper.make_node("Add", ["x", "x"], ["y"]), element=TensorProto.DOUBLE), "float64"),
    (graph(helper.make_node("NoSuchOperator", ["x"], ["y"])), "onnxruntime refuses"),
]


@pytest.mark.parametrize(("model", "words"), HOSTILE)
def test_a_graph_that_is_not_plain_never_reaches_the_runtime(
    model: onnx.ModelProto, words: str
) -> None:
    with pytest.raises(BadModel) as caught:
        on_onnxruntime(model)
    assert words in caught.value.message


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x08\x09"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(BadModel):
        OnnxRunner(content, FILE, device="cpu", threads_max=1)


def test_graphs_may_be_nested_up_to_the_limit() -> None:
    assert on_onnxruntime(nested(NESTING_MAX - 1)).run(floats(3))["y"].tolist() == [3]


def test_a_shape_that_the_manifest_does_not_name_is_refused() -> None:
    file = FILE.model_copy(update={"outputs": {"y": Tensor(dtype="float32", shape=(4,))}})
    fixed = graph(helper.make_node("Add", ["x", "x"], ["y"]), size=3)
    with pytest.raises(BadModel, match="in the manifest"):
        OnnxRunner(fixed.SerializeToString(), file, device="cpu", threads_max=1)


def test_an_output_that_the_manifest_does_not_name_is_refused() -> None:
    file = FILE.model_copy(update={"outputs": {"z": FLOATS["x"]}})
    with pytest.raises(BadModel, match="outputs are y"):
        OnnxRunner(DOUBLE.SerializeToString(), file, device="cpu", threads_max=1)


def test_cuda_that_was_asked_for_is_never_silently_replaced() -> None:
    try:
        runner = OnnxRunner(DOUBLE.SerializeToString(), FILE, device="cuda", threads_max=1)
    except Broken as error:
        assert "CUDA" in error.message  # noqa: PT017  # either outcome is right, by the machine
    else:
        assert runner.provider == "CUDAExecutionProvider"
