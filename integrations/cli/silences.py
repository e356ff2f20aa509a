"""`codomyrmex-streaming alerts silence add`, `list` and `expire`: the silences of a state file."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from codomyrmex.integrations.cli.arguments import (
    AsJson,
    StatePath,
    check_state_file,
    read_duration,
    read_matchers,
    read_time,
)
from codomyrmex.integrations.cli.output import (
    Row,
    fail,
    print_json,
    print_message,
    print_table,
    printable,
    reporting_errors,
    stdout,
)
from codomyrmex.integrations.notification import Silence, StateFile, load_alert_config
from codomyrmex.integrations.notification.alerts.notification import iso
from codomyrmex.integrations.notification.alerts.silences import SilenceState

StateOfConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Use the `state:` of this configuration.",
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
    state: StatePath = None,
    config: StateOfConfig = None,
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
    with _state_file(state, config, "rwc", as_json=as_json) as file:
        file.add_silence(silence)
    if as_json:
        print_json(_to_dict(silence))
    else:
        stdout().print(silence.id)


def list_(
    *,
    state: StatePath = None,
    config: StateOfConfig = None,
    everything: Annotated[bool, typer.Option("--all", help="Also list expired ones.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the silences that are active or pending."""
    now = time.time()
    with _state_file(state, config, "ro", as_json=as_json) as file:
        silences = [
            silence
            for silence in file.silences()
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
    state: StatePath = None,
    config: StateOfConfig = None,
    as_json: AsJson = False,
) -> None:
    """End silences now."""
    expired: list[Silence] = []
    errors: list[str] = []
    with _state_file(state, config, "rw", as_json=as_json) as file:
        for silence_id in ids:
            try:
                expired.append(file.expire_silence(silence_id, time.time()))
            except KeyError:
                errors.append(f"silence {silence_id} does not exist")
            except ValueError as error:
                errors.append(str(error))
    if as_json and not errors:
        print_json([_to_dict(silence) for silence in expired])
    elif not as_json:
        for silence in expired:
            stdout().print(silence.id)
    if errors:
        fail("; ".join(errors), as_json=as_json)


@contextmanager
def _state_file(
    state: Path | None, config: Path | None, mode: Literal["ro", "rw", "rwc"], *, as_json: bool
) -> Iterator[StateFile]:
    if (state is None) == (config is None):
        raise typer.BadParameter("exactly one of --state and --config is required")
    with reporting_errors(as_json=as_json):
        path, option = state, "--state"
        if config is not None:
            path, option = load_alert_config(config).state, "--config"
        if path is None:
            raise typer.BadParameter(f"{config} has no `state:`; add it, or use --state", param_hint=option)
        check_state_file(path, option, must_exist=mode != "rwc")
        file = StateFile(path, mode)
        try:
            yield file
        finally:
            file.close()


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
