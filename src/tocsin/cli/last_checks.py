"""The last check of each credential: noted by `check`, shown by `list`, of an app and of a Firebase project alike."""

from __future__ import annotations

from typing import Any

from tocsin.cli.errors import CommandError
from tocsin.cli.opening import in_store
from tocsin.cli.output import iso, remark, utc
from tocsin.domain.credentials import Check, Credential
from tocsin.providers.base import CheckResult
from tocsin.settings import Settings
from tocsin.store.ports import Store

Known = tuple[list[Credential], dict[str, Check]]
"""A provider's credentials, and by account the last check of each."""


async def credentials_of(store: Store, provider: str) -> Known:
    """A provider's credentials with their checks."""
    return await store.credentials.of(provider), await store.credentials.checks(provider)


def note_check(settings: Settings, credential: Credential, result: CheckResult, *, sandbox: bool = False) -> None:
    """Note what the provider said. The answer counts without it: where the store cannot be written that is said, and
    no more."""

    async def note(store: Store) -> None:
        check = Check(at_ms=store.now_ms(), sandbox=sandbox, ok=result.ok, sentence=result.sentence)
        await store.credentials.note_check(credential, check)

    try:
        in_store(settings, note)
    except CommandError as error:
        remark(f"The answer is not noted: {error}")


def in_words(check: Check | None) -> str:
    """For a table."""
    if check is None:
        return "never"
    asked = ", sandbox" if check.sandbox else ""
    return f"{'accepted' if check.ok else 'not accepted'} {utc(check.at_ms)[:10]}{asked}"


def described(check: Check | None) -> dict[str, Any]:
    """As JSON shows it, beside the credential; nothing where there is none."""
    if check is None:
        return {}
    shown = {"at": iso(check.at_ms), "sandbox": check.sandbox, "ok": check.ok, "sentence": check.sentence}
    return {"last_check": shown}
