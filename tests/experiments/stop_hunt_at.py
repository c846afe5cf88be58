"""As :mod:`tests.experiments.stop_at`, for ``experiments.seed_hunt``.

python -m tests.experiments.stop_hunt_at '[["kill", "after", ".parquet", 2], null]' --out ...
"""

from __future__ import annotations

import experiments._hunt_report  # noqa: F401  (slow to import: once, not in every stage)
import jaxnet.sweep.pictures  # noqa: F401
from experiments import seed_hunt
from tests.experiments import stop_at

if __name__ == "__main__":
    stop_at.stop(seed_hunt.STUDY)
