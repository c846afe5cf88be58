"""As :mod:`tests.experiments.stop_at`, for ``experiments.seed_hunt``.

python -m tests.experiments.stop_hunt_at '[["kill", "after", ".parquet", 2], null]' --out ...
"""

from __future__ import annotations

import json
import sys
from unittest import mock

import experiments._hunt_plots
import experiments._hunt_report
import experiments._hunt_winners  # noqa: F401  (slow to import: once, not in every stage)
from experiments import seed_hunt
from tests.experiments import stop_at

if __name__ == "__main__":
    with mock.patch.multiple(stop_at, main=seed_hunt.main, Config=seed_hunt.Config):
        stages = json.loads(sys.argv[1])
        print(json.dumps([stop_at.run_stage(stage, sys.argv[2:]) for stage in stages]))
