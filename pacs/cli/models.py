"""`isocenter models …`: the model registry."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from pydicom import Dataset

from inference.check import check
from inference.findings import Result
from inference.objects import Identity, part10, write_objects
from inference.registry import Registry
from inference.run import LoadedModel, infer, load
from inference.selection import Selection, select
from inference.words import UNIT_WORDS
from pacs.cli.shared import ConfigOption, DataOption, JsonOption, configured, out, print_json, table
from pacs.dicom.data_sets import read_data_set
from pacs.dicom.part10 import read_part10, scan
from pacs.dimse import scu
from pacs.dimse.scu import Source

app: Final = typer.Typer(help="The models of this node.", no_args_is_help=True)

ModelId = Annotated[str, typer.Argument(help="The model's id, as `models list` shows it.")]


def _registry(data: Path | None, config: Path | None) -> Registry:
    return Registry(configured(data, config).models_folder)


@app.command("list")
def list_(data: DataOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """The models this node runs, and the folders it cannot use."""
    registry = _registry(data, config)
    rows = [
        {
            "id": model.id,
            "version": model.version,
            "task": model.manifest.metadata.task,
            "regulatory_status": model.manifest.metadata.regulatory.status,
            "sha256": model.sha256,
            "title": model.manifest.metadata.title,
        }
        for model in registry.list()
    ]
    faults = [{"folder": fault.folder, "reason": fault.sentence} for fault in registry.faults()]
    if json:
        print_json({"models": rows, "faults": faults})
        return
    shown = table("id", "version", "task", "status", "digest", "title")
    for row in rows:
        shown.add_row(
            *(row[key] for key in ("id", "version", "task", "regulatory_status")),
            row["sha256"][:12],
            row["title"],
        )
    out.print(shown)
    for fault in faults:
        out.print(f"not usable: {fault['folder']}: {fault['reason']}", markup=False)


@app.command()
def show(
    model_id: ModelId,
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """A model's card: what it is for, what it takes, where its limits lie."""
    model = _registry(data, config).get(model_id)
    if json:
        print_json(model.manifest.model_dump(mode="json") | {"sha256": model.sha256})
        return
    metadata = model.manifest.metadata
    out.print(f"{metadata.title} ({model.id} {model.version})", style="bold", markup=False)
    out.print(f"digest        {model.sha256}")
    out.print(
        f"status        {metadata.regulatory.status}; results are not verified by a physician"
    )
    out.print(f"intended use  {metadata.intended_use}", markup=False)
    for name, value in metadata.model_card.model_dump(mode="json").items():
        out.print(f"{name:<13} {_in_words(value)}", markup=False)


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_in_words(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return "; ".join(_in_words(inner) for inner in value) or "-"
    return str(value)


@app.command("check")
def check_(
    folder: Annotated[Path, typer.Argument(help="A model's folder.", exists=True, file_okay=False)],
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Validate a model folder and reproduce its test vectors on this host."""
    settings = configured(data, config).inference
    found = check(folder, device=settings.device, threads_max=settings.threads)
    if json:
        print_json([asdict(rule) for rule in found])
    for rule in () if json else found:
        out.print(f"{'ok  ' if rule.holds else 'FAIL'} {rule.rule}: {rule.sentence}", markup=False)
    if not all(rule.holds for rule in found):
        raise typer.Exit(1)


@app.command()
def run(
    model_id: ModelId,
    paths: Annotated[list[Path], typer.Argument(help="One study's files.", exists=True)],
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Infer without a server; writes SEG and SR next to the input."""
    settings = configured(data, config)
    model = _registry(data, config).get(model_id)
    loaded = load(model, device=settings.inference.device, threads_max=settings.inference.threads)
    data_sets = [read_one(source) for source in scu.find(paths)]
    selection = select(model.manifest.selection, data_sets)
    result = infer(loaded, selection, data_sets)
    written = _write(paths[0], loaded, selection, result, data_sets)
    if json:
        print_json({"state": result.state, "reason": result.reason, "written": written})
    for line in () if json else _told(result, written):
        out.print(line, markup=False)
    if result.state == "failed":
        raise typer.Exit(1)


def read_one(source: Source) -> Dataset:
    """One file as a data set. Raises BadObject, which names no patient."""
    file = read_part10(scu.content(source))
    scan(file.data_set, file.transfer_syntax_uid)
    return read_data_set(file.data_set, file.transfer_syntax_uid)


def _write(
    beside: Path,
    loaded: LoadedModel,
    selection: Selection,
    result: Result,
    data_sets: list[Dataset],
) -> list[str]:
    if result.state != "succeeded" or selection.grid is None:
        return []
    key = "/".join(("run", loaded.model.sha256, str(selection.series_instance_uid)))
    used = [one for one in data_sets if str(one.SOPInstanceUID) in selection.sop_instance_uids]
    identity = Identity(key, datetime.now(UTC))
    folder = beside if beside.is_dir() else beside.parent
    names = []
    for made in write_objects(loaded.model, result, selection.grid, used, identity):
        path = folder / f"{loaded.model.id}.{str(made.Modality).lower()}.dcm"
        path.write_bytes(part10(made))
        names.append(str(path))
    return names


def _told(result: Result, written: list[str]) -> list[str]:
    """A result in words, with what must be known to read it."""
    lines = [f"{result.model_id} {result.model_version}: {result.state}"]
    if result.reason:
        lines.append(f"  {result.reason.sentence}")
    lines += [
        f"  {one.title}: {one.value:.4g} {UNIT_WORDS.get(one.unit.value, one.unit.value)}"
        for one in result.measurements
    ]
    lines += [f"  note: {warning.sentence}" for warning in result.warnings]
    if result.state == "succeeded":
        lines.append("  Not verified by a physician.")
    return lines + [f"  wrote {name}" for name in written]
