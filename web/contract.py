"""What the routes of DICOMweb promise beyond their signatures: parameters, answers, media types.

Most handlers take a request and give a response of their own making, so no signature tells what
they read and send. These tables do, by method and path; `web/openapi.py` joins them with what
FastAPI knows. A test asks that every route is here, and sends to a running node what they allow.

A study, series or instance in a path is written `{scope}` where the same holds for all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pacs.dicom.attributes import INDEXED
from pacs.dicom.uids import UID_CHARACTERS_MAX
from web.dicomweb.changefeed import LIMIT, LIMIT_MAX
from web.dicomweb.media_types import DICOM, DICOM_JSON, DICOM_XML, JSON, MULTIPART, OCTET_STREAM
from web.limits import NUMBER_MAX

Schema = Mapping[str, Any]

ZIP: Final = "application/zip"
WADL: Final = "application/vnd.sun.wadl+xml"

PICTURES: Final = ("image/jpeg", "image/png", "image/gif", MULTIPART)
DOCUMENTS: Final = ("application/pdf", "video/mp4", "video/mpeg", "text/html")
JSONS: Final = (DICOM_JSON, JSON)
XMLS: Final = (*JSONS, MULTIPART)
OWN_TYPES: Final = ("image/*", "video/*", "model/*", "application/pdf")


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method does on one path.

    `answers` gives the media types of each success, none for one without a body; `query` names
    parameters of QUERY; `body` the media types that are read; `problems` the statuses of problem
    documents besides those that any operation may end with.
    """

    answers: Mapping[int, tuple[str, ...]]
    query: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    problems: tuple[int, ...] = ()


def _text(description: str, **schema: object) -> Schema:
    return {"description": description, "schema": {"type": "string", **schema}}


def _number(description: str, **schema: object) -> Schema:
    return {"description": description, "schema": {"type": "integer", "minimum": 0, **schema}}


def _flag(description: str) -> Schema:
    return _text(description, enum=["true", "false"])


_UID: Final = {"pattern": rf"^[0-9][0-9.]{{0,{UID_CHARACTERS_MAX - 1}}}$"}
_TITLE: Final = {"minLength": 1, "maxLength": 16}

PATH: Final[Mapping[str, Schema]] = {
    "project": _text("The name of a research project.", minLength=1, maxLength=64),
    "study": _text("A Study Instance UID.", **_UID),
    "series": _text("A Series Instance UID.", **_UID),
    "instance": _text("A SOP Instance UID.", **_UID),
    "study_instance_uid": _text("A Study Instance UID.", minLength=1),
    "workitem": _text("The UID of a workitem, or a well-known one.", **_UID),
    "frames": _text("Frame numbers from 1, with commas.", pattern=r"^[0-9]{1,9}(,[0-9]{1,9})*$"),
    "path": _text(
        "A tag of 8 hex digits; inside sequences, item numbers and tags follow.",
        pattern=r"^[0-9A-Fa-f]{8}(/[1-9][0-9]{0,8}/[0-9A-Fa-f]{8}){0,64}$",
    ),
    "ae_title": _text("An AE title.", **_TITLE),
    "requester": _text("The AE title of who asks.", **_TITLE),
    "name": _text("The name of a rule.", minLength=1),
    "tag": _text("A tag, a keyword, or a path of them.", minLength=1),
    "operation": _text("The id of an operation.", minLength=1),
}

_WINDOW: Final = ("annotation", "iccprofile", "quality", "viewport", "window")
_MATCHING: Final = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching", "charset")
_PAGE: Final = ("includefield", "limit", "offset")
_KEYS: Final = tuple(one.keyword for one in INDEXED.values() if one.matchable)
_WADO_URI: Final = (
    *("requestType", "studyUID", "seriesUID", "objectUID", "contentType", "charset", "anonymize"),
    *("frameNumber", "rows", "columns", "region", "windowCenter", "windowWidth", "imageQuality"),
    *("transferSyntax", "presentationUID", "presentationSeriesUID"),
)

QUERY: Final[Mapping[str, Schema]] = {
    "accept": _text("Media types, in place of the Accept header (PS3.18 8.3.3.1)."),
    "annotation": _text("`patient`, `technique`, or both with a comma."),
    "deletionlock": _flag("Whether the workitem is kept until its watcher unsubscribes."),
    "dicomdir": _flag("Whether a ZIP archive holds a DICOMDIR."),
    "emptyvaluematching": _flag('Whether `""` matches what has no value (PS3.18 8.3.4.5).'),
    "endTime": _text("An ISO 8601 time; what changed then or later is left out."),
    "filter": _text("`attribute=value` pairs with commas, of a filtered subscription."),
    "fuzzymatching": _flag("Whether words of names match by their beginnings."),
    "iccprofile": _text("`no`, `yes`, `srgb`, `adobergb` or `rommrgb`."),
    "includefield": _text("Further attributes, with commas, or `all`."),
    "includeMetadata": _flag("Whether the DICOM JSON of current instances is told; default: yes."),
    "limit": _number("How many results at most."),
    "limit_of_changes": _number("How many changes.", minimum=1, maximum=LIMIT_MAX, default=LIMIT),
    "multiplevaluematching": _flag("Whether a key may list values (PS3.18 8.3.4.6)."),
    "offset": _number("How many results are skipped."),
    "offset_of_changes": _number("The last sequence read.", maximum=NUMBER_MAX, default=0),
    "quality": _text("Of a JPEG, 1 to 100."),
    "startTime": _text("An ISO 8601 time; what changed before is left out."),
    "transaction-uid": _text("The Transaction UID of the claim."),
    "viewport": _text("`width,height[,x,y,width,height]` in pixels."),
    "window": _text("`center,width,function`."),
    "workitem": _text("The UID of the new workitem."),
    **{name: _text("As in PS3.18 section 9.1.2.") for name in _WADO_URI},
    **{keyword: _text("A matching key (PS3.4 C.2.2.2).") for keyword in _KEYS},
}

_SEARCH: Final = Operation(
    {200: XMLS, 204: ()}, ("accept", *_MATCHING, *_PAGE, *_KEYS), problems=(406,)
)
_COUNT: Final = Operation({200: (JSON,)}, ("accept", *_MATCHING, *_KEYS), problems=(406,))
_STORED: Final = (*JSONS, DICOM_XML)
_STORE: Final = Operation(
    {200: _STORED, 202: _STORED, 409: (*_STORED, "application/problem+json")},
    ("accept",),
    (MULTIPART, DICOM),
    (406, 408, 413, 415, 422, 507),
)
_PICTURE: Final = Operation(
    {200: PICTURES, 206: (*PICTURES, *DOCUMENTS), 304: ()},
    ("accept", *_WINDOW),
    problems=(406, 410, 416),
)
_CHANGES: Final = ("includeMetadata", "startTime", "endTime", "limit_of_changes")
_WORKITEM: Final = (404, 409, 410, 413, 415, 422)
_CAPABILITIES: Final = Operation({200: (JSON, DICOM_JSON, WADL)}, ("accept",), problems=(406,))

OPERATIONS: Final[Mapping[str, Operation]] = {
    "GET /patients": _SEARCH,
    "GET /studies": _SEARCH,
    "GET /series": _SEARCH,
    "GET /instances": _SEARCH,
    "GET {scope}/series": _SEARCH,
    "GET {scope}/instances": _SEARCH,
    "GET /patients/count": _COUNT,
    "GET /studies/count": _COUNT,
    "GET /series/count": _COUNT,
    "GET /instances/count": _COUNT,
    "GET {scope}/series/count": _COUNT,
    "GET {scope}/instances/count": _COUNT,
    "POST /studies": _STORE,
    "POST {scope}": _STORE,
    "GET {scope}": Operation(
        {
            200: (MULTIPART, DICOM, OCTET_STREAM, ZIP),
            206: (MULTIPART, DICOM, OCTET_STREAM),
            304: (),
        },
        ("accept", "dicomdir"),
        problems=(406, 410, 416),
    ),
    "DELETE {scope}": Operation({204: ()}, problems=(409,)),
    "GET {scope}/metadata": Operation({200: XMLS, 304: ()}, ("accept",), problems=(406, 410)),
    "GET {scope}/frames/{frames}": Operation(
        {
            200: (MULTIPART, OCTET_STREAM, *OWN_TYPES),
            206: (MULTIPART, OCTET_STREAM, *OWN_TYPES),
            304: (),
        },
        ("accept",),
        problems=(406, 410, 416),
    ),
    "GET {scope}/bulkdata/{path}": Operation(
        {
            200: (OCTET_STREAM, MULTIPART, *OWN_TYPES),
            206: (OCTET_STREAM, MULTIPART, *OWN_TYPES),
            304: (),
        },
        ("accept",),
        problems=(406, 410, 416),
    ),
    "GET {scope}/rendered": Operation(
        {200: (*PICTURES, *DOCUMENTS), 206: (*PICTURES, *DOCUMENTS), 304: ()},
        ("accept", *_WINDOW),
        problems=(406, 410, 416),
    ),
    "GET {scope}/frames/{frames}/rendered": _PICTURE,
    "GET {scope}/thumbnail": _PICTURE,
    "GET {scope}/frames/{frames}/thumbnail": _PICTURE,
    "GET /wado": Operation(
        {200: (DICOM, *PICTURES, *DOCUMENTS), 206: (DICOM, *PICTURES, *DOCUMENTS), 304: ()},
        _WADO_URI,
        problems=(404, 406, 410, 416),
    ),
    "GET /changefeed": Operation({200: (JSON,)}, (*_CHANGES, "offset_of_changes")),
    "GET /changefeed/latest": Operation({200: (JSON,), 204: ()}, ("includeMetadata",)),
    "OPTIONS ": _CAPABILITIES,
    "OPTIONS /": _CAPABILITIES,
    "GET /conformance": _CAPABILITIES,
    "GET /workitems": Operation(
        {200: JSONS, 204: ()}, ("accept", "charset", "fuzzymatching", *_PAGE), problems=(406,)
    ),
    "POST /workitems": Operation({201: ()}, ("workitem",), JSONS, (409, 413, 415, 422)),
    "GET /workitems/{workitem}": Operation({200: JSONS}, ("accept",), problems=(404, 406, 410)),
    "POST /workitems/{workitem}": Operation({200: ()}, ("transaction-uid",), JSONS, _WORKITEM),
    "PUT /workitems/{workitem}/state": Operation({200: ()}, (), JSONS, _WORKITEM),
    "PUT /workitems/{workitem}/state/{requester}": Operation({200: ()}, (), JSONS, _WORKITEM),
    "POST /workitems/{workitem}/cancelrequest": Operation({202: ()}, (), JSONS, _WORKITEM),
    "POST /workitems/{workitem}/cancelrequest/{requester}": Operation(
        {202: ()}, (), JSONS, _WORKITEM
    ),
    "POST /workitems/{workitem}/subscribers/{ae_title}": Operation(
        {201: ()}, ("deletionlock", "filter"), problems=(404, 409, 410)
    ),
    "DELETE /workitems/{workitem}/subscribers/{ae_title}": Operation(
        {200: ()}, problems=(404, 409, 410)
    ),
    "POST /workitems/{workitem}/subscribers/{ae_title}/suspend": Operation(
        {200: ()}, problems=(404, 409, 410)
    ),
    "GET /extendedquerytags": Operation({200: (JSON,)}),
    "POST /extendedquerytags": Operation({202: (JSON,)}, (), (JSON,), (409, 413)),
    "GET /extendedquerytags/{tag}": Operation({200: (JSON,)}),
    "PATCH /extendedquerytags/{tag}": Operation({200: (JSON,)}, (), (JSON,), (413,)),
    "DELETE /extendedquerytags/{tag}": Operation({204: ()}),
    "GET /extendedquerytags/{tag}/errors": Operation({200: (JSON,)}),
    "GET /operations/{operation}": Operation({200: (JSON,)}),
    # Of the node itself: what FastAPI cannot see in the signatures.
    "GET /api/recycled": Operation({}, problems=(404,)),
    "PUT /api/peers/{ae_title}": Operation({200: (JSON,), 201: (JSON,)}),
    "PUT /api/worklist": Operation({200: (JSON,), 201: (JSON,)}, body=(JSON,), problems=(413,)),
    "PUT /api/rules/{name}": Operation({200: (JSON,), 201: (JSON,)}),
    "GET /readyz": Operation({200: (JSON,), 503: (JSON, "application/problem+json")}),
    "GET /livez": Operation({200: ("text/plain",)}),
    "GET /metrics": Operation({200: ("text/plain",)}),
}
