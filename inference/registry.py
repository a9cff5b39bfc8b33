"""The models this node can run: those it came with, and those in the operator's folder.

A model is a folder with `model.yaml`, its ONNX files and its test vectors. Everything is pinned by
digest: a model whose file was exchanged is `BadModel`, not a slightly different model. The digest
over manifest and graphs names the model in results and on the device UID of what it writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.manifest import (
    MANIFEST_NAME,
    GraphFile,
    Manifest,
    TestVector,
    manifest_bytes,
    parse_manifest,
)
from inference.runner import GRAPH_BYTES_MAX
from pacs.errors import BadModel, Missing

BUILT_IN: Final = Path(__file__).parent / "models"


@dataclass(frozen=True, slots=True)
class Model:
    """A model folder whose files are the ones its manifest names."""

    folder: Path
    manifest: Manifest
    sha256: str  # over the manifest and the digests of the graph files

    @property
    def id(self) -> str:
        return self.manifest.metadata.id

    @property
    def version(self) -> str:
        return self.manifest.metadata.version

    def graph_bytes(self, file: GraphFile) -> bytes:
        """An ONNX file of the model, compared with its digest again. Raises BadModel."""
        return _pinned(self.folder, file.path, file.sha256)

    def vector_bytes(self, vector: TestVector) -> bytes:
        """A test vector's input, compared with its digest. Raises BadModel."""
        return _pinned(self.folder, vector.input, vector.sha256)


def open_model(folder: Path) -> Model:
    """Read and check one model folder. Raises BadModel with the reason."""
    content = manifest_bytes(folder)
    manifest = parse_manifest(content, folder.name)
    digest = hashlib.sha256(content)
    for file in sorted(manifest.graph.files, key=lambda file: file.path):
        _pinned(folder, file.path, file.sha256)
        digest.update(bytes.fromhex(file.sha256))
    return Model(folder, manifest, digest.hexdigest())


@dataclass(frozen=True, slots=True)
class Fault:
    """A folder that holds no usable model, and why."""

    folder: str
    sentence: str


class Registry:
    """Built-in models and those of one folder, by id.

    A folder that is not what its manifest says is a fault: it is listed as such and never run, and
    the other models go on working. Of two folders with one id the first counts, built-in ones
    before the operator's.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def list(self) -> tuple[Model, ...]:
        """Every usable model, by id."""
        return self._scan()[0]

    def faults(self) -> tuple[Fault, ...]:
        """Every folder that holds a manifest but no usable model."""
        return self._scan()[1]

    def get(self, model_id: str) -> Model:
        """One model. Raises Missing."""
        for model in self.list():
            if model.id == model_id:
                return model
        raise Missing("there is no usable model of this id", model=model_id)

    def _scan(self) -> tuple[tuple[Model, ...], tuple[Fault, ...]]:
        models: dict[str, Model] = {}
        faults = []
        for folder in self._folders():
            try:
                model = open_model(folder)
            except BadModel as error:
                faults.append(Fault(folder.name, str(error)))
                continue
            if model.id in models:
                faults.append(Fault(folder.name, f"there is another model with the id {model.id}"))
            models.setdefault(model.id, model)
        return tuple(models[key] for key in sorted(models)), tuple(faults)

    def _folders(self) -> Iterator[Path]:
        for parent in (BUILT_IN, self._folder):
            if parent is not None and parent.is_dir():
                yield from sorted(path.parent for path in parent.glob(f"*/{MANIFEST_NAME}"))


def _pinned(folder: Path, name: str, sha256: str) -> bytes:
    """A file of the folder with the digest the manifest pins. Raises BadModel."""
    path = folder / name
    try:
        # A link may point at anything, and another process may exchange what it points at.
        if path.is_symlink() or path.stat().st_size > GRAPH_BYTES_MAX:
            raise BadModel("a link or too large a file", folder=folder.name, file=name)
        content = path.read_bytes()
    except OSError as error:
        raise BadModel("a file that the manifest names cannot be read", file=name) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BadModel("a file is not the one the manifest pins by digest", file=name)
    return content
