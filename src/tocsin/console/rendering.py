"""The templates, rendered. Every value is escaped by Jinja2: what a provider or a user wrote is never HTML here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from tocsin.console import formats, words

_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Assets:
    """The style sheet, the script, the icons. Their addresses change with their content, so browsers may keep them."""

    def __init__(self) -> None:
        folder = resources.files("tocsin.console") / "static"
        self._content = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith(tuple(_TYPES))}
        digest = sha256(b"".join(self._content[name] for name in sorted(self._content)))
        self.version = digest.hexdigest()[:12]

    def url(self, name: str) -> str:
        """Where browsers find it."""
        assert name in self._content, name
        return f"/static/{self.version}/{name}"

    def find(self, name: str) -> tuple[bytes, str] | None:
        """Its content and its media type."""
        content = self._content.get(name)
        return None if content is None else (content, _TYPES["." + name.rpartition(".")[2]])


def _now() -> datetime:
    return datetime.now(UTC)


class Renderer:
    """Renders templates."""

    def __init__(self, assets: Assets, now: Callable[[], datetime] = _now) -> None:
        self._now = now
        # The package is found through its spec: no directory of the working directory is searched.
        self._environment = Environment(
            loader=PackageLoader("tocsin.console"),
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            clock=formats.clock,
            day=formats.day_and_time,
            duration=formats.duration,
            since=formats.since,
            count=formats.count,
            rate=formats.rate,
            ms=formats.milliseconds,
            bytes=formats.size,
            short=formats.short,
            anchor=formats.anchor,
            json=formats.pretty_json,
            plural=formats.plural,
            parts=lambda text: formats.quoted(formats.with_clock(text, self._now())),
            ago=lambda text: formats.ago(text, self._now()),
        )
        self._environment.globals.update(words=words, asset=assets.url)

    def render(self, template: str, **context: Any) -> str:
        """The text of a template with these values."""
        return self._environment.get_template(template).render(**context)
