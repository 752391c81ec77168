"""Providers beside those that tocsin ships: what the API knows of one, it knows from its rules."""

from __future__ import annotations

import pytest

from tocsin.domain.devices import Address, DeviceToken
from tocsin.providers.apns.address import ApnsRules
from tocsin.providers.fcm.address import FcmRules
from tocsin.providers.fields import FieldError, read
from tocsin.providers.rules import RuleBook

URL = "https://push.example/1"
WEB = {"system": "web", "action": "add", "device_token": URL, "auth": "tBHI"}
FCM = {"system": "fcm", "action": "add", "device_token": "t"}


class WebRules:
    """See `providers.base.Rules`: a push service of a browser, as far as the API is concerned."""

    name = "web"
    fields = frozenset({"auth", "server"})
    always_fits_bytes = 2000

    def token(self, text):
        if not text.startswith("https://"):
            raise ValueError("a subscription is a URL")
        return DeviceToken(text)

    def address(self, fields):
        auth = read(fields, "auth", str)
        server = read(fields, "server", str) if "server" in fields else ""
        if not auth.isalnum():
            raise FieldError("auth", "must be letters and digits")
        return Address(f"{server} {auth}")

    def account(self, address):
        return address.partition(" ")[0] or None

    def section(self, devices):
        return {"subscriptions": [{"url": device.token, "auth": device.address.split()[-1]} for device in devices]}

    def describe(self, address):
        return {"auth": address.split()[-1]}

    def summary(self, address):
        return "web"

    def reserves(self, field):
        return field == "badge"

    def check_fits(self, body):
        if len(body) > 3000:
            raise ValueError("over the limit of 3000 bytes")


WITH_WEB = RuleBook([FcmRules(), ApnsRules(), WebRules()])


@pytest.fixture
async def web_api(open_api):
    async with open_api(rules=WITH_WEB) as api:
        yield api


async def test_a_third_provider_has_its_own_section_and_its_own_fields(web_api):
    empty = {"fcm": {"device_tokens": []}, "apns": {"device_tokens": {}}, "web": {"subscriptions": []}}
    assert await web_api.tokens() == empty
    for body in (WEB, FCM):
        answer = await web_api.push(body)
        assert (answer.status_code, answer.json()) == (200, {})
    assert await web_api.tokens() == empty | {
        "fcm": {"device_tokens": ["t"]},
        "web": {"subscriptions": [{"url": URL, "auth": "tBHI"}]},
    }
    assert (await web_api.push(WEB | {"action": "delete"})).json() == {}
    assert await web_api.tokens() == empty | {"fcm": {"device_tokens": ["t"]}}


@pytest.mark.parametrize(
    ("body", "at", "reason"),
    [
        ({**WEB, "device_token": "http:"}, "$.device_token", "a subscription is a URL"),
        ({name: value for name, value in WEB.items() if name != "auth"}, "$.auth", "missing"),
        ({**WEB, "auth": "?"}, "$.auth", "must be letters and digits"),
        ({**WEB, "auth": 5}, "$.auth", "must be a string"),
        ({**WEB, "colour": "red"}, "$.colour", "unknown field"),
        ({**WEB, "system": "wns"}, "$.system", "must be apns or fcm or web"),
    ],
)
async def test_a_third_providers_rules_are_enforced(web_api, body, at, reason):
    before = await web_api.contents()
    answer = await web_api.push(body)
    assert (answer.status_code, answer.json()["errors"]) == (400, [{"at": at, "reason": reason}])
    assert await web_api.contents() == before


async def test_a_third_providers_account_must_be_known(web_api):
    assert (await web_api.push(WEB | {"server": "elsewhere"})).json() == {"status": "unknown-appid"}


async def test_the_fields_of_one_provider_are_ignored_by_the_others(web_api):
    assert (await web_api.push(FCM | {"auth": 5})).json() == {}
    assert (await web_api.push(WEB | {"sandbox": "nonsense", "application_id": 17})).json() == {}


async def test_without_the_third_provider_its_fields_are_unknown(api):
    for body, at, reason in (
        (FCM | {"auth": "tBHI"}, "$.auth", "unknown field"),
        (WEB, "$.auth", "unknown field"),
        ({"system": "web", "action": "add", "device_token": URL}, "$.system", "must be apns or fcm"),
    ):
        answer = await api.push(body)
        assert (answer.status_code, answer.json()["errors"]) == (400, [{"at": at, "reason": reason}])
    assert "web" not in await api.tokens()


async def test_a_third_provider_has_a_say_in_what_may_be_sent(web_api, golden):
    for event, at in (
        (golden("chat_message") | {"type": "place", "badge": 1}, "$.badge"),
        (golden("chat_message") | {"text": "x" * 3500}, "$"),
    ):
        event = {name: value for name, value in event.items() if event["type"] == "text" or name != "text"}
        answer = await web_api.events(event)
        assert (answer.status_code, answer.json()["errors"][0]["at"]) == (400, at)


async def test_the_operator_sees_and_removes_a_third_providers_devices(web_api):
    await web_api.push(WEB)
    (device,) = (await web_api.operate("GET", "/devices", params={"token": URL})).json()
    assert (device["system"], device["device_token"]) == ("web", URL)
    params = {"owner": web_api.owner, "system": "web", "token": URL}
    assert (await web_api.operate("DELETE", "/devices", params=params)).status_code == 204
    (removal,) = (await web_api.operate("GET", "/devices/history", params={"token": URL})).json()
    assert removal["device"]["system"] == "web"


async def test_devices_of_a_provider_that_is_not_there_any_more_do_not_hide_the_others(open_api):
    async with open_api(rules=WITH_WEB) as api:
        for body in (WEB, FCM):
            await api.push(body)
    async with open_api() as api:
        assert await api.tokens() == {"fcm": {"device_tokens": ["t"]}, "apns": {"device_tokens": {}}}
        devices = (await api.operate("GET", "/devices", params={"owner": api.owner})).json()
        assert [device["system"] for device in devices] == ["web", "fcm"]
