"""`codomyrmex-streaming alerts silence add`, `list` and `expire`: the silences of a shared state."""

from __future__ import annotations

import getpass
import time
from typing import Annotated, Any

import typer
from codomyrmex.integrations.cli.alert_state import (
    Place,
    SinkName,
    StateOfConfig,
    StatePlace,
    StreamName,
    changing,
    place_of,
    read_state,
)
from codomyrmex.integrations.cli.arguments import AsJson, read_duration, read_matchers, read_time
from codomyrmex.integrations.cli.output import (
    Row,
    fail,
    print_json,
    print_message,
    print_table,
    printable,
    stdout,
)
from codomyrmex.integrations.cli.store_access import run
from codomyrmex.integrations.notification import Silence
from codomyrmex.integrations.notification.alerts.notification import iso
from codomyrmex.integrations.notification.alerts.silences import SilenceState
from codomyrmex.integrations.notification.alerts.state_admin import silences_of


def add(
    matchers: Annotated[
        list[str],
        typer.Argument(
            metavar="MATCHER", help="Such as 'team=\"db\"' or 'host=~\"web-.*\"'.", show_default=False
        ),
    ],
    *,
    duration: Annotated[
        str, typer.Option(metavar="SPAN", help="The duration, such as 2h.", show_default=False)
    ],
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="The start, in ISO 8601; now by default.")
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--or", metavar="MATCHERS", help="Further matchers, of which all may match instead."),
    ] = None,
    comment: Annotated[str, typer.Option(help="The reason.")] = "",
    author: Annotated[
        str | None, typer.Option(help="The author; the current user by default.", show_default=False)
    ] = None,
    state: StatePlace = None,
    config: StateOfConfig = None,
    stream: StreamName = None,
    sink: SinkName = None,
    as_json: AsJson = False,
) -> None:
    """Add a silence and print its id.

    Alerts that match all matchers are not notified, and neither are those that match all of one --or.
    """
    parsed = read_matchers(matchers)
    other = tuple(read_matchers([each]) for each in others or ())
    starts_at = time.time() if start is None else read_time(start, "--start")
    ends_at = starts_at + read_duration(duration, "--duration")
    try:
        by = _user() if author is None else author
        silence = Silence(parsed, starts_at, ends_at, by, comment, other_matchers=other)
    except ValueError as error:
        raise typer.BadParameter(str(error).replace("other_matchers", "--or")) from None
    if ends_at <= time.time():
        raise typer.BadParameter("the silence would have ended already", param_hint="--start")
    place = place_of(state, config, stream, sink, as_json=as_json)
    run(lambda: _add(place, silence), as_json=as_json)
    if as_json:
        print_json(_to_dict(silence))
    else:
        stdout().print(silence.id)


def list_(
    *,
    state: StatePlace = None,
    config: StateOfConfig = None,
    stream: StreamName = None,
    sink: SinkName = None,
    everything: Annotated[bool, typer.Option("--all", help="Also list expired ones.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the silences that are active or pending."""
    now = time.time()
    place = place_of(state, config, stream, sink, as_json=as_json)
    silences = [
        silence
        for silence in silences_of(run(lambda: read_state(place), as_json=as_json))
        if everything or silence.state(now) is not SilenceState.EXPIRED
    ]
    if as_json:
        print_json([_to_dict(silence) for silence in silences])
        return
    if not silences:
        print_message("no silences" if everything else "no active or pending silences")
        return
    names = ["id", "state", "until", "by", "matchers", "starts", "comment"]
    print_table(names, [_row(silence, silence.state(now)) for silence in silences])


def _row(silence: Silence, state: SilenceState) -> Row:
    cells = [
        silence.id,
        state.value,
        _short(silence.ends_at),
        printable(silence.created_by),
    ]
    matchers = printable(silence.condition())
    style = "dim" if state is SilenceState.EXPIRED else ""
    starts = f"from {_short(silence.starts_at)}" if state is SilenceState.PENDING else ""
    return Row(cells, [matchers, starts, printable(silence.comment)], style)


def expire(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID", help="The id that add and list print.", show_default=False)
    ],
    *,
    state: StatePlace = None,
    config: StateOfConfig = None,
    stream: StreamName = None,
    sink: SinkName = None,
    as_json: AsJson = False,
) -> None:
    """End silences now."""
    place = place_of(state, config, stream, sink, as_json=as_json)
    expired, errors = run(lambda: _expire(place, ids), as_json=as_json)
    if as_json and not errors:
        print_json([_to_dict(silence) for silence in expired])
    elif not as_json:
        for silence in expired:
            stdout().print(silence.id)
    if errors:
        fail("; ".join(errors), as_json=as_json)


async def _add(place: Place, silence: Silence) -> None:
    async with changing(place, create=True) as admin:
        await admin.add_silence(silence)


async def _expire(place: Place, ids: list[str]) -> tuple[list[Silence], list[str]]:
    expired: list[Silence] = []
    errors: list[str] = []
    async with changing(place, create=False) as admin:
        for silence_id in ids:
            try:
                expired.append(await admin.expire_silence(silence_id, time.time()))
            except KeyError:
                errors.append(f"silence {silence_id} does not exist")
            except ValueError as error:
                errors.append(str(error))
    return expired, errors


def _to_dict(silence: Silence) -> dict[str, Any]:
    return {
        "id": silence.id,
        "state": silence.state(time.time()).value,
        "matchers": [str(matcher) for matcher in silence.matchers],
        "other_matchers": [[str(matcher) for matcher in each] for each in silence.other_matchers],
        "starts_at": iso(silence.starts_at),
        "ends_at": iso(silence.ends_at),
        "created_by": silence.created_by,
        "comment": silence.comment,
    }


def _short(seconds: float) -> str:
    return f"{iso(seconds)[:16]}Z"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # such as in a container without users
        return ""
