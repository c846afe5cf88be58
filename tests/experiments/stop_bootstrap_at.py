"""As :mod:`tests.experiments.stop_at`, for ``experiments.optimal_bootstrap``.

python -m tests.experiments.stop_bootstrap_at '[["kill", "after", "medium-1", 1], null]' --out ...
"""

from __future__ import annotations

from experiments import optimal_bootstrap
from tests.experiments import stop_at

if __name__ == "__main__":
    stop_at.stop(optimal_bootstrap.STUDY)
