"""Instance Availability Notification as SCU (PS3.4 annex R): peers learn what they can retrieve.

One N-CREATE per peer and generation of a study, its SOP Instance UID derived from the three, so that
a repeat is known for what it is: a peer that has the instance already (0111) has been told.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import groupby
from typing import Final

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import N_CREATE

from pacs.access import Actor
from pacs.archive import Archive, Instance, Scope
from pacs.dicom.data_sets import written
from pacs.dicom.uids import derived_uid
from pacs.dimse.calls import Caller, check_status, context_of
from pacs.errors import Missing
from pacs.index import jobs
from pacs.index.jobs import Job
from pacs.peers import Right
from pacs.worker import End

NOTIFICATION: Final = "1.2.840.10008.5.1.4.33"
DUPLICATE_SOP_INSTANCE: Final = 0x0111
NODE: Final = Actor("node", "notification")


class Notifications:
    """The handler of `notify` jobs.

    `dicom_web_url` is where others reach our DICOMweb service, without a slash at its end; empty
    where that is not known, and then no Retrieve URL is told.
    """

    def __init__(self, archive: Archive, caller: Caller, *, dicom_web_url: str = "") -> None:
        self._archive = archive
        self._caller = caller
        self._dicom_web_url = dicom_web_url

    def handle(self, job: Job) -> End:
        """Tell one peer of one study, as it stands now. Raises Unavailable."""
        try:
            peer = self._caller.peers.get(str(job.payload["peer"]))
            instances = self._archive.retrieve(NODE, Scope(job.study_instance_uid))
        except Missing as error:
            return End(jobs.SKIPPED, "gone", f"{error.message[:1].upper()}{error.message[1:]}.")
        if Right.NOTIFY not in peer.rights:
            return End(jobs.SKIPPED, "unasked", "The peer is no longer to be notified.")
        request = N_CREATE()
        request.AffectedSOPClassUID = UID(NOTIFICATION)
        request.AffectedSOPInstanceUID = UID(
            derived_uid("notify", job.study_instance_uid, str(job.generation), peer.ae_title)
        )
        told = notification(instances, self._caller.ae_title, self._dicom_web_url)
        with self._caller.line(peer, NOTIFICATION) as association:
            context_id, syntax = context_of(association)
            request.AttributeList = BytesIO(written(told, syntax))
            status = association.exchange(request, context_id).Status
            if status != DUPLICATE_SOP_INSTANCE:
                check_status(status, "the notification")
        return End(reason=f"{peer.ae_title} was told of {len(instances)} instances.")


def notification(instances: Sequence[Instance], ae_title: str, dicom_web_url: str) -> Dataset:
    """The notification of a study's instances, one or more, in their order (PS3.4 table R.3.2-1)."""
    told = Dataset()
    told.StudyInstanceUID = instances[0].study_instance_uid
    told.ReferencedPerformedProcedureStepSequence = []
    told.ReferencedSeriesSequence = []
    for series_instance_uid, of_series in groupby(instances, lambda one: one.series_instance_uid):
        series = Dataset()
        series.SeriesInstanceUID = series_instance_uid
        series.ReferencedSOPSequence = [
            _available(instance, ae_title, dicom_web_url) for instance in of_series
        ]
        told.ReferencedSeriesSequence.append(series)
    return told


def _available(instance: Instance, ae_title: str, dicom_web_url: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = instance.sop_class_uid
    item.ReferencedSOPInstanceUID = instance.sop_instance_uid
    item.InstanceAvailability = "ONLINE"
    item.RetrieveAETitle = ae_title
    if dicom_web_url:
        item.RetrieveURL = (
            f"{dicom_web_url}/studies/{instance.study_instance_uid}"
            f"/series/{instance.series_instance_uid}/instances/{instance.sop_instance_uid}"
        )
    return item
