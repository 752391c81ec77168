"""Every page of the console: where it is, and its heading."""

from __future__ import annotations

from tests.support.console import Service

from tocsin.cli.demo.users import ANNA, APPLICATION_ID


def a_job(service: Service) -> tuple[str, str]:
    """Where a bulk action is, which has ended as there was nothing to do; and its heading."""
    asked = {"action": "release", "filter": {"account": "nobody"}}
    job = service.api("POST", "/api/admin/jobs", asked)["id"]
    service.until(lambda: service.api("GET", f"/api/admin/jobs/{job}")["state"] == "done")
    return f"/jobs/{job}", "Release quarantined devices"


PAGES: dict[str, tuple[str, str]] = {
    "overview": ("/", "Overview"),
    "deliveries": ("/deliveries", "Deliveries"),
    "devices": (f"/devices?owner={ANNA.id}", "Devices"),
    "devices-many": ("/devices", "Devices"),
    "applications": ("/applications", "Applications"),
    "application": (f"/applications/apns/{APPLICATION_ID}", APPLICATION_ID),
    "application-new": ("/applications/new/apns", "Add an application"),
    "project-new": ("/applications/new/fcm", "Add a Firebase project"),
    "application-remove": (f"/applications/apns/{APPLICATION_ID}/remove", "Remove the credential?"),
    "send": ("/send", "Send"),
    "chat": ("/send/chat_message", "Send"),
    "dead-letters": ("/dead-letters", "Dead letters"),
    "bulk": ("/jobs/new?action=replay&outcome=refused", "Replay dead letters"),
    "quarantine": ("/quarantine", "Quarantine"),
    "jobs": ("/jobs", "Jobs"),
    "access": (f"/access?owner={ANNA.id}", "Keys and sessions"),
    "phones": ("/phones", "Phones"),
    "no-such-page": ("/nowhere", "There is no such page"),
}
