"""`tusgate events`: what was told to whom, and what could not be."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from tusgate.cli.choosing import MOMENT, AsJson, Everything, check_named, choosing, moment
from tusgate.cli.exits import Exit
from tusgate.cli.flags import with_settings
from tusgate.cli.report import Report, counted
from tusgate.core.events import DeliveryState, EventId, EventType, Search
from tusgate.core.model import UploadId
from tusgate.settings import Loaded  # noqa: TC001 - flags.py evaluates the annotations
from tusgate.telemetry import configure_logging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from tusgate.core.events import Delivery
    from tusgate.ports import Deliveries

    T = TypeVar("T")

app = typer.Typer(help="Look at events, and have those delivered that could not be.", no_args_is_help=True)


class Which(StrEnum):
    """States of deliveries to choose from."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"
    ANY = "any"


_ID = Annotated[str | None, typer.Option("--id", metavar="EVENT", help="The event with this id.")]
_UPLOAD = Annotated[str | None, typer.Option("--upload", metavar="ID", help="Events of this upload.")]
_TENANT = Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="Events of this tenant.")]
_TYPE = Annotated[EventType | None, typer.Option("--type", help="Events of this type.")]
_SINK = Annotated[str | None, typer.Option("--sink", metavar="NAME", help="Deliveries to this sink.")]
_SINCE = Annotated[str | None, typer.Option("--since", metavar="TIME", help=f"Events from then on: {MOMENT}.")]
_UNTIL = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Events before then.")]
_ANY = Annotated[Which, typer.Option("--state", help="What has become of the delivery.")]


def _search(
    *,
    event_id: _ID = None,
    upload: _UPLOAD = None,
    tenant: _TENANT = None,
    event_type: _TYPE = None,
    sink: _SINK = None,
    since: _SINCE = None,
    until: _UNTIL = None,
    state: _ANY = Which.ANY,
) -> Search:
    """Return what these flags choose."""
    return Search(
        event_id=None if event_id is None else _event_id(event_id),
        upload_id=None if upload is None else UploadId(upload),
        tenant=tenant,
        type=event_type,
        sink=sink,
        state=None if state is Which.ANY else DeliveryState(state),
        since=moment(since, "--since"),
        until=moment(until, "--until"),
    )


@choosing(_search)
def list_events(loaded: Loaded, search: Search, *, as_json: AsJson = False) -> None:
    """List deliveries, oldest first: one line for each event and sink. Exits with 1 when one of them is dead."""
    from tusgate.service.paging import pages

    report = Report("Time", "Event", "Type", "Sink", "State", "Tries", "Error", as_json=as_json)
    counts = dict.fromkeys(DeliveryState, 0)

    async def work(deliveries: Deliveries) -> dict[str, str]:
        async for page in pages(deliveries.find, search):
            for delivery in page:
                counts[delivery.state] += 1
                _add(report, delivery)
        return await deliveries.disabled()

    disabled = _run(loaded, work)
    told = ", ".join(f"{number:,} {each}" for each, number in counts.items() if number)
    report.end(told or "no deliveries", {str(each): number for each, number in counts.items()} | {"disabled": disabled})
    for name, reason in disabled.items():
        print(f"{name} is disabled: {reason}. To go on: tusgate events enable {name}", file=sys.stderr)
    if counts[DeliveryState.DEAD]:
        sys.exit(Exit.FAILED)


def _add(report: Report, delivery: Delivery) -> None:
    event = delivery.event
    report.add(
        f"{event.occurred_at:%Y-%m-%d %H:%M:%S}",
        str(event.id),
        event.type,
        delivery.sink,
        delivery.state,
        str(delivery.tries),
        delivery.error or "",
        style="red" if delivery.state is DeliveryState.DEAD else None,
    )


def show(loaded: Loaded, event_id: Annotated[str, typer.Argument(metavar="EVENT", help="Id of an event.")]) -> None:
    """Print an event as sinks get it, and what has become of each delivery, as one JSON object."""
    from tusgate.sinks.document import document_of

    search = Search(event_id=_event_id(event_id))

    async def work(deliveries: Deliveries) -> list[Delivery]:
        return await deliveries.find(search, 1000)

    found = _run(loaded, work)
    if not found:
        sys.exit(f"there is no event {event_id}")
    event = json.loads(document_of(found[0].event, loaded.settings.event_source))
    print(json.dumps({"event": event, "deliveries": [_described(each) for each in found]}, indent=2))


def _described(delivery: Delivery) -> dict[str, object]:
    settled = delivery.settled_at
    return {
        "sink": delivery.sink,
        "state": delivery.state,
        "tries": delivery.tries,
        "error": delivery.error,
        "due_at": delivery.due_at.isoformat() if delivery.state is DeliveryState.WAITING else None,
        "settled_at": None if settled is None else settled.isoformat(),
    }


@choosing(_search, state=Which.DEAD)
def replay(loaded: Loaded, search: Search, *, everything: Everything = False) -> None:
    """Have deliveries made again, under the ids of their events; dead ones unless told otherwise."""
    _check_named(search, everything)
    from tusgate.service.redelivery import replay_all

    print(f"{counted(_run(loaded, lambda deliveries: replay_all(deliveries, search)), 'event')} to be delivered again")


@choosing(_search, state=Which.DEAD)
def drop(loaded: Loaded, search: Search, *, everything: Everything = False) -> None:
    """Forget deliveries for good; dead ones unless told otherwise."""
    _check_named(search, everything)
    from tusgate.service.redelivery import drop_all

    print(f"{counted(_run(loaded, lambda deliveries: drop_all(deliveries, search)), 'event')} dropped")


def enable(loaded: Loaded, sink: Annotated[str, typer.Argument(metavar="SINK", help="Name of a sink.")]) -> None:
    """Deliver to a sink again that has answered 410."""
    _run(loaded, lambda deliveries: deliveries.enable(sink))
    print(f"{sink} is enabled; what it has missed: tusgate events replay --sink {sink}")


def _check_named(search: Search, everything: bool) -> None:
    named = (search.event_id, search.upload_id, search.tenant, search.type, search.sink, search.since, search.until)
    check_named(everything, *named)


def _event_id(text: str) -> EventId:
    try:
        return EventId.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _run(loaded: Loaded, work: Callable[[Deliveries], Awaitable[T]]) -> T:
    configure_logging(loaded.settings.model_copy(update={"log_level": "error"}))
    # Not at the top: the other commands start faster without the server.
    from tusgate.app import with_deliveries

    return with_deliveries(loaded.settings, work)


app.command("list")(with_settings(list_events))
for _command in (show, replay, drop, enable):
    app.command()(with_settings(_command))
