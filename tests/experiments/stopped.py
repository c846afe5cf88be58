"""Experiments of ``experiments._rounds`` stopped at checkpoints and continued."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import jaxnet.store.checkpoint
from experiments import _rounds


def stopped_and_continued(
    run: Callable[[Any], Any], config: Any, after: Sequence[int], out: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Any]:
    """What a run ends with, whole and stopped in ``out`` at these checkpoints in turn."""
    monkeypatch.setattr(jaxnet.store.checkpoint, "OVERHEAD", math.inf)  # a checkpoint after every part
    whole = run(config)
    save, left = _rounds.save, [-1]

    def stopping(*args: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return save(*args, **more)

    monkeypatch.setattr(_rounds, "save", stopping)
    again = dataclasses.replace(config, out=str(out), doc=None)
    for count in after:
        left[0] = count
        with pytest.raises(KeyboardInterrupt):
            run(again)
        again = dataclasses.replace(again, resume=True)
    left[0] = -1
    return whole, run(again)
