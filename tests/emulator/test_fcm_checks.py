"""FCM and the token endpoint: every reason for which a request is refused, with Google's wording."""

from __future__ import annotations

import json
import ssl
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import Struct
from tests.emulator.harness import BODY, SCOPE, Harness, StartEmulator

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
PROTOCOL_ERROR = 1
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
ANDROID = "type.googleapis.com/google.firebase.fcm.v1."
GOOD: dict[str, Any] = {
    "token": "APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx",
    "data": {"owner": "9aed5e94", "message": "fax_new", "page_count": "2"},
    "android": {"priority": "HIGH", "ttl": "2419200s"},
}


class Case(Struct, frozen=True):
    """A change to a valid message, and the expected error.

    `code` is empty if Google's API front end refuses the message, which comes before FCM.
    """

    change: dict[str, Any]
    message: str
    field: str = ""
    code: str = ""


REFUSALS = [
    Case({"x": 1}, "Invalid JSON payload received. Unknown name \"x\" at 'message': Cannot find field.", "message"),
    Case(
        {"android": {"loud": True}},
        "Invalid JSON payload received. Unknown name \"loud\" at 'message.android': Cannot find field.",
        "message.android",
    ),
    Case(
        {"data": {"a": "b", "page_count": 2}},
        "Invalid value at 'message.data[1].value' (TYPE_STRING), 2",
        "message.data[1].value",
    ),
    Case(
        {"data": {"nested": {"a": "b"}}},
        'Invalid value at \'message.data[0].value\' (TYPE_STRING), {"a":"b"}',
        "message.data[0].value",
    ),
    Case({"data": "x"}, f"Invalid value at 'message.data' ({ANDROID}Message.DataEntry), \"x\"", "message.data"),
    Case({"token": 17}, "Invalid value at 'message.token' (TYPE_STRING), 17", "message.token"),
    Case({"android": "x"}, f"Invalid value at 'message.android' ({ANDROID}AndroidConfig), \"x\"", "message.android"),
    Case(
        {"android": {"priority": "URGENT"}},
        f"Invalid value at 'message.android.priority' ({ANDROID}AndroidMessagePriority), \"URGENT\"",
        "message.android.priority",
    ),
    Case(
        {"android": {"ttl": 60}},
        "Invalid value at 'message.android.ttl' (type.googleapis.com/google.protobuf.Duration), 60",
        "message.android.ttl",
    ),
    Case(
        {"android": {"ttl": "1m"}},
        "Invalid value at 'message.android.ttl' (type.googleapis.com/google.protobuf.Duration), \"1m\"",
        "message.android.ttl",
    ),
    Case(
        {"notification": {"titel": "x", "body": 1}},
        "Invalid JSON payload received. Unknown name \"titel\" at 'message.notification': Cannot find field.\n"
        "Invalid value at 'message.notification.body' (TYPE_STRING), 1",
        "message.notification",
    ),
    Case(
        {"topic": "news"},
        "Invalid value at 'message' (oneof), oneof field 'target' is already set. Cannot set 'topic'",
        "message",
    ),
    Case({"token": None}, "Recipient of the message is not set.", "message", "INVALID_ARGUMENT"),
    Case(
        {"token": "with space"},
        "The registration token is not a valid FCM registration token",
        "message.token",
        "INVALID_ARGUMENT",
    ),
    *(
        Case(
            {"token": token},
            "The registration token is not a valid FCM registration token",
            "message.token",
            "INVALID_ARGUMENT",
        )
        for token in ("abc", "x" * 15, "x" * 4097)
    ),
    *(
        Case({"data": {key: "x"}}, f"Invalid data payload key: {key}", "message.data[0].key", "INVALID_ARGUMENT")
        for key in ("from", "message_type", "gcm", "gcm.n", "google.c")
    ),
    Case({"data": {"text": "x" * 4093}}, "Android message is too big", "", "INVALID_ARGUMENT"),
    Case(
        {"android": {"ttl": "2419201s"}},
        "Request contains an invalid argument.",
        "message.android.ttl",
        "INVALID_ARGUMENT",
    ),
    Case(
        {"token": None, "topic": "no topic!"},
        "Request contains an invalid argument.",
        "message.topic",
        "INVALID_ARGUMENT",
    ),
]
ACCEPTED: list[dict[str, Any]] = [
    {},
    {"token": None, "fid": "cJhD5zhzRGWTtm0wPdpM5x"},
    {"token": None, "topic": "news"},
    {"token": None, "condition": "'a' in topics && 'b' in topics"},
    {"android": {"priority": "high", "ttl": "3.5s", "collapse_key": "fax"}},
    {"android": {"collapseKey": "fax", "directBootOk": True, "restrictedPackageName": "de.cospace.app"}},
    {"android": None, "data": None},
    {"data": {"text": "x" * 4092}},
    {"data": {"text": "é" * 2046}},
    {"notification": {"title": "a", "body": "b", "image": "c"}},
    {"android": {"notification": {"title": "a", "notification_count": 3, "vibrate_timings": ["3.5s"], "sticky": True}}},
    {"apns": {"headers": {"apns-priority": "5"}, "payload": {"aps": {"content-available": 1}}}},
    {"webpush": {"headers": {"TTL": "60"}, "notification": {"anything": [1]}, "fcm_options": {"link": "https://a"}}},
    {"fcmOptions": {"analyticsLabel": "a"}},
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: json.dumps(case.change)[:50])
async def test_an_invalid_message_is_refused_with_googles_error(case: Case, harness: Harness) -> None:
    answer = await harness.send_message(GOOD | case.change)
    assert answer.status == 400
    error = answer.json["error"]
    assert (error["code"], error["status"], error["message"]) == (400, "INVALID_ARGUMENT", case.message)
    details = {detail["@type"]: detail for detail in error["details"]}
    assert details.get(FCM_ERROR, {}).get("errorCode", "") == case.code
    violations = details.get(BAD_REQUEST, {}).get("fieldViolations", [])
    assert [violation["field"] for violation in violations][:1] == ([case.field] if case.field else [])
    assert harness.emulator.inbox.find() == []


@pytest.mark.parametrize("change", ACCEPTED, ids=lambda change: json.dumps(change)[:50])
async def test_a_valid_message_is_accepted(change: dict[str, Any], harness: Harness) -> None:
    message = {name: value for name, value in (GOOD | change).items() if value is not None}
    answer = await harness.send_message(message)
    assert answer.status == 200, answer.body
    assert answer.json["name"].startswith("projects/tocsin-emulator/messages/0:")
    [arrived] = harness.emulator.inbox.find()
    assert arrived["body"] == {"message": message}
    assert answer.json["name"].endswith(arrived["id"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "Invalid JSON payload received. Unexpected token."),
        (b"", "Invalid JSON payload received. Unexpected end of string. Expected a value."),
        (b"[]", "Invalid JSON payload received. Root element must be a message."),
        (b'{"massage":{}}', 'Invalid JSON payload received. Unknown name "massage": Cannot find field.'),
        (b"{}", "Message is not set."),
        (b'{"message":"x"}', f"Invalid value at 'message' ({ANDROID}Message), \"x\""),
    ],
)
async def test_a_body_that_is_not_a_request_is_refused(body: bytes, message: str, harness: Harness) -> None:
    answer = await (await harness.connect("fcm")).ask(await harness.message_headers(), body)
    assert (answer.status, answer.json["error"]["message"]) == (400, message)


async def test_a_message_that_is_only_validated_is_not_in_the_inbox(harness: Harness) -> None:
    answer = await harness.send_message(GOOD, validate_only=True)
    assert answer.json == {"name": "projects/tocsin-emulator/messages/fake_message_id"}
    assert (await harness.send_message(GOOD | {"x": 1}, validateOnly=True)).status == 400
    assert harness.emulator.inbox.find() == []


# -- the sender --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", [None, "Bearer nonsense", "Basic YTpi"])
async def test_a_sender_without_a_valid_access_token_is_refused(authorization: str | None, harness: Harness) -> None:
    answer = await (await harness.connect("fcm")).ask(await harness.message_headers(authorization=authorization), b"{}")
    assert (answer.status, answer.json["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert "www-authenticate" in answer.headers


async def test_another_project_is_refused(harness: Harness) -> None:
    head = await harness.message_headers(path="/v1/projects/another/messages:send")
    answer = await (await harness.connect("fcm")).ask(head, b"{}")
    assert (answer.status, answer.json["error"]["status"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    "path", ["/", "/v1/projects/tocsin-emulator/messages", "/fcm/send", "/v2/projects/a/messages:send"]
)
async def test_an_unknown_path_is_answered_with_googles_html_page(path: str, harness: Harness) -> None:
    answer = await (await harness.connect("fcm")).ask(await harness.message_headers(path=path), b"{}")
    assert answer.status == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert b"Error 404 (Not Found)!!1" in answer.body


async def test_fcm_and_the_token_endpoint_serve_http_1_1(harness: Harness) -> None:
    context = ssl.create_default_context(cafile=str(harness.emulator.files.ca))
    async with httpx.AsyncClient(verify=context, http2=False) as client:
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": harness.assertion()}
        granted = await client.post(harness.url("token_uri"), data=form)
        headers = {"authorization": f"Bearer {granted.json()['access_token']}"}
        url = f"{harness.url('fcm')}/v1/projects/tocsin-emulator/messages:send"
        sent = [await client.post(url, headers=headers, json={"message": GOOD}) for _ in range(2)]
        assert [answer.status_code for answer in sent] == [200, 200]
        assert {answer.http_version for answer in sent} == {"HTTP/1.1"}
        assert (await client.get(url, headers=headers)).status_code == 404


# -- the token endpoint ------------------------------------------------------------------------------------------------


async def test_a_valid_assertion_gets_an_access_token_for_one_hour(harness: Harness) -> None:
    answer = await harness.grant(harness.assertion())
    assert answer.status == 200
    assert {name: value for name, value in answer.json.items() if name != "access_token"} == {
        "expires_in": 3599,
        "token_type": "Bearer",
    }


def _other_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("changes", "error", "description"),
    [
        ({"key": "other"}, "invalid_grant", "Invalid JWT Signature."),
        ({"iss": "somebody@else"}, "invalid_grant", "Invalid grant: account not found"),
        ({"aud": "https://somewhere/else"}, "invalid_grant", "Invalid JWT: Failed audience check."),
        ({"iat": 1, "exp": 3601}, "invalid_grant", "Token must be a short-lived token"),
        ({"exp": 9999999999}, "invalid_grant", "Token must be a short-lived token"),
        ({"iat": 9999990000, "exp": 9999993600}, "invalid_grant", "Token must be a short-lived token"),
        ({"scope": "https://www.googleapis.com/auth/drive"}, "invalid_scope", "Invalid OAuth scope"),
        ({"scope": None}, "invalid_grant", "scope"),
    ],
)
async def test_an_invalid_assertion_is_refused(
    changes: dict[str, Any], error: str, description: str, harness: Harness
) -> None:
    changes = changes | ({"key": _other_key()} if "key" in changes else {})
    answer = await harness.grant(harness.assertion(**changes))
    assert (answer.status, answer.json["error"]) == (400, error)
    assert description in answer.json["error_description"]


@pytest.mark.parametrize(
    "scope", [SCOPE, "https://www.googleapis.com/auth/cloud-platform", f"https://www.googleapis.com/auth/drive {SCOPE}"]
)
async def test_every_scope_that_includes_messaging_is_accepted(scope: str, harness: Harness) -> None:
    assert (await harness.grant(harness.assertion(scope=scope))).status == 200


async def test_another_grant_type_is_refused(harness: Harness) -> None:
    answer = await harness.grant(harness.assertion(), "password")
    assert (answer.status, answer.json["error"]) == (400, "unsupported_grant_type")


async def test_several_projects_are_served_each_by_its_own_service_account(start_emulator: StartEmulator) -> None:
    harness = await start_emulator(more_projects=("another-app",))
    files = harness.emulator.files
    other = json.loads(files.service_account_of("another-app").read_text())
    assert (other["project_id"], harness.account["project_id"]) == ("another-app", "tocsin-emulator")
    assert harness.emulator.summary["more_service_accounts"] == [str(files.service_account_of("another-app").resolve())]

    granted = await harness.grant(harness.assertion(key=other["private_key"], iss=other["client_email"]))
    body, fcm = json.dumps({"message": GOOD}).encode(), await harness.connect("fcm")
    answers = {}
    for project in ("tocsin-emulator", "another-app"):
        path = f"/v1/projects/{project}/messages:send"
        for name, token in (("own", await harness.access_token()), ("other", granted.json["access_token"])):
            head = await harness.message_headers(path=path, authorization=f"Bearer {token}")
            answers[project, name] = await fcm.ask(head, body)
    assert answers["another-app", "other"].json["name"].startswith("projects/another-app/messages/")
    assert {whose: answer.status for whose, answer in answers.items()} == {
        ("tocsin-emulator", "own"): 200,
        ("tocsin-emulator", "other"): 403,
        ("another-app", "own"): 403,
        ("another-app", "other"): 200,
    }
    mixed = await harness.grant(harness.assertion(iss=other["client_email"]))
    assert mixed.json["error_description"] == "Invalid JWT Signature."


async def test_an_access_token_expires(start_emulator: StartEmulator) -> None:
    harness = await start_emulator(access_token_lifetime_s=0)
    assert (await harness.send_message(GOOD)).status == 401


# -- Node's firebase-admin ---------------------------------------------------------------------------------------------


async def _with_odd_scheme(harness: Harness) -> list[tuple[str, str]]:
    headers = await harness.message_headers()
    return [(name, "https:" if name == ":scheme" else value) for name, value in headers]


async def test_a_scheme_with_a_colon_is_taken_as_google_takes_it(harness: Harness) -> None:
    """`sendEach` of Node's firebase-admin 13 sends it."""
    headers, body = await _with_odd_scheme(harness), json.dumps({"message": GOOD}).encode()
    connection = await harness.connect("fcm")
    # The first request puts the scheme into the dynamic table; the others name it by its index there.
    answers = [await connection.ask(headers, body) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [entry["headers"][":scheme"] for entry in harness.emulator.inbox.find()] == ["https:"] * 3


async def test_apple_resets_a_stream_whose_scheme_has_a_colon(harness: Harness) -> None:
    headers = [(name, "https:" if name == ":scheme" else value) for name, value in harness.push()]
    answer = await (await harness.connect("production")).ask(headers, BODY)
    assert (answer.status, answer.reset) == (0, PROTOCOL_ERROR)
