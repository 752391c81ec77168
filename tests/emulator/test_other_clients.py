"""aioapns and firebase-admin from PyPI work with the emulator; only host and CA are changed."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import firebase_admin
import pytest
from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from firebase_admin import credentials, exceptions, messaging
from tests.emulator.harness import TOPIC, Harness, StartEmulator, new_token

from tocsin.emulator.faults import Match, Rule

# Apps use registration tokens today; the SDK recommends installation ids.
pytestmark = pytest.mark.filterwarnings("ignore:Message.token is deprecated")
GONE = "registration-token-gone"
MESSAGE = {"aps": {"alert": "A new fax"}, "message": "fax_new"}


# -- aioapns -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def apple(start_emulator: StartEmulator, monkeypatch: pytest.MonkeyPatch) -> Harness:
    harness = await start_emulator(topics=frozenset({TOPIC}))
    parts = urlsplit(harness.url("production"))
    monkeypatch.setattr(APNsProductionClientProtocol, "APNS_SERVER", parts.hostname)
    monkeypatch.setattr(APNsProductionClientProtocol, "APNS_PORT", parts.port)
    return harness


@pytest.fixture
async def aioapns(apple: Harness) -> AsyncIterator[Any]:
    """Makes clients, and closes them after the test."""
    clients: list[APNs] = []

    def make(**changes: Any) -> APNs:
        files = apple.emulator.files
        context = ssl.create_default_context(cafile=str(files.ca))
        by_key = {"key": files.apns_key.read_text(), "key_id": files.key_id, "team_id": "39JSDKGJ38", "topic": TOPIC}
        given = changes if "client_cert" in changes else by_key | changes
        if "client_cert" in given:
            context.load_cert_chain(given["client_cert"])
        clients.append(APNs(ssl_context=context, **given))
        return clients[-1]

    yield make
    for client in clients:
        client.pool.close()
    await asyncio.sleep(0.05)


async def test_aioapns_can_send_with_a_key(apple: Harness, aioapns: Any) -> None:
    client = aioapns()
    sent = [
        NotificationRequest(new_token(), MESSAGE, push_type=PushType.ALERT, priority=10, time_to_live=60)
        for _ in range(300)
    ]
    results = await asyncio.gather(*(client.send_notification(request) for request in sent))
    assert {result.status for result in results} == {"200"}
    arrived = {entry["id"]: entry for entry in apple.emulator.inbox.find()}
    for request in sent:
        assert arrived[request.notification_id]["token"] == request.device_token
        assert arrived[request.notification_id]["body"] == MESSAGE


async def test_aioapns_can_send_with_a_certificate(apple: Harness, aioapns: Any) -> None:
    client = aioapns(client_cert=str(apple.emulator.files.certificate), topic=TOPIC)
    result = await client.send_notification(NotificationRequest(new_token(), MESSAGE))
    assert result.is_successful
    assert len(apple.emulator.inbox.find()) == 1


async def test_aioapns_gets_the_reason_for_a_topic_that_is_not_allowed(aioapns: Any) -> None:
    request = NotificationRequest(new_token(), MESSAGE, apns_topic="de.cospace.other")
    result = await aioapns().send_notification(request)
    assert (result.status, result.description) == ("400", "TopicDisallowed")


async def test_aioapns_gets_the_reason_for_an_unknown_key(aioapns: Any) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    result = await aioapns(key=pem).send_notification(NotificationRequest(new_token(), MESSAGE))
    assert (result.status, result.description) == ("403", "InvalidProviderToken")


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (NotificationRequest("abc", MESSAGE), "400", "BadDeviceToken"),
        (NotificationRequest(new_token(), {}), "400", "PayloadEmpty"),
        (NotificationRequest(new_token(), {"aps": {"alert": "x" * 5000}}), "413", "PayloadTooLarge"),
        (NotificationRequest(new_token(), MESSAGE, push_type=PushType.BACKGROUND, priority=10), "400", "BadPriority"),
        (NotificationRequest(new_token(), MESSAGE, collapse_key="x" * 65), "400", "BadCollapseId"),
    ],
)
async def test_aioapns_gets_the_reason_for_an_invalid_notification(
    request_: NotificationRequest, status: str, reason: str, aioapns: Any
) -> None:
    result = await aioapns().send_notification(request_)
    assert (result.status, result.description) == (status, reason)


# -- firebase-admin ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def firebase(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[firebase_admin.App]:
    service: Any = messaging._MessagingService
    monkeypatch.setattr(service, "FCM_URL", harness.url("fcm") + "/v1/projects/{0}/messages:send")
    for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(variable, str(harness.emulator.files.ca))
    app = firebase_admin.initialize_app(
        credentials.Certificate(str(harness.emulator.files.service_account)), name="tests"
    )
    yield app
    # In a thread, because it runs its own event loop.
    await asyncio.to_thread(firebase_admin.delete_app, app)


def _message(**changes: Any) -> messaging.Message:
    given: dict[str, Any] = {"token": "APA91bHun4MxP5ego", "data": {"message": "fax_new", "page_count": "2"}}
    return messaging.Message(android=messaging.AndroidConfig(priority="high", ttl=3600), **(given | changes))


async def test_firebase_admin_can_send_to_a_registration_token(harness: Harness, firebase: firebase_admin.App) -> None:
    name = await asyncio.to_thread(messaging.send, _message(), app=firebase)
    [arrived] = harness.emulator.inbox.find(provider="fcm")
    assert name == f"projects/tocsin-emulator/messages/{arrived['id']}"
    assert arrived["body"]["message"] == {
        "token": "APA91bHun4MxP5ego",
        "data": {"message": "fax_new", "page_count": "2"},
        "android": {"priority": "high", "ttl": "3600s"},
    }


async def test_firebase_admin_can_send_to_an_installation_id(harness: Harness, firebase: firebase_admin.App) -> None:
    message = messaging.Message(fid="cJhD5zhzRGWTtm0wPdpM5x", data={"message": "fax_new"})
    await asyncio.to_thread(messaging.send, message, app=firebase)
    assert [entry["token"] for entry in harness.emulator.inbox.find()] == ["cJhD5zhzRGWTtm0wPdpM5x"]


async def test_firebase_admin_can_send_many_messages_at_a_time(harness: Harness, firebase: firebase_admin.App) -> None:
    messages = [_message(token=f"registration-token-{number}") for number in range(50)]
    batch = await asyncio.to_thread(messaging.send_each, messages, app=firebase)
    assert batch.success_count == 50
    assert {entry["token"] for entry in harness.emulator.inbox.find()} == {message.token for message in messages}


async def test_firebase_admin_can_validate_a_message_without_sending_it(
    harness: Harness, firebase: firebase_admin.App
) -> None:
    assert "fake_message_id" in await asyncio.to_thread(messaging.send, _message(), dry_run=True, app=firebase)
    assert harness.emulator.inbox.find() == []


async def test_firebase_admin_raises_an_error_for_an_invalid_message(firebase: firebase_admin.App) -> None:
    for message in (_message(data={"from": "x"}), _message(data={"text": "x" * 5000}), _message(token="a b")):
        with pytest.raises(exceptions.InvalidArgumentError):
            await asyncio.to_thread(messaging.send, message, app=firebase)


async def test_firebase_admin_raises_an_error_for_another_project(
    harness: Harness, firebase: firebase_admin.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Any = messaging._MessagingService
    monkeypatch.setattr(service, "FCM_URL", harness.url("fcm") + "/v1/projects/another/messages:send")
    with pytest.raises(exceptions.PermissionDeniedError):
        await asyncio.to_thread(messaging.send, _message(), app=firebase)


async def test_firebase_admin_raises_an_error_for_an_unknown_key(
    harness: Harness, firebase: firebase_admin.App, tmp_path: Path
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    path = tmp_path / "other.json"
    path.write_text(json.dumps(harness.account | {"private_key": pem}))
    app = firebase_admin.initialize_app(credentials.Certificate(str(path)), name="bad key")
    try:
        with pytest.raises(Exception, match="invalid_grant"):
            await asyncio.to_thread(messaging.send, _message(), app=app)
    finally:
        await asyncio.to_thread(firebase_admin.delete_app, app)


async def test_firebase_admin_raises_its_own_error_for_an_unregistered_token(
    harness: Harness, firebase: firebase_admin.App
) -> None:
    harness.script(Rule(match=Match(token=GONE), status=404, reason="UNREGISTERED"))
    with pytest.raises(messaging.UnregisteredError):
        await asyncio.to_thread(messaging.send, _message(token=GONE), app=firebase)
