"""``experiments.exactness_training``: its penalties by hand, a small run, wrong input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _exactness_arms as arms
from experiments import exactness_training as study
from jaxnet.errors import InputError
from jaxnet.lab import run_main
from jaxnet.nn.params import Params
from jaxnet.structure import LayerParams

SMALL: dict[str, Any] = {"num_seeds": 2, "epochs": 2, "hidden": (12, 8), "batch_size": 64, "kernel": "dense"}
FEW: dict[str, Any] = {"l2": (1e-3,), "gram": (0.1, 1.0), "defect": (1e-3,), "gluing": (1.0,)}


def test_the_gram_penalty_by_hand() -> None:
    first, second = jnp.asarray([[1.0, 2], [0, 1]]), jnp.asarray([[1.0, 3]])
    seen, weight = SimpleNamespace(post=(first, second)), jnp.asarray([1.0, 0])  # the second is padding
    found = arms.gram(seen, None, weight, weight, {"gram": jnp.asarray(2.0)})
    assert float(found) == pytest.approx(2 * (1**2 + 0) / 2)


@pytest.mark.parametrize("side", [8, 28])
def test_windows_of_rows_overlap_by_two_at_most(side: int) -> None:
    number, width, stride = arms.windows(side)
    over = np.bincount((np.arange(number)[:, None] * stride + np.arange(width)).ravel())
    assert over.max() == 2 and side - stride < len(over) <= side


def test_one_window_sees_what_all_see_where_weights_are_diagonal(key: jax.Array) -> None:
    # every pixel has a unit of its own: what is made of a row does not depend on the other rows
    params = Params((LayerParams(jnp.eye(64), jnp.zeros(64)),))
    x, weight, one = jnp.abs(jax.random.normal(key, (3, 64))), jnp.ones(3), {"gluing": jnp.asarray(1.0)}
    assert float(arms.glue(None, params, x, weight, one)) == pytest.approx(0, abs=1e-10)
    mixed = Params((LayerParams(jnp.eye(64) + 0.1, jnp.zeros(64)),))
    assert float(arms.glue(None, mixed, x, weight, one)) > 1e-3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"hidden": (0, 4)}, "--hidden must be two positive sizes"),
        ({"protocol": "seed"}, "--protocol must be clean"),
        ({"gram": ()}, "--gram must be one or more numbers above 0"),
        ({"l2": (-1.0,)}, "--l2 must be one or more numbers above 0"),
    ],
)
def test_wrong_flags(flags: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        study.Config(**flags)


@pytest.mark.slow
def test_a_small_run_is_chosen_judged_and_written(tmp_path: Path) -> None:
    config = study.Config(**SMALL, **FEW, out=str(tmp_path / "run"), doc=str(tmp_path / "exactness.md"))
    summary = study.STUDY.main(config)
    assert list(summary["arms"]) == list(study.KINDS)
    assert len(summary["comparisons"]) == 2 * (len(study.KINDS) + 1)
    for name in ("nearest", "factored"):
        assert all(seed["defect"] < 1e-5 for seed in summary["arms"][name]["seeds"])
    assert all(seed["defect"] > 1e-2 for seed in summary["arms"]["none"]["seeds"])
    tried = {t["name"]: t for t in summary["tried"]}
    assert tried["gram 1"]["second"] < tried["gram 0.1"]["second"] < tried["none"]["second"]
    assert summary["chosen"]["gram"] in (0.1, 1.0)
    assert (tmp_path / "exactness.md").read_text().startswith("# Exactness while training")
    # continued after the end: the same
    again = dataclasses.replace(config, resume=True, doc=None)
    study.STUDY.main(again)
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stored["arms"] == summary["arms"]


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run_main(study.STUDY.main, study.Config, ["--defect", "0"])
    assert left.value.code == 2 and "--defect must be" in capsys.readouterr().err
