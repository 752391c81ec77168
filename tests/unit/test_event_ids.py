"""Event ids: UUIDv7, in order, whatever the clock does."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tocsin.api.timestamps import rfc3339
from tocsin.ingest.ids import EventIds

MS = st.integers(min_value=0, max_value=2**48 - 2)


@given(st.lists(st.tuples(st.integers(1, 5), MS), min_size=1, max_size=20))
def test_ids_are_uuids_of_version_7_and_ascend_even_if_the_clock_is_set_back(takes):
    ids = EventIds()
    made = [id for count, now_ms in takes for id in ids.take(count, now_ms)]
    assert made == sorted(set(made))
    for id in made:
        parsed = UUID(id)
        assert str(parsed) == id
        assert (parsed.version, parsed.variant) == (7, "specified in RFC 4122")


@given(MS)
def test_an_id_carries_its_millisecond(now_ms):
    (id,) = EventIds().take(1, now_ms)
    assert UUID(id).int >> 80 == now_ms


def test_two_processes_do_not_make_the_same_id():
    assert not set(EventIds().take(1000, 5)) & set(EventIds().take(1000, 5))


def test_times_are_rfc_3339_to_the_millisecond():
    assert rfc3339(1_362_407_297_001) == "2013-03-04T14:28:17.001Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(10**18).startswith("9999-12-31")
