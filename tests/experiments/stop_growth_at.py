"""As :mod:`tests.experiments.stop_at`, for ``experiments.indefinite_growth``."""

from __future__ import annotations

from experiments import indefinite_growth
from tests.experiments import stop_at

if __name__ == "__main__":
    stop_at.stop(indefinite_growth.STUDY)
