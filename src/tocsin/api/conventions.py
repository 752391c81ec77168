"""The two ways in which `/api/push` answers: as the document says, or as the platform's whole API does.

Which one is in force is decided once, when the application is made; from then on it is this object.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec
from litestar import Response
from msgspec import UNSET, Struct, UnsetType

from tocsin.api.express import Answer
from tocsin.api.problems import Problem, problem_response, response_headers
from tocsin.domain.devices import Device, System


class ApnsRegistration(Struct, frozen=True, omit_defaults=True):
    """One APNs device token's registration. `apns_topic` only where one was given."""

    application_id: str
    sandbox: bool
    apns_topic: str | UnsetType = UNSET


class FcmTokens(Struct, frozen=True):
    """FCM registration tokens, in order of registration."""

    device_tokens: list[str]


class ApnsTokens(Struct, frozen=True):
    """APNs device tokens, each with its registration."""

    device_tokens: dict[str, ApnsRegistration]


class Tokens(Struct, frozen=True, omit_defaults=True):
    """A user's tokens; both sections are always there. `status` belongs to the platform's convention."""

    fcm: FcmTokens
    apns: ApnsTokens
    status: str | UnsetType = UNSET


class Status(Struct, frozen=True, omit_defaults=True):
    """What became of a call, where it is an answer of the call itself."""

    status: str
    message: str | UnsetType = UNSET


class Convention(Protocol):
    sid_in_url: bool
    """Whether the session may also travel as the URL parameter `sid`."""

    def refused(self, problem: Problem) -> Response[bytes]: ...

    def done(self) -> Answer: ...

    def tokens(self, devices: list[Device]) -> Answer: ...


class Document:
    """HTTP status codes with problem bodies; success is `{}`, and three failures are answers of the call."""

    sid_in_url = False

    def refused(self, problem: Problem) -> Response[bytes]:
        if problem.kind.named:
            return _status(Status(problem.kind.slug), problem)
        return problem_response(problem)

    def done(self) -> Answer:
        return Answer(b"{}")

    def tokens(self, devices: list[Device]) -> Answer:
        return _tokens(devices, UNSET)


class Platform:
    """Always HTTP 200, always a `status`."""

    sid_in_url = True

    def refused(self, problem: Problem) -> Response[bytes]:
        return _status(Status(problem.kind.platform, problem.detail), problem)

    def done(self) -> Answer:
        return Answer(b'{"status":"ok"}')

    def tokens(self, devices: list[Device]) -> Answer:
        return _tokens(devices, "ok")


def convention(name: Literal["document", "platform"]) -> Convention:
    return Platform() if name == "platform" else Document()


_encode = msgspec.json.Encoder().encode


def _status(status: Status, problem: Problem) -> Response[bytes]:
    return Response(_encode(status), media_type="application/json", headers=response_headers(problem))


def _tokens(devices: list[Device], status: str | UnsetType) -> Answer:
    fcm: list[str] = []
    apns: dict[str, ApnsRegistration] = {}
    for device in devices:
        if device.system == System.APNS:
            apns[device.token] = ApnsRegistration(
                device.application_id or "", device.sandbox, device.apns_topic or UNSET
            )
        else:
            fcm.append(device.token)
    return Answer(_encode(Tokens(FcmTokens(fcm), ApnsTokens(apns), status)))
