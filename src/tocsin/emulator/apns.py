"""Apple, as strict as it is: one handler for the production and one for the sandbox.

Source: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs".
"""

from __future__ import annotations

import re
import time
from typing import Any, Final
from uuid import uuid4

import jwt
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509.oid import NameOID
from msgspec import Struct

from tocsin.emulator.faults import Faults, Rule, scripted_headers
from tocsin.emulator.inbox import Inbox
from tocsin.http2.messages import Header
from tocsin.http2.server import Exchange, Reply

TOKEN_LIFETIME_S: Final = 3600
_TOKEN: Final = re.compile(rb"[0-9a-fA-F]{64}")
_TOPIC: Final = re.compile(rb"[a-zA-Z0-9.-]{1,255}")
_UUID: Final = re.compile(rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_PATH: Final = b"/3/device/"
_TYPES: Final = {
    b"alert": "", b"background": "", b"mdm": "", b"widgets": "", b"controls": "",
    b"voip": ".voip", b"complication": ".complication", b"fileprovider": ".pushkit.fileprovider",
    b"location": ".location-query", b"pushtotalk": ".voip-ptt", b"liveactivity": ".push-type.liveactivity",
}  # fmt: skip
_STATUS: Final = {
    "BadPath": 404, "MethodNotAllowed": 405, "PayloadTooLarge": 413, "TooManyRequests": 429,
    "TooManyProviderTokenUpdates": 429, "ExpiredProviderToken": 403, "InvalidProviderToken": 403,
    "MissingProviderToken": 403, "BadCertificate": 403, "Forbidden": 403, "Unregistered": 410, "ExpiredToken": 410,
    "InternalServerError": 500, "ServiceUnavailable": 503, "Shutdown": 503,
}  # fmt: skip
"""Every reason that is not a 400."""

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ApnsRules(Struct, frozen=True):
    """What this emulator knows of its clients."""

    team_id: str
    key_id: str
    key_pem: bytes
    topics: frozenset[str] = frozenset()
    """Topics that the team may push to; empty allows every well-formed one."""
    token_update_interval_s: float = 0.0
    """Apple refuses a new provider token within 20 minutes; 0 switches that rule off."""


class _Wrong(Exception):
    """A request that Apple refuses, with its reason."""


class ApnsHandler:
    """One environment's handler. `bound` is shared by both: a token belongs to one environment and one topic."""

    def __init__(
        self,
        environment: str,
        rules: ApnsRules,
        inbox: Inbox,
        faults: Faults,
        bound: dict[bytes, tuple[str, bytes]],
        full_streams: int | None,
    ) -> None:
        self._environment = environment
        self._sandbox = environment == "sandbox"
        self._rules = rules
        self._inbox = inbox
        self._faults = faults
        self._bound = bound
        self._full_streams = full_streams
        """Where connections start with one stream: how many they get once a request has succeeded."""
        key = serialization.load_pem_private_key(rules.key_pem, None)
        self._public_key: Any = key.public_key()
        assert isinstance(self._public_key, EllipticCurvePublicKey)
        self._verified: dict[bytes, int] = {}
        self._kinds: dict[tuple[bytes, bytes, bytes], int] = {}
        self._updated = 0.0
        self._newest: bytes | None = None

    def __call__(self, exchange: Exchange) -> Reply | None:
        fields = dict(exchange.headers)
        path = fields.get(b":path", b"")
        token = path[len(_PATH) :]
        if self._faults.active:
            return self._with_faults(exchange, fields, token)
        reply = self._check(exchange, fields, token)
        if reply.status == 200:
            self._accept(exchange, fields, token, reply)
        return reply

    def _accept(self, exchange: Exchange, fields: dict[bytes, bytes], token: bytes, reply: Reply) -> None:
        topic = fields[b"apns-topic"]
        token = token.lower()
        self._bound.setdefault(token, (self._environment, topic))
        headers = [header for header in exchange.headers if header[0] != b"authorization"]
        self._inbox.accept("apns", self._environment, token, reply.headers[0][1], headers, exchange.body)
        if self._full_streams is not None:
            exchange.connection.set_max_streams(self._full_streams)

    def _check(self, exchange: Exchange, fields: dict[bytes, bytes], token: bytes) -> Reply:
        try:
            self._verify(exchange, fields, token)
        except _Wrong as wrong:
            reason = str(wrong)
            status = _STATUS.get(reason, 400)
            self._inbox.count("apns", self._environment, status, reason)
            return _refusal(status, reason, fields)
        self._inbox.count("apns", self._environment, 200, "")
        headers: list[Header] = [(b"apns-id", fields.get(b"apns-id") or str(uuid4()).encode())]
        if self._sandbox:
            headers.append((b"apns-unique-id", str(uuid4()).encode()))
        return Reply(200, headers)

    def _verify(self, exchange: Exchange, fields: dict[bytes, bytes], token: bytes) -> None:
        if fields.get(b":method") != b"POST":
            raise _Wrong("MethodNotAllowed")
        path = fields.get(b":path", b"")
        if not path.startswith(_PATH):
            raise _Wrong("BadPath")
        if len(fields) != len(exchange.headers):
            raise _Wrong("DuplicateHeaders")
        self._authenticate(exchange, fields)
        topic = fields.get(b"apns-topic", b"")
        kind = (topic, fields.get(b"apns-push-type", b""), fields.get(b"apns-priority", b""))
        limit = self._kinds.get(kind)
        if limit is None:
            limit = self._check_kind(*kind)
            if len(self._kinds) > 10_000:
                self._kinds.clear()
            self._kinds[kind] = limit
        if exchange.connection.peer_certificate is not None:
            self._check_certificate_topic(exchange, topic)
        if not token:
            raise _Wrong("MissingDeviceToken")
        if _TOKEN.fullmatch(token) is None:
            raise _Wrong("BadDeviceToken")
        expiration = fields.get(b"apns-expiration")
        if expiration is not None and not (expiration.isdigit() and len(expiration) < 12):
            raise _Wrong("BadExpirationDate")
        id = fields.get(b"apns-id")
        if id is not None and _UUID.fullmatch(id) is None:
            raise _Wrong("BadMessageId")
        if len(fields.get(b"apns-collapse-id", b"")) > 64:
            raise _Wrong("BadCollapseId")
        body = exchange.body
        if not body:
            raise _Wrong("PayloadEmpty")
        if len(body) > limit:
            raise _Wrong("PayloadTooLarge")
        try:
            if b"aps" not in body or "aps" not in _decode_object(body):
                raise _Wrong("PayloadEmpty")
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise _Wrong("PayloadEmpty") from None
        bound = self._bound.get(token.lower())
        if bound is not None:
            if bound[0] != self._environment:
                raise _Wrong("BadDeviceToken")
            if bound[1] != topic:
                raise _Wrong("DeviceTokenNotForTopic")

    def _authenticate(self, exchange: Exchange, fields: dict[bytes, bytes]) -> None:
        header = fields.get(b"authorization")
        if header is None:
            if exchange.connection.peer_certificate is None:
                raise _Wrong("MissingProviderToken")
            return
        issued = self._verified.get(header)
        if issued is None:
            issued = self._verify_provider_token(header)
        age_s = time.time() - issued
        if age_s > TOKEN_LIFETIME_S:
            raise _Wrong("ExpiredProviderToken")

    def _verify_provider_token(self, header: bytes) -> int:
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _Wrong("MissingProviderToken")
        try:
            if jwt.get_unverified_header(token).get("kid") != self._rules.key_id:
                raise _Wrong("InvalidProviderToken")
            claims = jwt.decode(
                token,
                self._public_key,
                algorithms=["ES256"],
                options={"verify_aud": False, "verify_iat": False, "verify_exp": False, "verify_nbf": False},
            )
        except jwt.InvalidTokenError:
            raise _Wrong("InvalidProviderToken") from None
        issued = claims.get("iat")
        if claims.get("iss") != self._rules.team_id or not isinstance(issued, int):
            raise _Wrong("InvalidProviderToken")
        now = time.time()
        if issued > now + 60:
            raise _Wrong("InvalidProviderToken")
        if now - issued <= TOKEN_LIFETIME_S and header != self._newest:
            if self._newest is not None and now - self._updated < self._rules.token_update_interval_s:
                raise _Wrong("TooManyProviderTokenUpdates")
            self._newest, self._updated = header, now
        self._verified[header] = issued
        return issued

    def _check_kind(self, topic: bytes, push_type: bytes, priority: bytes) -> int:
        """What topic, push type and priority must be to each other; returns the payload's limit in bytes."""
        if not topic:
            raise _Wrong("MissingTopic")
        if _TOPIC.fullmatch(topic) is None:
            raise _Wrong("BadTopic")
        text = topic.decode()
        if self._rules.topics and not any(
            text == known or text in {known + suffix for suffix in _TYPES.values()} for known in self._rules.topics
        ):
            raise _Wrong("TopicDisallowed")
        suffix = _TYPES.get(push_type)
        if suffix is None:
            raise _Wrong("InvalidPushType")
        own = next(
            (known for known in sorted(_TYPES.values(), key=len, reverse=True) if known and text.endswith(known)), ""
        )
        if own != suffix:
            raise _Wrong("InvalidPushType" if own else "BadTopic")
        if priority not in (b"", b"1", b"5", b"10"):
            raise _Wrong("BadPriority")
        # Apple: "Specifying priority 10 for a background notification is an error", and absent means 10.
        if push_type == b"background" and priority != b"5":
            raise _Wrong("BadPriority")
        return 5120 if push_type == b"voip" else 4096

    def _check_certificate_topic(self, exchange: Exchange, topic: bytes) -> None:
        if b"authorization" in dict(exchange.headers):
            return
        state = exchange.connection.state
        if "certificate_topic" not in state:
            certificate = x509.load_der_x509_certificate(exchange.connection.peer_certificate)
            names = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
            state["certificate_topic"] = str(names[0].value) if names else ""
        own = state["certificate_topic"]
        if topic.decode() not in {own + suffix for suffix in _TYPES.values()}:
            raise _Wrong("TopicDisallowed")

    # -- faults --------------------------------------------------------------------------------------------------------

    def _with_faults(self, exchange: Exchange, fields: dict[bytes, bytes], token: bytes) -> Reply | None:
        rule = self._faults.find(
            "apns",
            exchange=exchange,
            environment=self._environment,
            token=token.decode("latin-1").lower(),
            topic=fields.get(b"apns-topic", b"").decode("latin-1"),
        )
        if rule is not None and rule.status not in (None, 200):
            reason = rule.reason
            self._inbox.count("apns", self._environment, rule.status or 0, reason)
            scripted = _scripted(rule, fields)
            return self._faults.act(rule, exchange, scripted, scripted)
        reply = self._check(exchange, fields, token)
        if reply.status == 200 and (rule is None or self._faults.takes(rule)):
            self._accept(exchange, fields, token, reply)
        if rule is None:
            return self._faults.delayed(exchange, reply)
        return self._faults.act(rule, exchange, reply, None)


def _refusal(status: int, reason: str, fields: dict[bytes, bytes]) -> Reply:
    headers: list[Header] = [(b"content-type", b"application/json")]
    if id := fields.get(b"apns-id"):
        headers.insert(0, (b"apns-id", id))
    return Reply(status, headers, msgspec.json.encode({"reason": reason}))


def _scripted(rule: Rule, fields: dict[bytes, bytes]) -> Reply:
    headers: list[Header] = [(b"apns-id", fields.get(b"apns-id", b"")), *scripted_headers(rule)]
    if rule.body is not None:
        return Reply(rule.status or 500, headers, rule.body.encode())
    body: dict[str, Any] = {"reason": rule.reason}
    if rule.timestamp is not None:
        body["timestamp"] = rule.timestamp
    return Reply(rule.status or 500, headers, msgspec.json.encode(body))
