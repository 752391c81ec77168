"""`python -m tests.cluster.torture --quick | --full`: exit 0 where every event is accounted for, else 1."""

from __future__ import annotations

import sys
from typing import Final

from tests.cluster.run import FULL, QUICK, torture
from tests.torture.__main__ import run_torture

_PLANS: Final = {
    "quick": (QUICK, "under a minute"),
    "full": (FULL, "105,000 events and more than 50 faults, in twenty minutes at most"),
}

if __name__ == "__main__":
    sys.exit(run_torture("python -m tests.cluster.torture", __doc__, _PLANS, torture))
