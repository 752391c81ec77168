"""The two conventions by which `/api/push` answers (SPEC, section 2): that of the document, and the platform's own.

One of them is chosen when the application is made. No other module knows which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec
from litestar import Response
from msgspec import UNSET, Struct, UnsetType

from tocsin.api.fast_path import Success
from tocsin.api.problems import Problem, problem_response, response_headers
from tocsin.domain.devices import Device
from tocsin.providers.rules import RuleBook


class Status(Struct, frozen=True, omit_defaults=True):
    """A response that has only a `status` and perhaps a message."""

    status: str
    message: str | UnsetType = UNSET


class Convention(Protocol):
    """How `/api/push` answers."""

    sid_in_url: bool
    """Whether the session may also be given as the URL parameter `sid`."""

    def refused(self, problem: Problem) -> Response[bytes]:
        """A request that failed."""

    def done(self) -> Success:
        """A `POST` that succeeded."""

    def tokens(self, devices: Sequence[Device]) -> Success:
        """A `GET`: these are all devices of the user."""


class Document:
    """The default: status codes with problem bodies; success is `{}`; the named failures are 200 with a `status`."""

    sid_in_url = False

    def __init__(self, rules: RuleBook) -> None:
        self._rules = rules

    def refused(self, problem: Problem) -> Response[bytes]:
        if problem.kind.named:
            return _status(Status(problem.kind.slug), problem)
        return problem_response(problem)

    def done(self) -> Success:
        return Success(b"{}")

    def tokens(self, devices: Sequence[Device]) -> Success:
        return Success(_encode(_sections(self._rules, devices)))


class Platform:
    """The platform's: always HTTP 200, always with a `status`."""

    sid_in_url = True

    def __init__(self, rules: RuleBook) -> None:
        self._rules = rules

    def refused(self, problem: Problem) -> Response[bytes]:
        return _status(Status(problem.kind.platform, problem.detail), problem)

    def done(self) -> Success:
        return Success(b'{"status":"ok"}')

    def tokens(self, devices: Sequence[Device]) -> Success:
        return Success(_encode(_sections(self._rules, devices) | {"status": "ok"}))


def convention(name: Literal["document", "platform"], rules: RuleBook) -> Convention:
    """The convention of this name (setting `push_api.convention`)."""
    return Platform(rules) if name == "platform" else Document(rules)


_encode = msgspec.json.Encoder().encode


def _status(status: Status, problem: Problem) -> Response[bytes]:
    return Response(_encode(status), media_type="application/json", headers=response_headers(problem))


def _sections(rules: RuleBook, devices: Sequence[Device]) -> dict[str, Any]:
    """A user's devices by provider. Every provider's section is there, empty or not.

    Devices of a provider that is not configured any more are left out.
    """
    by_provider: dict[str, list[Device]] = {name: [] for name in rules}
    for device in devices:
        if device.provider in by_provider:
            by_provider[device.provider].append(device)
    return {name: rules[name].section(own) for name, own in by_provider.items()}
