"""Who we are in an association, on whichever side of it."""

from __future__ import annotations

from typing import Final

from pynetdicom.ae import ApplicationEntity

from pacs.dicom import uids
from pacs.dimse.upper_layer import REFUSALS_MAX, DimseLimits

VERIFICATION: Final = "1.2.840.10008.1.1"


def application_entity(ae_title: str, limits: DimseLimits) -> ApplicationEntity:
    """Who we are in an association, with the time-outs of the limits."""
    ae = ApplicationEntity(ae_title)
    ae.implementation_class_uid = uids.IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = uids.IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = limits.pdu_bytes_max
    ae.maximum_associations = limits.associations_max + REFUSALS_MAX + 1  # the listener counts
    ae.acse_timeout = limits.artim_s
    ae.network_timeout = limits.idle_s
    return ae
