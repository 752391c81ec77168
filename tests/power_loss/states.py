"""States that a power cut could leave, for one instant of a run: which of the pending operations are kept.

All that were synced are there. Of the others: none, all, every prefix, all but one, one alone, each write torn at every
boundary of a sector (512 and 4096 bytes), a file that has grown without its new content, no change of names, or
nothing but these, and random subsets drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from tests.power_loss.trace import Named, Operation, Write

SECTOR: Final = 512


def kept_of(pending: Sequence[Operation], random: Random, samples: int) -> Iterator[Sequence[Operation]]:
    """Each choice of what is kept, in its order; a torn write is in the place of the whole one.

    `samples` random subsets are drawn for each pending operation.
    """
    yield ()
    yield pending
    for index, operation in enumerate(pending):
        before, after = pending[:index], pending[index + 1 :]
        yield before
        yield [*before, *after]
        yield [operation]
        if isinstance(operation, Write):
            torn = list(_torn(operation))
            for part in torn:
                yield [*before, part]
            for part in random.sample(torn, min(2, len(torn))):
                yield [part]
                yield [*before, part, *after]
    yield [operation for operation in pending if isinstance(operation, Named)]
    yield [operation for operation in pending if not isinstance(operation, Named)]
    for _ in range(samples * len(pending) if len(pending) > 2 else 0):
        yield _sample(pending, random)


def _torn(write: Write) -> Iterator[Write]:
    """Its first part alone and its last part alone, for every boundary of a sector within it; and zeros in its place.

    Sectors begin at multiples of 512 bytes in the file. Larger ones (4096) begin where one of these does.
    """
    end = write.offset + len(write.data)
    for at in range(write.offset // SECTOR * SECTOR + SECTOR, end, SECTOR):
        yield Write(write.inode, write.offset, write.data[: at - write.offset])
        yield Write(write.inode, at, write.data[at - write.offset :])
    yield Write(write.inode, write.offset, bytes(len(write.data)))


def _sample(pending: Sequence[Operation], random: Random) -> list[Operation]:
    """A random subset: every other one is of a prefix, for a disk keeps more of what is older."""
    until = len(pending) if random.random() < 0.5 else random.randint(1, len(pending))
    share = random.choice((0.1, 0.5, 0.5, 0.9))
    kept = [operation for operation in pending[:until] if random.random() < share]
    writes = [at for at, operation in enumerate(kept) if isinstance(operation, Write)]
    if writes and random.random() < 0.25:
        at = random.choice(writes)
        write = kept[at]
        assert isinstance(write, Write)
        kept[at] = random.choice(list(_torn(write)))
    return kept
