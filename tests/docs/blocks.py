"""The fenced code blocks of the documentation, and the commands in those that show a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Final

from msgspec import Struct

ROOT: Final = Path(__file__).parents[2]
_FENCE: Final = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)$")
_PROMPTS: Final = ("$ ", "# ")
"""Of a user, and of root."""


class Block(Struct, frozen=True):
    """What stands between two fences. `line` is that of the first fence; `language` is empty where it names none."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


class Command(Struct, frozen=True):
    """What a reader types, and what the page shows as its output: empty where it shows none."""

    text: str
    output: str
    as_root: bool = False

    @property
    def words(self) -> list[str]:
        """Its words, without variables that are set before them; only for commands that are no assignment."""
        words = self.text.split()
        while re.match(r"[A-Z_]+=\S*$", words[0]):
            words = words[1:]
        return words


def pages() -> list[Path]:
    """Every page that a reader gets."""
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md")]
    return [*named, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks() -> list[Block]:
    """All of them, page by page. Raises ValueError: a fence is not closed, or its line is not understood."""
    return [block for page in pages() for block in blocks_of(page.relative_to(ROOT).as_posix(), page.read_text())]


def blocks_of(page: str, text: str) -> Iterator[Block]:
    opened: tuple[int, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("```"):
            lines.append(line)
            continue
        fence = _FENCE.match(line)
        if fence is None or (opened is not None and fence["language"]):
            raise ValueError(f"{page}:{number}: a fence that is not understood: {line}")
        if opened is not None:
            yield Block(page, *opened, dedent("\n".join(lines)) + "\n")
        opened = None if opened is not None else (number, fence["language"])
        lines = []
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: the block has no end")


def commands(block: Block) -> list[Command]:
    """The commands of a block with the language `console`, each with the lines that belong to it.

    A command goes on in the next line after a backslash, inside quotes, and until the end of a here-document.
    """
    found: list[Command] = []
    lines = iter(block.text.splitlines())
    output: list[str] = []
    for line in lines:
        if not line.startswith(_PROMPTS):
            if not found:
                raise ValueError(f"{block.name}: output before the first command: {line}")
            output.append(line)
            continue
        if found:
            found[-1] = Command(found[-1].text, "\n".join(output), found[-1].as_root)
        output, text = [], line[2:]
        ending = re.search(r"<<'?(\w+)'?", text)
        while ending is not None and not text.endswith(f"\n{ending[1]}"):
            text += "\n" + next(lines)
        while ending is None and (text.endswith("\\") or _quotes_are_open(text)):
            text += "\n" + next(lines)
        found.append(Command(text, "", line.startswith("# ")))
    if found:
        found[-1] = Command(found[-1].text, "\n".join(output), found[-1].as_root)
    return found


def _quotes_are_open(text: str) -> bool:
    """Whether a shell would go on reading: a quote has no end. A comment has none."""
    quote = ""
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and text[at - 1 : at].isspace():
            return False
    return bool(quote)
