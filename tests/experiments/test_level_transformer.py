"""``experiments.level_transformer``: wrong input, what is tried, a small run killed and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments import level_transformer
from experiments._level_arm import ARM, ArmConfig, Material, load_text, longest_sentence
from experiments._level_measures import Cost, judgements, spread_over
from experiments._level_shown import add_steps, claimed_steps, reached, tuning_table
from jaxnet import lab
from jaxnet.levels import ARMS, matmul_flops, stability
from jaxnet.store.folder import RunFolder
from jaxnet.transformer import Decoder, Spec
from tests.experiments.wrong_input import assert_refused

SMALL: dict[str, Any] = {
    "limit": 60_000, "num_seeds": 2, "length": 34, "width": 8, "heads": 2, "layers": 2, "tested": 4,
    "suite_samples": 8, "steps": 6, "looks": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--windows", "full,top-0"], "k of top-k attention must be at least 1: 0"),
        (["--windows", "full,41"], "the window of layer 1 must be at most the length 40: 41 tokens"),
        (["--windows", "wide,full"], "'wide' is neither full, a number of tokens, nor top-NUMBER"),
        (["--heads", "3"], "heads must divide the width: 3 heads, width 16"),
        (["--dataset", "SHORT"], "the text is shorter than one batch"),
        (["--dataset", "nowhere.txt"], "no such file"),
        (["--length", "16"], "sequences of 34 tokens do not fit into 16"),
        (["--arms", "prayer"], "unknown arm 'prayer'"),
        (["--extras", "prayer"], "--extras: 'prayer' is none of"),
        (["--steps", "30"], "--steps must be a multiple of --looks: 30, 20"),
        (["--rates", "2e-3,1e-3"], "--rates must be different numbers, ascending"),
        (["--suite-share", "0.01"], "leaves no sequence"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(flags, said, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("too short")
    flags = [str(tmp_path / "short.txt") if flag == "SHORT" else flag for flag in flags]
    study, config = level_transformer.CONTROLS, level_transformer.Config
    assert_refused(study.main, config, flags, said, tmp_path / "run", capsys)


def test_what_is_auto_is_small_in_a_short_run_and_that_of_the_page_in_a_long_one():
    small = level_transformer.settle(level_transformer.Config())
    long = level_transformer.settle(level_transformer.Config(steps=2000))
    assert (small.length, small.width, small.layers, len(small.rates or ())) == (40, 16, 2, 1)
    assert (long.length, long.width, long.layers, long.arms) == (64, 56, 4, ("all",))
    assert small.extras == ("none",) and small.arms is not None and small.arms[0] == "plain"


def test_every_arm_tries_as_many_points():
    for best in (None, 1.0, 8.0):
        for dials in ((1.0,), (0.1, 1.0), (1.0, 2.0, 3.0, 4.0)):
            points = level_transformer.points_of((1.0, 2.0, 4.0, 8.0), dials, best)
            assert len(set(points)) == 4 and {dial for _, dial in points} == set(dials)
    assert level_transformer.points_of((3.0,), (0.1, 1.0), 3.0) == [(3.0, 0.1)]


def test_the_best_point_has_the_least_loss_and_has_not_diverged():
    def arm(loss: float, diverged: bool = False) -> dict[str, Any]:
        return {"aggregate": {"val": {"mean": loss}}, "seeds": [{"diverged": diverged}]}

    arms = {"a": arm(2.0), "b": arm(1.0, True), "c": arm(1.5)}
    tried, place = level_transformer.tuned(
        {"config": {"rates": [1, 2, 3], "strengths": [1, 1, 1]}, "arms": arms}
    )
    assert place == 2 and tried[1]["loss"] is None


def test_steps_to_a_loss_are_linear_between_looks():
    assert reached([3.0, 2.0, 1.0], 2.0, 3) == (2 / 3, True)
    assert reached([3.0, 2.0, 1.0], 0.5, 3) == (1.0, False)
    assert reached([1.0], 2.0, 4) == (0.25, True)


def test_the_goal_of_the_steps_lies_before_the_end_and_trials_at_an_end_are_marked():
    def arm(name: str, *curve: float) -> dict[str, Any]:
        tried = [{"rate": rate, "strength": 1.0, "loss": loss} for rate, loss in ((1e-3, 2.0), (4e-3, 1.5))]
        seeds = [{"seed": 0, "diverged": False, "val": curve[-1], "curve": list(curve)}]
        return {"arms": {name: {"seeds": seeds}}, "tried": tried, "point": [4e-3, 1.0]}

    found = {
        n: arm(n, *c) for n, c in {"plain": (4, 3, 2, 1), "fast": (4, 2, 1, 1), "slow": (4,) * 4}.items()
    }
    add_steps(found, "plain", 4)
    ends = {n: s["arms"][n]["seeds"][0] for n, s in found.items()}
    assert {n: (s["steps_share"], s["reached"]) for n, s in ends.items()} == {
        "plain": (1.0, True),
        "fast": (2 / 3, True),
        "slow": (4 / 3, False),
    }
    assert tuning_table(found)[1][0] == ["plain", "0.001: 2.0000, **0.004: 1.5000***"]
    asked = [lab.Question(n, "plain", "steps_share", higher_is_better=False) for n in ("fast", "slow")]
    ends_of = ([-0.3, -0.1], [-0.05, 0.4])
    told = [lab.Comparison(q, sum(e) / 2, e, 0.01, 12, 12) for q, e in zip(asked, ends_of, strict=True)]
    assert claimed_steps(told) == {"shown": ["fast"], "refuted": ["slow"], "open": []}


def test_the_defaults_have_room_for_every_sentence():
    config = level_transformer.settle(level_transformer.Config())
    assert (config.length or 0) >= longest_sentence()


def test_windows_to_judge_by_are_from_all_over_a_text():
    config = ArmConfig(**SMALL)
    text, stuff = load_text(config), Material(config, load_text(config))
    for part, x in (("val", stuff.val.x), ("test", stuff.judged.x[0])):
        tokens, size = getattr(text, part), text.windows(part, 34).size
        for place, row in zip(spread_over(size, len(x)), x, strict=True):
            assert row.tolist() == tokens[place * 34 : place * 34 + 34].tolist()
        assert spread_over(size, len(x))[-1] >= size - 1 - size / len(x)


def test_what_a_look_sees_between_steps_is_no_part_of_a_step():
    spec, config = Spec(vocab=9, length=8, width=8, heads=2, layers=3), ArmConfig(steps=10, batch_size=2)
    plain, pages = (Cost.of(config, ARMS[name], spec) for name in ("plain", "pages"))
    params = jax.eval_shape(Decoder(spec).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    seen = {"strength": jnp.ones(()), "progress": jnp.ones(()), "seen": jnp.zeros(4)}
    alone = jax.value_and_grad(lambda values: stability.penalty(spec)(values, seen))
    assert pages.flops == plain.flops + matmul_flops(alone, params)


def test_equal_products_are_between_two_looks():
    assert judgements(4, 4) == [("steps", 4, 1), ("flops", 4, 1)]
    assert judgements(4, 2.75) == [("steps", 4, 1), ("flops", 2, 1), ("flops", 3, 0.75)]
    assert judgements(4, 4.5)[1:] == [("flops", 4, 1), ("flops", 5, 0.5)]


class Killed(BaseException):
    """Ends a run where it is."""


@pytest.mark.slow
def test_a_run_killed_between_two_phases_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch) -> None:
    def run(folder: str, **more: Any) -> Any:
        config = ArmConfig(
            arm="curriculum", out=str(tmp_path / folder), **{**SMALL, "fair_looks": 3.5, **more}
        )
        dataset: Any = load_text(config)
        return ARM.compute(config, report=lambda line: None, dataset=dataset)[0]

    whole, append, seen = run("whole"), RunFolder.append_rows, list[int]()

    def counted(self: Any, rows: Any) -> int:
        if len(seen) == 2:
            raise Killed
        seen.append(1)
        return append(self, rows)

    monkeypatch.setattr(RunFolder, "append_rows", counted)
    with pytest.raises(Killed):
        run("killed")
    monkeypatch.setattr(RunFolder, "append_rows", append)
    again = run("killed", resume=True)
    assert again["arms"] == whole["arms"] and again["cost"] == whole["cost"]
    done = run("killed", resume=True)  # nothing is left to do
    assert done["arms"] == whole["arms"]
    assert done["timing"] == again["timing"] and done["timing"]["tokens_per_second"] > 0
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "killed")]
    assert rows[0] == rows[1] and rows[0].count(b"\n") == 8
    (arm,) = whole["arms"].values()
    assert all(s["loss_at_equal_flops"] != s["loss"] for s in arm["seeds"])
    assert len(arm["seeds"][0]["curve"]) == 4 and 0 <= arm["aggregate"]["disagreement"]["mean"] <= 1


@pytest.mark.slow
def test_a_small_run_is_compared_and_written(tmp_path: Path, monkeypatch) -> None:
    from jaxnet.levels import search

    every = search.candidates
    monkeypatch.setattr(search, "candidates", lambda *a: dict(list(every(*a).items())[:3]))
    doc = tmp_path / "levels.md"
    config = level_transformer.Config(
        **{**SMALL, "width": 16}, arms=("gluing",), rates=(1e-3, 4e-3), trial_seeds=1, doc=str(doc),
        extras=("search", "compression"), out=str(tmp_path / "run"),
    )  # fmt: skip
    found = level_transformer.CONTROLS.main(config)
    arms = found["groups"]["arms"]
    assert list(arms) == ["plain", "gluing"] and all(len(run["tried"]) == 2 for run in arms.values())
    assert arms["plain"]["fair"] == 1 and arms["gluing"]["fair"] < 1
    assert abs(arms["gluing"]["cost"]["params"] / arms["plain"]["cost"]["params"] - 1) <= 0.01
    assert {c.verdict for c in found["comparisons"]} == {"no verdict", "not judged"}
    assert len(found["groups"]["compression"]["compression"]["arms"]) == 10
    assert set(found["groups"]["search"]["search"]["arms"]) == {
        "halving",
        "random search",
        "structural score",
    }
    text = doc.read_text()
    assert "## Search" in text and "## Smaller decoders" in text and (tmp_path / "levels.png").exists()
