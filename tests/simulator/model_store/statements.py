"""All statements that the model knows."""

from __future__ import annotations

from tests.simulator.model_store import (  # noqa: F401 (each tells which statements it does)
    of_access,
    of_devices,
    of_events,
    of_keeping,
    of_nodes,
    of_schedule,
)
from tests.simulator.model_store.vocabulary import find as statement_of

__all__ = ["statement_of"]
