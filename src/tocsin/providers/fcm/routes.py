"""The routes to Google: one per project and field of the message. Those of one project are a lane."""

from __future__ import annotations

from functools import lru_cache

from tocsin.domain.routes import Route
from tocsin.providers.fcm.address import NAME


def lane_name(project: str) -> str:
    return f"{NAME}:{project}"


@lru_cache(10_000)
def make_route(project: str, field: str) -> Route:
    """The route through `project`, with the token in `field` (`token` or `fid`) of the message."""
    return Route(NAME, project, lane_name(project), variant=field)
