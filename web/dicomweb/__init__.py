"""DICOMweb (PS3.18): STOW-RS, QIDO-RS and WADO-RS, on whichever archive the path names."""

from __future__ import annotations

from fastapi import APIRouter

from web.dicomweb import bulkdata, frames, metadata, retrieve, search, store
from web.dicomweb.door import IDENTIFIED, RESEARCH

__all__ = ["IDENTIFIED", "RESEARCH", "router"]

router = APIRouter(tags=["DICOMweb"])
for service in (search, store, retrieve, metadata, frames, bulkdata):
    router.include_router(service.router)
