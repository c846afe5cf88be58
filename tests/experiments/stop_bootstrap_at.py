"""As :mod:`tests.experiments.stop_at`, for ``experiments.optimal_bootstrap``.

python -m tests.experiments.stop_bootstrap_at '[["kill", "after", "medium-1", 1], null]' --out ...
"""

from __future__ import annotations

import json
import sys
from unittest import mock

import experiments._bootstrap_report
import experiments._bootstrap_run  # noqa: F401  (slow to import: once, not in every stage)
from experiments import optimal_bootstrap
from tests.experiments import stop_at

if __name__ == "__main__":
    with mock.patch.multiple(stop_at, main=optimal_bootstrap.main, Config=optimal_bootstrap.Config):
        stages = json.loads(sys.argv[1])
        print(json.dumps([stop_at.run_stage(stage, sys.argv[2:]) for stage in stages]))
