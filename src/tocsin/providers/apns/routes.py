"""The routes to Apple: one per application, environment and topic. Those that differ in the topic alone are a lane."""

from __future__ import annotations

from typing import Final

from tocsin.domain.devices import Address
from tocsin.domain.routes import Route
from tocsin.providers.apns.address import NAME, PRODUCTION, SANDBOX, parse

_MOST_ROUTES: Final = 10_000


def lane_name(application_id: str, sandbox: bool) -> str:
    return f"{NAME}:{SANDBOX if sandbox else PRODUCTION}:{application_id}"


def make_route(application_id: str, sandbox: bool, topic: str) -> Route:
    environment = SANDBOX if sandbox else PRODUCTION
    return Route(NAME, application_id, lane_name(application_id, sandbox), environment, topic)


class Routes:
    """One object per route, so that they are found again by it."""

    def __init__(self) -> None:
        self._by_address: dict[Address, Route] = {}
        self._others: dict[Route, Route] = {}

    def of(self, address: Address) -> Route:
        """The route to try first."""
        route = self._by_address.get(address)
        if route is None:
            if len(self._by_address) >= _MOST_ROUTES:
                self._by_address.clear()
            parsed = parse(address)
            route = make_route(parsed.application_id, parsed.environment_is_sandbox, parsed.topic)
            self._by_address[address] = route
        return route

    def other_environment(self, route: Route) -> Route:
        """The same application and topic in the other environment."""
        other = self._others.get(route)
        if other is None:
            if len(self._others) >= _MOST_ROUTES:
                self._others.clear()
            other = self._others[route] = make_route(route.account, route.environment == PRODUCTION, route.topic)
        return other
