"""The checks that APNs makes on a request, in their order.

Source: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs".
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Raw, Struct

from tocsin.emulator.apns_push_rules import PushRules, TokenBinding, rules_for
from tocsin.emulator.apns_reasons import ApnsRefusal, Reason
from tocsin.emulator.client_certificates import certificate_of
from tocsin.emulator.header_cache import ParsedHeaders
from tocsin.emulator.provider_tokens import ProviderTokenVerifier
from tocsin.http2.server import Exchange

PATH_PREFIX: Final = b"/3/device/"
"""The device token is the rest of the path."""
VARYING_FIELDS: Final = (b":path", b"apns-expiration", b"apns-id")
"""The header fields whose values differ from push to push, in the order of `ParsedHeaders.values`."""

_TOKEN: Final = re.compile(rb"[0-9a-fA-F]{64}")
_UUID: Final = re.compile(rb"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_EXPIRATION: Final = re.compile(rb"[0-9]{1,11}")
_COLLAPSE_ID_LIMIT_BYTES: Final = 64
_MAX_REMEMBERED_RULES: Final = 10_000


class _Payload(Struct):
    """The part of a payload that APNs checks; all other members are defined by the app."""

    aps: Raw


_decode_payload = msgspec.json.Decoder(_Payload).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


class ApnsChecks:
    """The checks of one environment.

    `bindings` holds the environment and topic of each device token that was accepted so far; the request handlers of
    both environments share it and add to it. `topics` are the only topics without suffix that are permitted; empty
    permits all.
    """

    def __init__(
        self,
        environment: str,
        provider_tokens: ProviderTokenVerifier,
        bindings: dict[bytes, TokenBinding],
        topics: frozenset[str],
    ) -> None:
        self._environment = environment
        self._provider_tokens = provider_tokens
        self._bindings = bindings
        self._topics = topics
        self._rules: dict[tuple[bytes, bytes, bytes], PushRules] = {}

    def check(self, exchange: Exchange, headers: ParsedHeaders[PushRules]) -> PushRules:
        """Check one request; returns the rules that its payload and device token satisfy.

        Raises:
            ApnsRefusal: with the reason of the first check that failed.
        """
        shared = headers.shared
        path, expiration, id = headers.values
        if shared.fields.get(b":method") != b"POST":
            raise ApnsRefusal(Reason.METHOD_NOT_ALLOWED)
        if path is None or not path.startswith(PATH_PREFIX):
            raise ApnsRefusal(Reason.BAD_PATH)
        if headers.has_duplicates:
            raise ApnsRefusal(Reason.DUPLICATE_HEADERS)
        if exchange.connection.peer_certificate is None:
            self._provider_tokens.check(shared.fields.get(b"authorization"), exchange.connection.state)
            rules = shared.check_result
            if rules is None:
                rules = shared.check_result = self._rules_of(shared.fields, shared.fields.get(b"apns-topic", b""))
        else:
            rules = self._rules_of(shared.fields, self._topic_by_certificate(exchange, shared.fields))
        binding = self._binding_of(path[len(PATH_PREFIX) :])
        if expiration is not None and _EXPIRATION.fullmatch(expiration) is None:
            raise ApnsRefusal(Reason.BAD_EXPIRATION_DATE)
        if id is not None and _UUID.fullmatch(id) is None:
            raise ApnsRefusal(Reason.BAD_MESSAGE_ID)
        _check_payload(exchange.body, rules)
        if binding is not None and binding is not rules.binding and binding != rules.binding:
            other_environment = binding[0] != self._environment
            raise ApnsRefusal(Reason.BAD_DEVICE_TOKEN if other_environment else Reason.DEVICE_TOKEN_NOT_FOR_TOPIC)
        return rules

    def _topic_by_certificate(self, exchange: Exchange, fields: dict[bytes, bytes]) -> bytes:
        """The topic of a request on a connection with a client certificate; Apple then ignores the provider token."""
        certificate = certificate_of(exchange.connection)
        assert certificate is not None
        if self._environment not in certificate.environments:
            raise ApnsRefusal(Reason.BAD_CERTIFICATE_ENVIRONMENT)
        topic = fields.get(b"apns-topic") or certificate.only_topic or b""
        if topic and topic not in certificate.topics:
            raise ApnsRefusal(Reason.TOPIC_DISALLOWED)
        return topic

    def _rules_of(self, fields: dict[bytes, bytes], topic: bytes) -> PushRules:
        if len(fields.get(b"apns-collapse-id", b"")) > _COLLAPSE_ID_LIMIT_BYTES:
            raise ApnsRefusal(Reason.BAD_COLLAPSE_ID)
        key = (topic, fields.get(b"apns-push-type", b""), fields.get(b"apns-priority", b""))
        rules = self._rules.get(key)
        if rules is None:
            rules = rules_for(self._environment, *key, self._topics)
            if len(self._rules) >= _MAX_REMEMBERED_RULES:
                self._rules.clear()
            self._rules[key] = rules
        return rules

    def _binding_of(self, token: bytes) -> TokenBinding | None:
        """The environment and topic that a device token was accepted for; None if it is well-formed and unknown."""
        binding = self._bindings.get(token)
        if binding is None:
            if not token:
                raise ApnsRefusal(Reason.MISSING_DEVICE_TOKEN)
            if _TOKEN.fullmatch(token) is None:
                raise ApnsRefusal(Reason.BAD_DEVICE_TOKEN)
            binding = self._bindings.get(token.lower())
        return binding


def _check_payload(body: bytes, rules: PushRules) -> None:
    if not body:
        raise ApnsRefusal(Reason.PAYLOAD_EMPTY)
    if len(body) > rules.payload_limit_bytes:
        raise ApnsRefusal(Reason.PAYLOAD_TOO_LARGE)
    try:
        if rules.requires_aps:
            _decode_payload(body)
        elif not _decode_object(body):
            raise ApnsRefusal(Reason.PAYLOAD_EMPTY)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ApnsRefusal(Reason.PAYLOAD_EMPTY) from None
