"""As :mod:`tests.experiments.stop_at`, for ``experiments.cliff_rescue``.

python -m tests.experiments.stop_cliff_at '[["kill", "before", ".train-2", 1], null]' --out ...
"""

from __future__ import annotations

import json
import sys
from unittest import mock

import experiments._cliff_run  # noqa: F401  (slow to import: once, not in every stage)
from experiments import cliff_rescue
from tests.experiments import stop_at

if __name__ == "__main__":
    with mock.patch.multiple(stop_at, main=cliff_rescue.main, Config=cliff_rescue.Config):
        stages = json.loads(sys.argv[1])
        print(json.dumps([stop_at.run_stage(stage, sys.argv[2:]) for stage in stages]))
