"""Every page of the console: where it is, and its heading."""

from __future__ import annotations

from tocsin.cli.demo.users import ANNA, APPLICATION_ID

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
