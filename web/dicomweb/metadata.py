"""WADO-RS metadata: instances as DICOM JSON, bulk data by reference (PS3.18 10.4.1.1.2, F.2.2).

A BulkDataURI is relative where it then is right wherever the service stands, behind whatever
proxy; only an instance's own metadata, one level too deep for that, gets a path from the root.
"""

from __future__ import annotations

import math

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Instance, Scope
from web.dicomweb.answers import caching, fingerprint, is_current, json_answer, not_modified
from web.dicomweb.door import At, InPath
from web.dicomweb.negotiation import json_type

router = APIRouter()


@router.get("/studies/{study}/metadata")
@router.get("/studies/{study}/series/{series}/metadata")
@router.get("/studies/{study}/series/{series}/instances/{instance}/metadata")
def metadata(request: Request, door: At, scope: InPath) -> Response:
    """Retrieve the metadata of all instances of a study or series, or of one instance."""
    media_type = json_type(request)
    instances = door.archive.retrieve(door.actor, scope)
    digests = (instance.digest for instance in instances)
    encodings = request.headers.get("accept-encoding", "")
    etag = fingerprint(door.parts.version, request.url.path, media_type, encodings, *digests)
    if is_current(request, etag):
        return not_modified(etag)
    models = [
        presentable(door.archive.metadata(one), bulk_prefix(door.path, scope, one))
        for one in instances
    ]
    return json_answer(request, models, media_type, headers=caching(etag))


def bulk_prefix(service_path: str, scope: Scope, instance: Instance) -> str:
    """What stands before `bulkdata/...` so that it resolves from the metadata's own address."""
    in_series = f"instances/{instance.sop_instance_uid}/"
    in_study = f"series/{instance.series_instance_uid}/{in_series}"
    if scope.sop_instance_uid:
        return f"{service_path}/studies/{instance.study_instance_uid}/{in_study}"
    return in_series if scope.series_instance_uid else in_study


def presentable(model: object, prefix: str) -> object:
    """The model with its BulkDataURIs made right, and null for numbers that JSON cannot hold."""
    if isinstance(model, dict):
        return {
            key: prefix + value if key == "BulkDataURI" else presentable(value, prefix)
            for key, value in model.items()
        }
    if isinstance(model, list):
        return [presentable(value, prefix) for value in model]
    return None if isinstance(model, float) and not math.isfinite(model) else model
