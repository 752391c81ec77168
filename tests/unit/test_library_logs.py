"""What libraries log becomes lines of tocsin's log: JSON, and not more than one of a kind a minute."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.clocks import Clocks

from tocsin.library_logs import LibraryLogs

Written = list[Any]


@pytest.fixture
def written() -> Iterator[Written]:
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def library(clocks: Clocks) -> logging.Logger:
    logger = logging.Logger("a.library")
    logger.addHandler(LibraryLogs(clocks.monotonic))
    return logger


def test_a_librarys_warning_is_a_line_of_the_log(library: logging.Logger, written: Written) -> None:
    library.warning("%s is odd", "this")
    library.info("nobody wants to know")
    assert written == [{"event": "this is odd", "log_level": "warning", "logger": "a.library", "exc_info": None}]


def test_a_kind_of_line_is_written_once_a_minute_and_the_others_are_counted(
    library: logging.Logger, written: Written, clocks: Clocks
) -> None:
    for passed_s in [0.0] * 1000 + [61.0]:
        clocks.pass_time(passed_s)
        library.error("request %d is odd", passed_s)
    library.error("something else")
    told = [(line["event"], line["log_level"], line.get("left_out", 0)) for line in written]
    assert told == [
        ("request 0 is odd", "error", 0),
        ("request 61 is odd", "error", 999),
        ("something else", "error", 0),
    ]


def test_a_line_whose_arguments_do_not_fit_is_written_without_them(library: logging.Logger, written: Written) -> None:
    library.warning("%d is odd", "this")
    assert written[0]["event"] == "%d is odd"


def test_an_exception_goes_with_its_line(library: logging.Logger, written: Written) -> None:
    try:
        raise ValueError("oh")
    except ValueError:
        library.exception("failed")
    assert written[0]["exc_info"][0] is ValueError
