"""DICOMweb (PS3.18): STOW-RS, QIDO-RS and WADO-RS, on whichever archive the path names; UPS-RS.

Beside them stand what the standard lacks: DELETE, and a feed of changes.
"""

from __future__ import annotations

from fastapi import APIRouter

from web.dicomweb import (
    bulkdata,
    capabilities,
    changefeed,
    delete,
    frames,
    metadata,
    notifications,
    query_tags,
    rendered,
    retrieve,
    search,
    store,
    workitems,
)
from web.dicomweb.door import IDENTIFIED, RESEARCH

__all__ = ["IDENTIFIED", "RESEARCH", "router", "worklist"]

router = APIRouter(tags=["DICOMweb"])
# Routes are tried in this order: what viewers ask most often comes first, and `/studies/count`
# before `/studies/{study}`.
for service in (
    *(frames, rendered, search, query_tags),
    *(retrieve, metadata, bulkdata, store, delete, changefeed, capabilities),
):
    router.include_router(service.router)
# The root is meant with and without a slash at its end.
router.add_api_route("", capabilities.retrieve_capabilities, methods=["OPTIONS"])

# Workitems belong to the identified archive alone.
worklist = APIRouter(tags=["DICOMweb"])
for service in (workitems, notifications):
    worklist.include_router(service.router)
