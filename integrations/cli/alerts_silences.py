"""`alerts silence add`, `list` and `expire`: silences in a state file."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from codomyrmex.integrations.cli.arguments import AsJson, StatePath, read_duration, read_matchers, read_time
from codomyrmex.integrations.cli.output import Row, fail, out, print_json, print_table, say, shown, telling
from codomyrmex.integrations.notification import Silence, StateFile, load_alert_config
from codomyrmex.integrations.notification.alerts.notification import iso
from codomyrmex.integrations.notification.alerts.silences import SilenceState

OfConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A configuration, whose `state:` is used.",
        exists=True,
        dir_okay=False,
    ),
]


def add(
    matchers: Annotated[
        list[str],
        typer.Argument(
            metavar="MATCHER", help="Such as 'team=\"db\"' or 'host=~\"web-.*\"'.", show_default=False
        ),
    ],
    *,
    duration: Annotated[str, typer.Option(metavar="SPAN", help="How long, such as 2h.", show_default=False)],
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="From when on, in ISO 8601; now if left out.")
    ] = None,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    author: Annotated[
        str | None, typer.Option(help="Who says so; the name of the user if left out.", show_default=False)
    ] = None,
    state: StatePath = None,
    config: OfConfig = None,
    as_json: AsJson = False,
) -> None:
    """Add a silence and print its id: alerts that match all matchers are not notified of."""
    wanted = read_matchers(matchers)
    begin = time.time() if start is None else read_time(start, "--start")
    end = begin + read_duration(duration, "--duration")
    try:
        silence = Silence(wanted, begin, end, _user() if author is None else author, comment)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if end <= time.time():
        raise typer.BadParameter("the silence would be over already", param_hint="--start")
    with _state_file(state, config, as_json=as_json, make=True) as file:
        file.add_silence(silence)
    if as_json:
        print_json(_as_dict(silence))
    else:
        out().print(silence.id)


def list_(
    *,
    state: StatePath = None,
    config: OfConfig = None,
    everything: Annotated[bool, typer.Option("--all", help="Expired ones too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the silences that are active or still to come."""
    now = time.time()
    with _state_file(state, config, as_json=as_json) as file:
        silences = [
            silence
            for silence in file.silences()
            if everything or silence.state(now) is not SilenceState.EXPIRED
        ]
    if as_json:
        print_json([_as_dict(silence) for silence in silences])
        return
    if not silences:
        say("there are no silences" if everything else "there are no silences that are active or pending")
        return
    names = ["id", "state", "until", "by", "matchers", "starts", "comment"]
    print_table(names, [_row(silence, silence.state(now)) for silence in silences])


def _row(silence: Silence, state: SilenceState) -> Row:
    cells = [
        silence.id,
        state.value,
        _short(silence.ends_at),
        shown(silence.created_by),
    ]
    matchers = shown(", ".join(str(matcher) for matcher in silence.matchers))
    style = "dim" if state is SilenceState.EXPIRED else ""
    starts = f"from {_short(silence.starts_at)}" if state is SilenceState.PENDING else ""
    return Row(cells, [matchers, starts, shown(silence.comment)], style)


def expire(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="As list shows it.", show_default=False)],
    *,
    state: StatePath = None,
    config: OfConfig = None,
    as_json: AsJson = False,
) -> None:
    """End silences now."""
    ended: list[Silence] = []
    wrong: list[str] = []
    with _state_file(state, config, as_json=as_json) as file:
        for silence_id in ids:
            try:
                ended.append(file.expire_silence(silence_id, time.time()))
            except KeyError:
                wrong.append(f"there is no silence {silence_id}")
            except ValueError as error:
                wrong.append(str(error))
    if as_json and not wrong:
        print_json([_as_dict(silence) for silence in ended])
    elif not as_json:
        for silence in ended:
            out().print(silence.id)
    if wrong:
        fail("; ".join(wrong), as_json=as_json)


@contextmanager
def _state_file(
    state: Path | None, config: Path | None, *, as_json: bool, make: bool = False
) -> Iterator[StateFile]:
    if (state is None) == (config is None):
        raise typer.BadParameter("give one of --state and --config; silences are kept in a state file")
    with telling(as_json=as_json):
        path = state
        if config is not None:
            path = load_alert_config(config).state
        if path is None:
            raise typer.BadParameter(
                f"{config} has no `state:`; add it, or give --state", param_hint="--config"
            )
        if not make and not path.exists():
            raise typer.BadParameter(f"there is no state file {path}", param_hint="--state")
        file = StateFile(path)
        try:
            yield file
        finally:
            file.close()


def _as_dict(silence: Silence) -> dict[str, Any]:
    return {
        "id": silence.id,
        "state": silence.state(time.time()).value,
        "matchers": [str(matcher) for matcher in silence.matchers],
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
    except (OSError, KeyError, ImportError):  # as in a container without users
        return ""
