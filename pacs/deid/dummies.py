"""One constant per VR, for attributes that must have a value (PS3.15 E.1.1, action D).

A dummy says nothing of the original, not even whether two originals were equal. Dates are those
of a day on which no DICOM object was made, so that nobody takes them for real. A VR that depends
on other attributes, such as "US or SS", has no dummy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DUMMIES: Final[Mapping[str, str | int | float | bytes]] = {
    **dict.fromkeys(["AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"], "REMOVED"),
    **dict.fromkeys(["AT", "SL", "SS", "SV", "UL", "US", "UV"], 0),
    **dict.fromkeys(["FD", "FL"], 0.0),
    **dict.fromkeys(["DS", "IS"], "0"),
    **dict.fromkeys(["OB", "OW", "UN"], bytes(2)),
    **dict.fromkeys(["OF", "OL"], bytes(4)),
    **dict.fromkeys(["OD", "OV"], bytes(8)),
    "AS": "000Y",
    "DA": "19600101",
    "DT": "19600101000000",
    "TM": "000000",
    "UR": "urn:removed",
}
