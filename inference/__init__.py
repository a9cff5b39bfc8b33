"""The inference node: ONNX models as data, findings as DICOM objects."""
