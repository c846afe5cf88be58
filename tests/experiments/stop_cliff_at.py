"""As :mod:`tests.experiments.stop_at`, for ``experiments.cliff_rescue``.

python -m tests.experiments.stop_cliff_at '[["kill", "before", ".train-2", 1], null]' --out ...
"""

from __future__ import annotations

from experiments import cliff_rescue
from tests.experiments import stop_at

if __name__ == "__main__":
    stop_at.stop(cliff_rescue.STUDY)
