"""Which metrics and labels a PromQL expression names. It reads tokens, and leaves the grammar to promtool."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]|\d[\w.]*|\$?[A-Za-z_:][\w:]*|!=|=~|!~|==|>=|<=|\S')
_NAME: Final = re.compile(r"[A-Za-z_:][\w:]*")
_OPERATORS: Final = frozenset({"and", "or", "unless", "bool", "offset"})
_BEFORE_LABELS: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_AGGREGATIONS: Final = frozenset({"sum", "min", "max", "avg", "count", "topk", "bottomk"})


class Named(Struct):
    """What an expression names: the labels that select, by metric, and those by which it groups or joins."""

    metrics: dict[str, set[str]] = {}
    grouping: set[str] = set()


def named(expression: str) -> Named:
    tokens = _TOKEN.findall(expression)
    found, metric, within = Named(), "", ""
    for index, token in enumerate(tokens):
        following = tokens[index + 1] if index + 1 < len(tokens) else ""
        if token == "{":
            within = "selector"
        elif token in "})" and within:
            within = ""
        elif token in _BEFORE_LABELS:
            within = "labels"
        elif not _NAME.fullmatch(token) or token in _OPERATORS:
            continue
        elif within == "selector":
            found.metrics[metric].add(token)
        elif within == "labels":
            found.grouping.add(token)
        elif following != "(" and token not in _AGGREGATIONS:
            metric = token
            found.metrics.setdefault(metric, set())
    return found
