"""Pictures of instances, for every service that shows some: which instance, which frames, how.

Decoding, drawing and encoding happen in the decoder's child processes. A file that breaks or
overtaxes one is the file's fault and is told as such, never as a failure of this node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import Any, Final

from starlette.exceptions import HTTPException

from pacs.archive import Instance, Scope
from pacs.decode import DECODABLE, Overtaxed, Rendering
from pacs.decode.rendering import GIF
from pacs.dicom import uids
from pacs.dicom.part10 import read_part10
from pacs.errors import BadObject, Missing
from web.dicomweb.door import Door
from web.dicomweb.view_parameters import BadParameter

FILM_BYTES_MAX: Final = 1 << 28  # stored bytes of the frames of one animation; more are refused ...
FILM_PIXELS_MAX: Final = 1 << 26  # ... and so are more pixels of all its pictures together
PRESENTATION_STATES: Final = frozenset(f"1.2.840.10008.5.1.4.1.1.11.{n}" for n in (1, 2))

# Modalities whose images say little about a study; another image series stands for it, if it can.
_POOR_MODALITIES: Final = frozenset(("PR", "KO", "SEG", "SR", "SC", "OT", "DOC", "RTDOSE"))


def is_image(instance: Instance) -> bool:
    """Whether an instance has frames that can be drawn."""
    return instance.frames > 0 and instance.transfer_syntax_uid in DECODABLE


def representative(instances: Sequence[Instance]) -> Instance:
    """The image that stands for a study or series: the middle of its first image series.

    Raises Missing where there is no image.
    """
    images = [one for one in instances if is_image(one)]
    if not images:
        raise Missing("there is no image here that could be shown")
    every = [list(group) for _, group in groupby(images, lambda one: one.series_instance_uid)]
    telling = [group for group in every if group[0].modality not in _POOR_MODALITIES]
    chosen = (telling or every)[0]
    return chosen[len(chosen) // 2]


class View:
    """One image as a request wants to see it: through a presentation state or without one."""

    def __init__(
        self, door: Door, instance: Instance, asked: Rendering, state: Instance | None = None
    ) -> None:
        self._door = door
        self.instance = instance
        self._asked = replace(
            asked,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            pixel_tag=instance.table.pixel_tag,
            pixel_vr="OB" if instance.table.pixel_vr == "OB" else "OW",
        )
        self._state = state
        _check_region(asked, instance)

    @property
    def facts(self) -> tuple[str, ...]:
        """What the pictures follow from, for an ETag."""
        state = self._state.digest if self._state else ""
        return (self.instance.digest, state, repr(self._asked))

    def picture(self, frame: int, media_type: str) -> bytes:
        """One frame, from 1. Raises Missing, BadObject, HTTPException 406."""
        return self._drawn(media_type, (frame,))[0]

    def film(self, frames: Sequence[int]) -> bytes:
        """Frames as one GIF, which moves if they are several. Raises as `picture` does."""
        self._check_film(len(frames))
        return self._drawn(GIF, frames)[0]

    def _drawn(self, media_type: str, numbers: Sequence[int]) -> list[bytes]:
        if not is_image(self.instance):
            raise HTTPException(406, "this instance is no image that can be drawn here")
        frames = [self._door.archive.frame(self.instance, number) for number in numbers]
        asked = replace(self._asked, media_type=media_type, frame_numbers=tuple(numbers))
        try:
            return self._door.parts.decoder.rendered(
                asked, self._header, frames, self._state_data_set
            )
        except Overtaxed as error:
            raise BadObject(error.message) from error

    def _check_film(self, frames: int) -> None:
        width, height = self._asked.viewport or (self.instance.columns, self.instance.rows)
        stored_bytes = self.instance.size_bytes
        if frames > 1 and (
            stored_bytes > FILM_BYTES_MAX or width * height * frames > FILM_PIXELS_MAX
        ):
            raise HTTPException(
                400,
                "an animation of these frames is too large; ask for fewer or a smaller viewport",
            )

    @cached_property
    def _header(self) -> bytes:
        return self._door.archive.header(self.instance)

    @cached_property
    def _state_data_set(self) -> bytes | None:
        if self._state is None:
            return None
        part10 = self._door.archive.read(self._state)
        explicit = self._door.parts.decoder.explicit_little_endian(part10)
        return bytes(read_part10(explicit).data_set)


def _check_region(asked: Rendering, instance: Instance) -> None:
    """A region that shows nothing of the image is the caller's mistake, not the image's."""
    if asked.box is None or not instance.rows or not instance.columns:
        return
    left, top, right, bottom = asked.box
    is_outside = left >= instance.columns or top >= instance.rows
    if is_outside or (right is not None and right <= 0) or (bottom is not None and bottom <= 0):
        raise BadParameter("viewport", "has a region that shows nothing of the image")


def state_in_parameters(door: Door, given: Mapping[str, str], study: str) -> Instance | None:
    """The presentation state that a request names (PS3.18 9.1.2.2.11), None if it names none.

    Raises BadParameter, Missing.
    """
    names = ("presentationSeriesUID", "presentationUID")
    series, instance = (given.get(name, "") for name in names)
    if not series and not instance:
        return None
    if not (uids.is_valid(series) and uids.is_valid(instance)):
        raise BadParameter("presentationUID", "and presentationSeriesUID go together and are UIDs")
    found = door.archive.retrieve(door.actor, Scope(study, series, instance))[0]
    if found.sop_class_uid not in PRESENTATION_STATES:
        raise BadParameter("presentationUID", "names something else than a presentation state")
    return found


def shown_by(door: Door, state: Instance) -> Instance:
    """The first image that a presentation state is about (PS3.3 C.11.11). Raises Missing."""
    for series in _items(door.archive.metadata(state), "00081115"):
        for image in _items(series, "00081140"):
            scope = Scope(
                state.study_instance_uid, _uid(series, "0020000E"), _uid(image, "00081155")
            )
            if scope.series_instance_uid and scope.sop_instance_uid:
                return door.archive.retrieve(door.actor, scope)[0]
    raise Missing("the presentation state is about no image that is here")


def _items(model: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    values = model.get(tag, {}).get("Value", [])
    return [one for one in values if isinstance(one, dict)]


def _uid(model: Mapping[str, Any], tag: str) -> str:
    found = str(next(iter(model.get(tag, {}).get("Value", [])), ""))
    return found if uids.is_valid(found) else ""
