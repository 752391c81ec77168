"""A Firebase project's service account: read, checked, stored, described.

Source: Google, "Authorize send requests"; RFC 7523 for what its key signs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from msgspec import Struct

from tocsin.domain.credentials import Credential
from tocsin.providers.base import CredentialError
from tocsin.providers.fcm.address import NAME, PROJECT_ID
from tocsin.providers.fcm.token_endpoint import GOOGLE_HOSTS, why_not

_NEEDED: Final = ("client_email", "private_key", "token_uri")
_FIELDS: Final = (*_NEEDED, "project_id", "private_key_id")


class ServiceAccount(Struct, frozen=True):
    """What tocsin uses of the JSON file that Google hands out."""

    client_email: str = ""
    private_key: str = ""
    token_uri: str = ""
    project_id: str = ""
    private_key_id: str = ""

    @property
    def path(self) -> str:
        """Where its project's messages are sent to."""
        return f"/v1/projects/{self.project_id}/messages:send"


def stored(project: str, content: bytes, *, default: bool, changed_ms: int) -> Credential:
    """The file, as it is stored under what the operator calls the project."""
    return Credential(NAME, project, content, default, changed_ms)


def read_stored(credential: Credential) -> ServiceAccount:
    """The service account that was stored. What an older version did not check, and cannot be used, is empty."""
    fields = msgspec.json.decode(credential.content, type=dict[str, Any])
    texts = {name: value for name in _FIELDS if isinstance(value := fields.get(name), str)}
    if not PROJECT_ID.fullmatch(texts.get("project_id", "")):
        texts["project_id"] = ""  # It would become a part of a path, or of its header.
    return ServiceAccount(**texts)


def read_service_account(content: bytes, token_hosts: Collection[str] = GOOGLE_HOSTS) -> ServiceAccount:
    """A service account's JSON as Google hands it out, checked. Its `token_uri` must be at one of `token_hosts`.

    Raises:
        CredentialError: it is not a service account, or its key is not usable. The message quotes no value.
    """
    try:
        fields: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _no_account("not valid JSON") from None
    if not isinstance(fields, dict):
        raise _no_account("not a JSON object")
    for name in _NEEDED:
        if not isinstance(fields.get(name), str) or not fields[name]:
            raise _no_account(f"{name} is missing or not a text")
    if not isinstance(fields.get("project_id"), str) or not fields["project_id"]:
        raise CredentialError("the service account names no project_id")
    if not PROJECT_ID.fullmatch(fields["project_id"]):
        raise _no_account("project_id is not a project id of Google's (lower-case letters, digits and hyphens)")
    if not isinstance(fields.get("private_key_id", ""), str):
        raise _no_account("private_key_id is not a text")
    if reason := why_not(fields["token_uri"], token_hosts):
        raise CredentialError(f"the service account's token_uri {reason}")
    try:
        key = serialization.load_pem_private_key(fields["private_key"].encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _no_account("private_key is not an RSA private key in PEM")
    return msgspec.convert({name: fields[name] for name in _FIELDS if name in fields}, ServiceAccount)


def _no_account(why: str) -> CredentialError:
    return CredentialError(f"not a service account (the JSON file as downloaded from Google): {why}")
