"""Where one request ends and the next one begins (RFC 9112): nobody may disagree with us about that, least of all a
proxy in front of us."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.api.raw_http import exchange, serving

from tocsin.api.framing import refusal

pytestmark = pytest.mark.slow

LIVE = b"GET /health/live HTTP/1.1\r\nHost: tocsin\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


@pytest.fixture
async def port(api):
    async with serving(api.app) as (port, _):
        yield port


def post(api, body, *fields, path="/api/events", version="1.1", length=True):
    secret = api.producer if path == "/api/events" else api.sid
    lines = [f"POST {path} HTTP/{version}", "Host: tocsin", f"Authorization: Bearer {secret}", *fields]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


# -- an offer of another protocol --------------------------------------------------------------------------------------


async def test_an_offer_to_upgrade_is_ignored_and_the_body_is_kept(api, port, golden):
    body = json.dumps(golden("fax_new")).encode()
    offer = H2C.decode().strip().split("\r\n")
    whole = post(api, body, *offer)
    for pieces in ([whole], [whole[:70], whole[70:]], [whole[: -len(body)], body[:9], body[9:]], [whole + LIVE]):
        answers, ended = await exchange(port, *pieces)
        assert [answer.status for answer in answers] == [202, 200][: len(answers)]
        assert (len(answers), ended) == (2 if pieces[0].endswith(LIVE) else 1, False)
    assert (await api.store.queue.backlog()).events == 4


async def test_the_body_of_a_request_that_offers_an_upgrade_never_becomes_a_request(api, port):
    forbidden = (
        b"GET /api/admin/backlog HTTP/1.1\r\nHost: tocsin\r\nAuthorization: Bearer %b\r\n\r\n" % api.admin.encode()
    )
    for offer in ("Upgrade: h2c", "Upgrade: websocket", "Upgrade: TLS/1.0"):
        answers, _ = await exchange(port, post(api, forbidden, "Connection: upgrade", offer))
        assert [answer.status for answer in answers] == [400]
        assert answers[0].problem()["type"] == "urn:tocsin:problem:bad-input"
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(forbidden), forbidden)
    fields = ("Connection: upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked")
    answers, _ = await exchange(port, post(api, chunked, *fields, length=False) + LIVE)
    assert [answer.status for answer in answers] == [400, 200]


async def test_no_upgrade_is_ever_offered_or_taken(port):
    for fields in (H2C, b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"):
        answers, _ = await exchange(port, LIVE[:-2] + fields + b"\r\n")
        assert [answer.status for answer in answers] == [200]
        assert b"\r\nupgrade:" not in answers[0].head


async def test_an_offer_to_upgrade_does_not_change_whether_the_connection_ends(port):
    answers, ended = await exchange(port, LIVE[:-2] + b"Connection: upgrade, close\r\nUpgrade: h2c\r\n\r\n")
    assert (len(answers), ended) == (1, True)


async def test_a_tunnel_is_refused(port):
    answers, ended = await exchange(port, b"CONNECT tocsin:80 HTTP/1.1\r\nHost: tocsin\r\n\r\n" + LIVE)
    assert ([answer.problem()["status"] for answer in answers], ended) == ([400], True)


@pytest.mark.parametrize("offer", [(), ("Connection: Upgrade", "Upgrade: h2c")])
async def test_a_client_that_waits_for_100_is_told_to_go_on_each_time(api, port, golden, offer):
    body = json.dumps(golden("fax_new")).encode()
    head = post(api, body, "Expect: 100-continue", *offer)[: -len(body)]
    answers, _ = await exchange(port, head, body, head, body, post(api, body, *offer))
    assert [answer.status for answer in answers] == [100, 202, 100, 202, 202]


# -- trailers ----------------------------------------------------------------------------------------------------------


async def test_trailers_never_become_headers(api, port):
    request = b"POST /api/push HTTP/1.1\r\nHost: tocsin\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    trailer = b"Authorization: Bearer %b\r\nExpect: 100-continue\r\nHost: other\r\n\r\n" % api.sid.encode()
    answers, ended = await exchange(port, request + trailer + LIVE)
    assert ([answer.status for answer in answers], ended) == ([401, 200], False)


async def test_the_application_never_sees_a_trailer():
    seen = []

    async def app(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        seen.append(list(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with serving(app) as (port, _):
        request = b"POST / HTTP/1.1\r\nHost: tocsin\r\nTransfer-Encoding: chunked\r\n\r\n"
        await exchange(port, request, b"2\r\n{}\r\n0\r\n", b"Authorization: Bearer x\r\n\r\n")
    assert seen == [[(b"host", b"tocsin"), (b"transfer-encoding", b"chunked")]]


# -- heads that must not be taken --------------------------------------------------------------------------------------


REFUSED = {
    "HTTP/1.1 without Host": b"GET /health/live HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /health/live HTTP/1.1\r\nHost: tocsin\r\nHost: tocsin\r\n\r\n",
    "two Hosts in HTTP/1.0": b"GET /health/live HTTP/1.0\r\nHost: tocsin\r\nHost: other\r\n\r\n",
    "a Host that is none": b"GET /health/live HTTP/1.1\r\nHost: a b\r\n\r\n",
    "a Host with a path": b"GET /health/live HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "HTTP/2.0": b"GET /health/live HTTP/2.0\r\nHost: tocsin\r\n\r\n",
    "HTTP/0.9": b"GET /health/live HTTP/0.9\r\nHost: tocsin\r\n\r\n",
    "HTTP/3.0": b"GET /health/live HTTP/3.0\r\nHost: tocsin\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another coding before chunked": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked on two lines": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding on its own line": b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding than chunked": b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
    "a coding with a parameter": b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    "a folded coding": b"Transfer-Encoding:\r\n gzip,\r\n chunked\r\n\r\n0\r\n\r\n",
    "a length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "the same length twice": b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": b"Content-Length: +2\r\n\r\n{}",
    "a space before the colon": b"Content-Length : 2\r\n\r\n{}",
    "no name": b": 2\r\n\r\n",
    "a chunk size with a sign": b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
    "line ends without CR": b"X: y\n\n",
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_request_whose_end_is_in_doubt_is_refused_with_a_problem(api, port, what):
    sent = REFUSED[what]
    if not sent.startswith((b"GET", b"PRI")):
        sent = post(api, b"", length=False)[:-2] + sent
    answers, ended = await exchange(port, sent + LIVE)
    assert [answer.problem()["type"] for answer in answers] == ["urn:tocsin:problem:malformed-request"]
    assert answers[0].status == 400
    assert ended
    assert b"connection: close" in answers[0].head


@pytest.mark.parametrize("field", ["Transfer-Encoding: chunked", "TE: trailers", "TE: chunked"])
async def test_transfer_codings_do_not_exist_in_http_1_0(api, port, field):
    sent = post(api, b"0\r\n\r\n", field, version="1.0", length=not field.startswith("Transfer"))
    answers, ended = await exchange(port, sent)
    assert [answer.problem()["status"] for answer in answers] == [400]
    assert ended


@pytest.mark.parametrize("host", [b"", b"tocsin", b"tocsin:8080", b"[::1]:8080", b"127.0.0.1", b"a_b.example"])
async def test_a_well_formed_host_is_taken(port, host):
    answers, _ = await exchange(port, b"GET /health/live HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
    assert [answer.status for answer in answers] == [200]


async def test_http_1_0_needs_no_host(port):
    answers, ended = await exchange(port, b"GET /health/live HTTP/1.0\r\n\r\n")
    assert ([answer.status for answer in answers], ended) == ([200], True)


async def test_a_request_is_answered_before_the_one_that_is_refused_after_it(port):
    answers, ended = await exchange(port, LIVE, REFUSED["two Hosts"])
    assert ([answer.status for answer in answers], ended) == ([200, 400], True)


def test_the_refusal_says_which_rule_was_broken():
    host = (b"host", b"tocsin")
    assert refusal("1.1", [host]) is None
    assert refusal("1.0", []) is None
    assert refusal("1.1", [host, (b"transfer-encoding", b"Chunked")]) is None
    assert refusal("1.1", [host, (b"te", b"trailers"), (b"expect", b"100-continue")]) is None
    for version, fields, word in (
        ("2.0", [host], "HTTP/1.1"),
        ("1.1", [], "Host"),
        ("1.1", [host, host], "Host"),
        ("1.1", [host, (b"transfer-encoding", b"gzip, chunked")], "Transfer-Encoding"),
        ("1.0", [host, (b"te", b"trailers")], "TE"),
    ):
        assert word in (refusal(version, fields) or ""), (version, fields)


# -- clients that offer an upgrade with every first request ------------------------------------------------------------


async def run(*command, **more):
    import asyncio

    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, **more)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_with_http2_can_post_an_event(api, port, golden):
    if "HTTP2" not in (await run("curl", "--version")).stdout:
        pytest.skip(reason="this curl was built without HTTP/2")
    url, key = f"http://127.0.0.1:{port}/api/events", f"Authorization: Bearer {api.producer}"
    done = await run("curl", "-sS", "--http2", url, "-H", key, "--json", json.dumps(golden("fax_new")))
    assert json.loads(done.stdout)["accepted"] == 1, done.stderr


JAVA = """
import java.net.URI;
import java.net.http.*;

public class Post {
    public static void main(String[] words) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int number = 0; number < 3; number++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(words[0]))
                .header("Authorization", "Bearer " + words[1])
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(words[2])).build();
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.version());
        }
    }
}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")
async def test_javas_http_client_can_post_events(api, port, golden, tmp_path: Path):
    (tmp_path / "Post.java").write_text(JAVA)
    url, event = f"http://127.0.0.1:{port}/api/events", json.dumps(golden("fax_new"))
    done = await run("java", str(tmp_path / "Post.java"), url, api.producer, event)
    if "compiler" in done.stderr:
        pytest.skip(reason="this Java has no compiler")
    assert done.stdout.splitlines() == ["202 HTTP_1_1"] * 3, done.stderr
