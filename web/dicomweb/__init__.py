"""DICOMweb (PS3.18): STOW-RS, QIDO-RS and WADO-RS, on whichever archive the path names; UPS-RS."""

from __future__ import annotations

from fastapi import APIRouter

from web.dicomweb import (
    bulkdata,
    frames,
    metadata,
    notifications,
    retrieve,
    search,
    store,
    workitems,
)
from web.dicomweb.door import IDENTIFIED, RESEARCH

__all__ = ["IDENTIFIED", "RESEARCH", "router", "worklist"]

router = APIRouter(tags=["DICOMweb"])
for service in (search, store, retrieve, metadata, frames, bulkdata):
    router.include_router(service.router)

# Workitems belong to the identified archive alone.
worklist = APIRouter(tags=["DICOMweb"])
for service in (workitems, notifications):
    worklist.include_router(service.router)
