"""Dead tokens whose removal fails: what their fuse has decided still holds when it is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.unit.test_lanes import Clock, delivery

from tocsin.delivery.dead_tokens import DeadTokens
from tocsin.delivery.fuse import Fuse
from tocsin.domain.outcomes import Answer, TokenDead
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import DeadToken

UNREGISTERED = TokenDead(Answer(410, "Unregistered"))


class Registry:
    def __init__(self) -> None:
        self.fails = False
        self.asked: list[bool] = []

    async def remove_dead(self, tokens: Sequence[DeadToken], *, quarantine: bool) -> list[bool]:
        if self.fails:
            raise StoreUnavailable
        self.asked += [quarantine] * len(tokens)
        return [False] * len(tokens)


async def test_a_fuse_is_not_whole_again_while_its_tokens_wait_to_be_quarantined() -> None:
    fuse, registry = Fuse(Clock()), Registry()
    dead_tokens = DeadTokens(registry, lambda _: fuse)  # type: ignore[arg-type]
    told: list[Any] = []
    for _ in range(3):
        dead_tokens.add(delivery(), UNREGISTERED)
    assert fuse.count(400, 300)
    registry.fails = True
    with pytest.raises(StoreUnavailable):
        await dead_tokens.remove(lambda *one: told.append(one))
    assert not fuse.may_be_reset(), "nothing is in quarantine, and all three still have to go there"
    registry.fails = False
    await dead_tokens.remove(lambda *one: told.append(one))
    assert registry.asked == [True] * 3
    assert len(told) == 3
    assert fuse.may_be_reset(), "where nothing is in quarantine any more"
