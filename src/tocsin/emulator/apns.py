"""Apple, as strict as it is: one handler for the production and one for the sandbox.

Source: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs".
"""

from __future__ import annotations

import random
import re
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from tocsin.emulator.acting import Faults, Subject
from tocsin.emulator.apns_kinds import Kind, check_kind
from tocsin.emulator.apns_reasons import Reason, Refused
from tocsin.emulator.client_certificates import certificate_of
from tocsin.emulator.faults import Rule
from tocsin.emulator.frames import Frames, Reading
from tocsin.emulator.inbox import Inbox
from tocsin.emulator.provider_tokens import ProviderTokens
from tocsin.emulator.tally import Tally
from tocsin.http2.messages import Header
from tocsin.http2.server import Exchange, Reply

_PATH: Final = b"/3/device/"
_TOKEN: Final = re.compile(rb"[0-9a-fA-F]{64}")
_UUID: Final = re.compile(rb"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_EXPIRATION: Final = re.compile(rb"[0-9]{1,11}")
_COLLAPSE_ID_LIMIT_BYTES: Final = 64
_MOST_KINDS: Final = 10_000


class _Payload(Struct):
    """What Apple looks for; the other fields are the app's."""

    aps: Raw


_decode_payload = msgspec.json.Decoder(_Payload).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


class Apple(Struct, frozen=True):
    """What both environments share. `homes` is where each device token that was ever accepted belongs: a token is good
    for one environment and one topic.
    """

    team_id: str
    tokens: ProviderTokens
    inbox: Inbox
    tally: Tally
    faults: Faults
    topics: frozenset[str] = frozenset()
    """The only topics that may be pushed to, with Apple's suffixes; empty allows every well-formed one."""
    streams_after_success: int | None = None
    """Where connections start with one stream: how many they get once a request has succeeded."""
    homes: dict[bytes, tuple[str, bytes]] = {}
    most_homes: int = 100_000
    """Of how many device tokens it is remembered where they belong: the first ones."""


class ApnsHandler:
    """One environment."""

    def __init__(self, environment: str, apple: Apple) -> None:
        self._environment = environment
        self._sandbox = environment == "sandbox"
        self._apple = apple
        self._tokens = apple.tokens
        self._homes = apple.homes
        self._faults = apple.faults
        self._tally = apple.tally
        self._frames = Frames(b":path", b"apns-expiration", b"apns-id")
        self._kinds: dict[tuple[bytes, bytes, bytes], Kind] = {}

    def __call__(self, exchange: Exchange) -> Reply | None:
        reading = self._frames.read(exchange)
        if self._faults.active:
            return self._with_faults(exchange, reading)
        try:
            kind = self._check(exchange, reading)
        except Refused as refused:
            return self._refuse(refused.reason, reading)
        reply = self._success(reading)
        self._accept(exchange, reading, kind, reply)
        return reply

    # -- the checks, in their order ------------------------------------------------------------------------------------

    def _check(self, exchange: Exchange, reading: Reading) -> Kind:
        frame = reading.frame
        path, expiration, id = reading.values
        if frame.fields.get(b":method") != b"POST":
            raise Refused(Reason.METHOD_NOT_ALLOWED)
        if path is None or not path.startswith(_PATH):
            raise Refused(Reason.BAD_PATH)
        if reading.repeated:
            raise Refused(Reason.DUPLICATE_HEADERS)
        if exchange.connection.peer_certificate is None:
            self._tokens.check(frame.fields.get(b"authorization"), exchange.connection.state)
            kind: Kind | None = frame.verdict
            if kind is None:
                kind = frame.verdict = self._kind(frame.fields, frame.fields.get(b"apns-topic", b""))
        else:
            kind = self._kind(frame.fields, self._topic_by_certificate(exchange, frame.fields))
        home = self._home(path[len(_PATH) :])
        if expiration is not None and _EXPIRATION.fullmatch(expiration) is None:
            raise Refused(Reason.BAD_EXPIRATION_DATE)
        if id is not None and _UUID.fullmatch(id) is None:
            raise Refused(Reason.BAD_MESSAGE_ID)
        _check_payload(exchange.body, kind)
        if home is not None and home is not kind.home and home != kind.home:
            other = home[0] != self._environment
            raise Refused(Reason.BAD_DEVICE_TOKEN if other else Reason.DEVICE_TOKEN_NOT_FOR_TOPIC)
        return kind

    def _topic_by_certificate(self, exchange: Exchange, fields: dict[bytes, bytes]) -> bytes:
        """Apple ignores the provider token of a client that has shown a certificate."""
        certificate = certificate_of(exchange.connection)
        assert certificate is not None
        if self._environment not in certificate.environments:
            raise Refused(Reason.BAD_CERTIFICATE_ENVIRONMENT)
        topic = fields.get(b"apns-topic") or certificate.only_topic or b""
        if topic and topic not in certificate.topics:
            raise Refused(Reason.TOPIC_DISALLOWED)
        return topic

    def _kind(self, fields: dict[bytes, bytes], topic: bytes) -> Kind:
        if len(fields.get(b"apns-collapse-id", b"")) > _COLLAPSE_ID_LIMIT_BYTES:
            raise Refused(Reason.BAD_COLLAPSE_ID)
        key = (topic, fields.get(b"apns-push-type", b""), fields.get(b"apns-priority", b""))
        kind = self._kinds.get(key)
        if kind is None:
            kind = check_kind(self._environment, *key, self._apple.topics)
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            self._kinds[key] = kind
        return kind

    def _home(self, token: bytes) -> tuple[str, bytes] | None:
        """Where a well-formed device token belongs; None for a new one."""
        home = self._homes.get(token)
        if home is None:
            if not token:
                raise Refused(Reason.MISSING_DEVICE_TOKEN)
            if _TOKEN.fullmatch(token) is None:
                raise Refused(Reason.BAD_DEVICE_TOKEN)
            home = self._homes.get(token.lower())
        return home

    # -- the answers ---------------------------------------------------------------------------------------------------

    def _accept(self, exchange: Exchange, reading: Reading, kind: Kind, reply: Reply) -> None:
        path, _, id = reading.values
        assert path is not None
        token = path[len(_PATH) :].lower()
        if len(self._homes) < self._apple.most_homes:
            self._homes.setdefault(token, kind.home)
        self._apple.inbox.accept(
            "apns", self._environment, token, reply.headers[0][1], reading, exchange.body, chosen=id is not None
        )
        if self._apple.streams_after_success is not None:
            exchange.connection.set_max_streams(self._apple.streams_after_success)

    def _success(self, reading: Reading) -> Reply:
        self._tally.answers["apns", self._environment, 200, ""] += 1
        id = (b"apns-id", reading.values[2] or _new_id())
        return Reply(200, (id, (b"apns-unique-id", _new_id())) if self._sandbox else (id,))

    def _refuse(self, reason: Reason, reading: Reading) -> Reply:
        self._tally.count("apns", self._environment, reason.status, reason.text)
        return Reply(reason.status, _error_fields(reading), msgspec.json.encode({"reason": reason.text}))

    # -- faults --------------------------------------------------------------------------------------------------------

    def _with_faults(self, exchange: Exchange, reading: Reading) -> Reply | None:
        token = (reading.values[0] or b"")[len(_PATH) :].decode("latin-1").lower()
        topic = reading.frame.fields.get(b"apns-topic", b"").decode("latin-1")
        subject = Subject("apns", self._environment, token, f"{self._apple.team_id}.{topic}")
        rule = self._faults.find(subject, exchange.connection)
        if rule is not None and rule.scripted:
            reply = _scripted(rule, reading)
            status, reason = (0, rule.silent) if rule.silent else (reply.status, rule.reason)
            self._tally.count("apns", self._environment, status, reason)
            return self._faults.act(rule, exchange, reply)
        try:
            kind = self._check(exchange, reading)
        except Refused as refused:
            reply = self._refuse(refused.reason, reading)
        else:
            if rule is None or not rule.silent:
                reply = self._success(reading)
            else:
                reply = Reply(200, ((b"apns-id", reading.values[2] or _new_id()),))
                self._tally.count("apns", self._environment, 0, rule.silent)
            if rule is None or self._faults.takes(rule, exchange):
                self._accept(exchange, reading, kind, reply)
        return self._faults.delayed(exchange, reply) if rule is None else self._faults.act(rule, exchange, reply)


def _check_payload(body: bytes, kind: Kind) -> None:
    if not body:
        raise Refused(Reason.PAYLOAD_EMPTY)
    if len(body) > kind.limit_bytes:
        raise Refused(Reason.PAYLOAD_TOO_LARGE)
    try:
        if kind.needs_aps:
            _decode_payload(body)
        elif not _decode_object(body):
            raise Refused(Reason.PAYLOAD_EMPTY)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Refused(Reason.PAYLOAD_EMPTY) from None


def _new_id() -> bytes:
    # Not uuid4: it asks the kernel for its randomness, at a cost of two microseconds.
    digits = b"%032X" % random.getrandbits(128)
    return b"-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _error_fields(reading: Reading) -> list[Header]:
    id = reading.values[2]
    json = (b"content-type", b"application/json")
    return [(b"apns-id", id), json] if id else [json]


def _scripted(rule: Rule, reading: Reading) -> Reply:
    status = rule.status or 500
    body: dict[str, Any] = {"reason": rule.reason}
    if rule.timestamp is not None:
        body["timestamp"] = rule.timestamp
    return Reply(status, _error_fields(reading), msgspec.json.encode(body))
