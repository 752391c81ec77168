"""The configuration: whether it can be used, which variables are none of its own, and who may read its secrets."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from pydantic import SecretStr

from tocsin.cli.doctor.findings import Finding, ok, problem, warning
from tocsin.cli.opening import DEFAULT_CONFIG
from tocsin.secret_files import readable_by_others
from tocsin.settings import Settings
from tocsin.variables import ignored

SOON: Final = timedelta(days=30)
"""What ends within this time is near its end."""
_SECRET_FILES: Final = {
    "server": ("tls_key",),
    "store": ("password_file",),
    "sessions": ("introspection_client_secret_file",),
    "sources.nats": ("password_file", "nkey_file", "credentials_file", "private_key_file"),
}


def file_of(config: Path | None) -> Path | None:
    """The file that a command with this `--config` reads; None for the defaults."""
    return DEFAULT_CONFIG if config is None and os.path.exists(DEFAULT_CONFIG) else config


def configuration(file: Path | None, settings: Settings) -> Iterator[Finding]:
    """What can be said of settings that could be loaded."""
    where = "there is no file, so the defaults are used" if file is None else f"{file}: every key is known"
    yield ok("settings", where)
    if unused := ignored(os.environ, Settings):
        names = ", ".join(unused)
        yield warning(
            "settings",
            f"nothing reads the environment variables {names}",
            "a setting is written TOCSIN_SECTION__KEY; correct or unset them",
        )
    if file is not None and (secrets := _secrets_in(file, settings)):
        yield _rights(f"{file} (it has {', '.join(secrets)})", file)
    for setting, path in _secret_files(settings):
        yield _rights(f"{setting} {path}", path)


def extras(settings: Settings) -> Iterator[Finding]:
    """What the settings want must be installed; sources of events say so themselves."""
    if settings.tracing.endpoint is None:
        return
    try:
        import tocsin.service.tracing  # noqa: F401
    except ImportError:
        told = "tracing.endpoint needs more than is installed"
        yield problem("settings", told, "run `pip install 'tocsin[tracing]'`")


def certificates(settings: Settings) -> Iterator[Finding]:
    """Those that tocsin shows to others: whether they can be used, and how long."""
    from tocsin.api.tls import ServerTls, TlsError

    server, nats = settings.server, settings.sources.nats
    if server.tls_certificate is not None and server.tls_key is not None:
        try:
            ServerTls(server.tls_certificate, server.tls_key)
        except TlsError as error:
            yield problem("certificate", str(error))
        else:
            yield _expiry("server.tls_certificate", server.tls_certificate)
    if nats is not None and nats.certificate_file is not None:
        yield _expiry("sources.nats.certificate_file", nats.certificate_file)


def ends(subject: str, what: str, at: datetime, remedy: str) -> Finding:
    """A finding about something that ends at this time."""
    now = datetime.now(UTC)
    if at <= now:
        return problem(subject, f"{what} has ended on {at:%Y-%m-%d}", remedy)
    if at - now < SOON:
        return warning(subject, f"{what} ends on {at:%Y-%m-%d}", remedy)
    return ok(subject, f"{what} is good until {at:%Y-%m-%d}")


def _expiry(setting: str, path: Path) -> Finding:
    try:
        first = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a certificate (PEM)"
        return problem("certificate", f"{setting} {path}: {reason}", "name another file")
    return ends("certificate", f"{setting} {path}", first.not_valid_after_utc, "put a new one in its place")


def _secret_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """The files with secrets that the settings name, but for the master keys."""
    sections = {
        "server": settings.server,
        "store": settings.store,
        "sessions": settings.sessions,
        "sources.nats": settings.sources.nats,
    }
    for section, keys in _SECRET_FILES.items():
        for key in keys:
            path: Path | None = getattr(sections[section], key, None)
            if path is not None:
                yield f"{section}.{key}", path


def _secrets_in(file: Path, settings: Settings) -> list[str]:
    """The keys of the configuration file whose values are secrets."""
    # It was loaded a moment ago.
    written: dict[str, Any] = tomllib.loads(file.read_bytes().decode())
    found = []
    for name, section in written.items():
        for key, value in section.items() if isinstance(section, dict) else ():
            is_secret = isinstance(getattr(getattr(settings, name, None), key, None), SecretStr)
            if is_secret or (key == "proxy" and "@" in str(value)):
                found.append(f"{name}.{key}")
    return found


def _rights(what: str, path: Path) -> Finding:
    try:
        wrong = readable_by_others(path, path.stat())
    except OSError as error:
        return problem("file rights", f"{what}: {error.strerror}", "name another file")
    return (
        ok("file rights", f"{what}: for its owner alone")
        if wrong is None
        else problem("file rights", f"{what}: {wrong}")
    )
