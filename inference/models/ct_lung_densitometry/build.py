"""Writes the model's graphs and its test vector: `python -m` this module.

Nothing is trained here, so the whole model can be read: these lines and `model.yaml`. The files
are the same on every run; a test compares them with the ones in the folder, whose digests
`model.yaml` pins.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, EnhancedCTImageStorage

from pacs.dicom.uids import IMPLEMENTATION_CLASS_UID, derived_uid

FOLDER: Final = Path(__file__).parent
OPSET: Final = 18
IR_VERSION: Final = 9

# Halfway between lung (about -860 HU) and soft tissue (about 40 HU), so that the border voxel,
# which holds some of each, is counted on the side that has more of it.
AIR_BELOW_HU: Final = -400.0
# Fat and anything denser; skin and muscle with their partial volume, not clothing.
TISSUE_FROM_HU: Final = -300.0
# Noise belongs to pixels, so it is smoothed over pixels; the manifest does what is in millimetres.
SMOOTHING_PIXELS: Final = 3

HISTOGRAM_FROM_HU: Final = -1024
HISTOGRAM_BINS: Final = 2048

SLICES: Final = ("slices", 1, "rows", "columns")


def segment_graph() -> onnx.ModelProto:
    """`hu` to `air` and `tissue`, slice by slice: smooth, compare."""
    nodes = [
        helper.make_node(
            "AveragePool",
            ["hu"],
            ["smooth"],
            kernel_shape=[SMOOTHING_PIXELS] * 2,
            pads=[SMOOTHING_PIXELS // 2] * 4,
            count_include_pad=0,
        ),
        helper.make_node("Less", ["smooth", "air_below"], ["is_air"]),
        helper.make_node("Cast", ["is_air"], ["air"], to=TensorProto.UINT8),
        helper.make_node("GreaterOrEqual", ["smooth", "tissue_from"], ["is_tissue"]),
        helper.make_node("Cast", ["is_tissue"], ["tissue"], to=TensorProto.UINT8),
    ]
    return _model(
        "segment",
        nodes,
        inputs=[_value("hu", TensorProto.FLOAT, SLICES)],
        outputs=[
            _value("air", TensorProto.UINT8, SLICES),
            _value("tissue", TensorProto.UINT8, SLICES),
        ],
        constants={
            "air_below": np.float32(AIR_BELOW_HU),
            "tissue_from": np.float32(TISSUE_FROM_HU),
        },
    )


def statistics_graph() -> onnx.ModelProto:
    """`hu` and `mask` to the number of voxels, their sum and their histogram.

    Bin b holds b - 1 < HU ≤ b, so that a count up to a whole threshold is exact for values that
    are no whole numbers; the first and last bin hold what lies beyond.
    """
    nodes = [
        helper.make_node("Reshape", ["hu", "flat"], ["all_hu"]),
        helper.make_node("Reshape", ["mask", "flat"], ["all_mask"]),
        helper.make_node("Compress", ["all_hu", "all_mask"], ["lung_hu"], axis=0),
        helper.make_node("Cast", ["lung_hu"], ["exact_hu"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceSum", ["exact_hu"], ["sum_hu"], keepdims=0),
        helper.make_node("Size", ["lung_hu"], ["voxels"]),
        helper.make_node("Ceil", ["lung_hu"], ["whole_hu"]),
        helper.make_node("Sub", ["whole_hu", "from_hu"], ["offset"]),
        helper.make_node("Clip", ["offset", "first_bin", "last_bin"], ["bin"]),
        helper.make_node("Cast", ["bin"], ["index"], to=TensorProto.INT64),
        helper.make_node("Shape", ["index"], ["size"]),
        helper.make_node("Expand", ["single", "size"], ["ones"]),
        helper.make_node(
            "ScatterElements", ["zeros", "index", "ones"], ["histogram"], reduction="add"
        ),
    ]
    return _model(
        "statistics",
        nodes,
        inputs=[
            _value("hu", TensorProto.FLOAT, SLICES),
            _value("mask", TensorProto.BOOL, SLICES),
        ],
        outputs=[
            _value("voxels", TensorProto.INT64, ()),
            _value("sum_hu", TensorProto.DOUBLE, ()),
            _value("histogram", TensorProto.INT64, (HISTOGRAM_BINS,)),
        ],
        constants={
            "flat": np.array([-1], np.int64),
            "from_hu": np.float32(HISTOGRAM_FROM_HU),
            "first_bin": np.float32(0),
            "last_bin": np.float32(HISTOGRAM_BINS - 1),
            "single": np.array([1], np.int64),
            "zeros": np.zeros(HISTOGRAM_BINS, np.int64),
        },
    )


def _value(name: str, element: int, shape: tuple[str | int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    *,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: Mapping[str, np.generic | NDArray[np.generic]],
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="isocenter",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


# The test vector: a small chest of whole voxels, one enhanced multi-frame instance.
VECTOR_SHAPE: Final = (40, 96, 96)
VECTOR_SPACING_MM: Final = (7.0, 4.0, 4.0)
OUTSIDE_HU, TISSUE_HU, LUNG_HU, BULLA_HU, TRACHEA_HU = -1000, 40, -860, -970, -1000


def vector_voxels() -> NDArray[np.int16]:
    """A body on a table, with two lungs, a bulla in one of them, and a trachea above."""
    z, y, x = np.meshgrid(
        *(
            (np.arange(count) - (count - 1) / 2) * step
            for count, step in zip(VECTOR_SHAPE, VECTOR_SPACING_MM, strict=True)
        ),
        indexing="ij",
    )

    def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> NDArray[np.bool_]:
        parts = zip((z, y, x), centre, radii, strict=True)
        inside: NDArray[np.bool_] = sum(((a - c) / r) ** 2 for a, c, r in parts) <= 1
        return inside

    hu = np.full(VECTOR_SHAPE, OUTSIDE_HU, np.int16)
    hu[:, 84:86, 8:88] = TISSUE_HU  # the table, one thin board
    hu[(x / 160) ** 2 + (y / 110) ** 2 <= 1] = TISSUE_HU
    for side in (-1, 1):
        hu[ellipsoid((-20, 0, side * 78), (105, 75, 52))] = LUNG_HU
    hu[ellipsoid((0, 0, 78), (45, 30, 25))] = BULLA_HU
    hu[(np.hypot(x, y - 10) <= 10) & (z > 40)] = TRACHEA_HU
    return hu


def vector_instance() -> Dataset:
    """The test vector as an Enhanced CT instance (PS3.3 A.38.1), slices from the feet up."""
    slices, rows, columns = VECTOR_SHAPE
    instance = Dataset()
    instance.SOPClassUID = EnhancedCTImageStorage
    for keyword in (
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "StudyInstanceUID",
        "FrameOfReferenceUID",
    ):
        setattr(instance, keyword, derived_uid("ct-lung-densitometry", "vector", keyword))
    instance.Modality = "CT"
    instance.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    instance.BodyPartExamined = "CHEST"
    instance.PatientName, instance.PatientID = "Vector^Test", "VECTOR"
    instance.NumberOfFrames, instance.Rows, instance.Columns = slices, rows, columns
    instance.SamplesPerPixel, instance.PhotometricInterpretation = 1, "MONOCHROME2"
    instance.BitsAllocated, instance.BitsStored, instance.HighBit = 16, 16, 15
    instance.PixelRepresentation = 1
    instance.SharedFunctionalGroupsSequence = [_shared_groups()]
    instance.PerFrameFunctionalGroupsSequence = [_frame_groups(index) for index in range(slices)]
    instance.PixelData = vector_voxels().astype("<i2").tobytes()
    instance["PixelData"].VR = "OW"
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    instance.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    return instance


def _shared_groups() -> Dataset:
    measures, orientation, rescale = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = list(VECTOR_SPACING_MM[1:])
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, 0, "HU"
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelValueTransformationSequence = [rescale]
    return shared


def _frame_groups(index: int) -> Dataset:
    position, groups = Dataset(), Dataset()
    position.ImagePositionPatient = [-190, -190, index * VECTOR_SPACING_MM[0]]
    groups.PlanePositionSequence = [position]
    return groups


def files() -> dict[str, bytes]:
    """Every file this script writes, by its name in the folder."""
    vector = io.BytesIO()
    vector_instance().save_as(vector, enforce_file_format=True)
    return {
        "segment.onnx": segment_graph().SerializeToString(deterministic=True),
        "statistics.onnx": statistics_graph().SerializeToString(deterministic=True),
        "tests/phantom.dcm": vector.getvalue(),
    }


def main() -> None:
    """Write the files into the model's folder."""
    for name, content in files().items():
        path = FOLDER / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()
