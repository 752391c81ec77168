"""The figures of a running server, from `GET /api/admin/figures`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tocsin.api.admin.figures import FiguresView
from tocsin.cli.errors import CommandError
from tocsin.cli.server_api import ServerApi, detail_of

_PATH: Final = "/api/admin/figures"
_REFUSED: Final = frozenset({401, 403})


class NotNowError(CommandError):
    """The server answers, and has no figures at present; the message says why."""


def read(server: ServerApi) -> FiguresView:
    """The figures as they are now.

    Raises:
        NoAnswerError, NotNowError: there are none now; asking again may help.
        CommandError: the server does not give them to this key, or is not one that has any.
    """
    body = _body(server)
    try:
        return msgspec.json.decode(body, type=FiguresView)
    except msgspec.DecodeError as error:
        raise CommandError(f"{server.url}: its figures are those of another version of tocsin: {error}") from None


def read_json(server: ServerApi) -> Any:
    """The same as the server has written them. Raises the same."""
    return msgspec.json.decode(_body(server))


def _body(server: ServerApi) -> bytes:
    status, body = server.get(_PATH)
    if status == 200:
        return body
    said = detail_of(body)
    if status in _REFUSED:
        raise CommandError(
            f"{server.url}: {said} --key-file must hold an admin key; `tocsin key create admin` makes one"
        )
    if status == 429 or status >= 500:
        raise NotNowError(f"{server.url}: answered {status} {said}".rstrip())
    raise CommandError(f"{server.url}: what answers there has no figures ({status}); name the server with --api")
