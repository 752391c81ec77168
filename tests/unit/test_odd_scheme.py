"""Requests whose scheme is `https:` are repaired before the engine reads them, and nothing else is touched."""

from __future__ import annotations

import hpack
import pytest

from tocsin.http2.odd_scheme import SchemeRepair

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
HEADERS, DATA = 1, 0


def frame(kind: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 4]) + (1).to_bytes(4, "big") + payload


def requests(scheme: bytes, *, huffman: bool = True, sensitive: bool = False) -> bytes:
    """What a client sends with three requests."""
    encoder = hpack.Encoder()
    fields = [(b":method", b"POST"), (b":scheme", scheme, sensitive), (b":path", b"/"), (b"x", b"\x46\x06https")]
    blocks = [encoder.encode(fields, huffman=huffman) for _ in range(3)]
    body = frame(DATA, b"\x46\x06https: is text here")
    return PREFACE + SETTINGS + b"".join(frame(HEADERS, block) + body for block in blocks)


def schemes(data: bytes) -> list[bytes]:
    """The schemes of the requests in `data`, as a decoder of the other side reads them."""
    decoder, found, at = hpack.Decoder(), [], len(PREFACE)
    while at < len(data):
        end = at + 9 + int.from_bytes(data[at : at + 3], "big")
        if data[at + 3] == HEADERS:
            found.append(dict(decoder.decode(data[at + 9 : end], raw=True))[b":scheme"])
        at = end
    return found


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize("sensitive", [True, False])
@pytest.mark.parametrize("piece", [1, 7, 50, 10_000])
def test_an_odd_scheme_is_replaced_by_one_of_the_same_length(huffman: bool, sensitive: bool, piece: int) -> None:
    data = requests(b"https:", huffman=huffman, sensitive=sensitive)
    repair = SchemeRepair()
    fed = b"".join(repair.feed(data[at : at + piece]) for at in range(0, len(data), piece))
    assert not repair.needless
    assert len(fed) == len(data)
    assert schemes(fed) == [b"httpsx"] * 3
    assert fed.count(b"https: is text here") == 3, "only header blocks are touched"
    assert repair.as_sent([(b":scheme", b"httpsx"), (b"x", b"httpsx")]) == [(b":scheme", b"https:"), (b"x", b"httpsx")]


@pytest.mark.parametrize("piece", [1, 7, 50, 10_000])
def test_a_client_with_a_good_scheme_is_left_alone_from_its_first_request_on(piece: int) -> None:
    data = requests(b"https")
    repair, fed, at = SchemeRepair(), b"", 0
    while not repair.needless:
        fed += repair.feed(data[at : at + piece])
        at += piece
    assert fed == data[:at]
    assert at - piece < data.index(b"https: is text here")
