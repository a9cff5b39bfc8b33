"""Notifications: events of workitems over WebSockets, as DICOM JSON (PS3.18 8.10.4, 8.10.5).

Sockets are fed from the rows of the events, so it does not matter which process made the change.
One task asks for news of everybody who is connected here, and only while somebody is. Who connects
first hears how everything stands that it watches, so that a broken line loses no state. Each socket
has a short queue; a reader that does not keep up is cut off and may connect again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from pacs.dicom.json_model import JsonModel
from pacs.errors import Forbidden, NodeError
from pacs.workitems import PUSH, Event, Workitems
from web.auth import Caller
from web.dicomweb.origin import is_from_another_site
from web.parts import Parts

SOCKETS_MAX: Final = 64  # open at once in this process; a further one is closed at once
EVENTS_WAITING_MAX: Final = 1_000  # for one socket; one with more is cut off
POLL_S: Final = 0.25  # how often it is asked for news
SEND_S: Final = 20.0  # for one event to be taken; a reader that takes longer is cut off
MESSAGE_IDS: Final = 65_535  # (0000,0110) has 16 bits
TRY_AGAIN_LATER: Final = 1013  # the close code of RFC 6455 for a server that cannot go on

router = APIRouter()
log = logging.getLogger(__name__)


@router.websocket("/ws/subscribers/{ae_title}")
@router.websocket("/subscribers/{ae_title}")
async def notify(websocket: WebSocket, ae_title: str, actor: Caller) -> None:
    """Open a notification connection (PS3.18 8.10.4)."""
    parts: Parts = websocket.app.state.parts
    if is_from_another_site(websocket, parts.trusted_proxies):
        await websocket.close()  # before it is accepted, that is a 403
        return
    notifications: Notifications = websocket.app.state.notifications
    if notifications.is_full:
        await _turn_away(websocket)
        return
    reader = Reader(websocket, ae_title.strip())
    with notifications.place_for(reader):
        try:
            reports, reader.after = await asyncio.to_thread(
                parts.workitems.present, actor, reader.ae_title
            )
        except Forbidden:
            await websocket.close()
            return
        except NodeError:
            await _turn_away(websocket)
            return
        await websocket.accept()
        notifications.follow(reader)
        await reader.run(reports)


async def _turn_away(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close(TRY_AGAIN_LATER)


class Reader:
    """One socket, and what is still to be sent on it."""

    def __init__(self, websocket: WebSocket, ae_title: str) -> None:
        self.ae_title = ae_title
        self.after = 0  # the newest event that it had, or that is not for it
        self._websocket = websocket
        self._waiting: asyncio.Queue[Event] = asyncio.Queue(EVENTS_WAITING_MAX)
        self._too_slow = asyncio.Event()
        self._message_id = 0

    def offer(self, event: Event) -> None:
        """Take an event to be sent, if it is a new one."""
        if event.id <= self.after or event.ae_title != self.ae_title:
            return
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self._too_slow.set()

    async def run(self, reports: list[Event]) -> None:
        """Send the reports and then every event, until either side has enough."""
        tasks = [
            asyncio.ensure_future(work)
            for work in (self._send(reports), self._hear(), self._too_slow.wait())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()

    async def _send(self, reports: list[Event]) -> None:
        try:
            for event in reports:
                await self._send_one(event)
            while True:
                await self._send_one(await self._waiting.get())
        except (TimeoutError, WebSocketDisconnect, RuntimeError):
            log.info("a reader of events is gone or too slow")

    async def _send_one(self, event: Event) -> None:
        self._message_id = self._message_id % MESSAGE_IDS + 1
        text = json.dumps(as_json(event, self._message_id), ensure_ascii=False)
        await asyncio.wait_for(self._websocket.send_text(text), SEND_S)

    async def _hear(self) -> None:
        """Nothing is asked here: whatever is said is dropped until the other side goes."""
        while (await self._websocket.receive())["type"] != "websocket.disconnect":
            pass

    async def _close(self) -> None:
        if self._websocket.client_state is WebSocketState.CONNECTED:
            try:
                await asyncio.wait_for(self._websocket.close(TRY_AGAIN_LATER), SEND_S)
            except (TimeoutError, RuntimeError):
                log.info("a socket could not be closed in order")


def as_json(event: Event, message_id: int) -> JsonModel:
    """An event as PS3.18 11.13 writes it, with the elements of its command first."""
    return {
        "00000002": {"vr": "UI", "Value": [PUSH]},
        "00000110": {"vr": "US", "Value": [message_id]},
        "00001000": {"vr": "UI", "Value": [event.target]},
        "00001002": {"vr": "US", "Value": [event.kind]},
        **event.information,
    }


class Notifications:
    """The sockets of this process, and the task that looks for their news."""

    def __init__(self, workitems: Workitems) -> None:
        self._workitems = workitems
        self._places: set[Reader] = set()
        self._readers: set[Reader] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether a further socket must be refused."""
        return len(self._places) >= SOCKETS_MAX

    @contextmanager
    def place_for(self, reader: Reader) -> Iterator[None]:
        """Count a socket as long as it is served."""
        self._places.add(reader)
        try:
            yield
        finally:
            self._places.discard(reader)
            self._readers.discard(reader)

    def follow(self, reader: Reader) -> None:
        """Give a reader the events after `reader.after`."""
        self._readers.add(reader)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        while self._readers:
            ae_titles = {reader.ae_title for reader in self._readers}
            after = min(reader.after for reader in self._readers)
            try:
                news = await asyncio.to_thread(self._workitems.events, ae_titles, after)
            except NodeError as error:
                log.warning("no news of workitems: %s", error)
                news = []
            self._pass_on(news, ae_titles)
            if not news:
                await asyncio.sleep(POLL_S)

    def _pass_on(self, news: list[Event], ae_titles: set[str]) -> None:
        """Offer the news to everybody; who was asked for has then had all up to the newest."""
        for reader in self._readers:
            if reader.ae_title not in ae_titles:
                continue  # it came while we asked
            for event in news:
                reader.offer(event)
            if news:
                reader.after = max(reader.after, news[-1].id)
