"""As :mod:`tests.experiments.stop_at`, for ``experiments.indefinite_growth``."""

from __future__ import annotations

import json
import sys
from unittest import mock

import experiments._growth_plots
import experiments._growth_run  # noqa: F401  (slow to import: once, not in every stage)
from experiments import indefinite_growth
from tests.experiments import stop_at

if __name__ == "__main__":
    with mock.patch.multiple(stop_at, main=indefinite_growth.main, Config=indefinite_growth.Config):
        stages = json.loads(sys.argv[1])
        print(json.dumps([stop_at.run_stage(stage, sys.argv[2:]) for stage in stages]))
