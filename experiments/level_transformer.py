"""Ideas of levels against a plain transformer: equal parameters, equal products, equal tuning trials.

Every arm of :data:`jaxnet.levels.ARMS` is trained on the same texts and suites as the plain decoder, each
with its own best rate, and compared after as many steps and after as many products of matrices.

    python -m experiments.level_transformer
    python -m experiments.level_transformer --num-seeds 12 --steps 2000 --doc docs/results/levels.md
    python -m experiments.level_transformer --num-seeds 12 --steps 2000 --arms gluing,defect --resume
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _level_extra as extra
from experiments import _level_shown as shown
from experiments._level_arm import (
    ARM,
    TESTED,
    ArmConfig,
    TextFlags,
    load_text,
    make_spec,
    settle_arm,
    vocab_of,
)
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.files import user_path, write_json
from jaxnet.lab import changed, option
from jaxnet.lab.flags import settled

BASELINE = "plain"
REVNETS = ("revnet", "coupling")
"""The other baseline: the first of these that there is."""

LONG = 1000
"""Steps from which on what is auto is that of the published runs."""

MOST_LOOKS = 2.0
"""An arm of cheap steps is trained for at most so many times the steps of the plain one."""

FEW = (BASELINE, *REVNETS, "gluing", "level rates")
"""Arms of a short run."""

PRIMARY = ("loss", "loss_at_equal_flops", "steps_share")
ASIDE = ("suites", "disagreement")
LESS_IS_BETTER = (*PRIMARY, "disagreement")


@dataclass(frozen=True)
class Config(lab.DocumentFlags, TextFlags):
    """Ideas of levels against a plain transformer."""

    arms: tuple[str, ...] | None = option(
        None, f"all, or names; auto: all from {LONG:,} steps on, else the baselines and two", none="auto"
    )
    extras: tuple[str, ...] | None = option(
        None, f"none, or some of {', '.join(extra.EXTRAS)}; auto: all from {LONG:,} steps on", none="auto"
    )
    steps: int = option(40, "of training", "steps", least=1)
    looks: int = option(20, "at the validation text; steps are a multiple of them", least=1)
    length: int | None = option(None, f"of a sequence; auto: 64 from {LONG:,} steps on, else 40", none="auto")
    width: int | None = option(
        None, f"of the plain decoder's stream; auto: 56 from {LONG:,} steps on, else 16", none="auto"
    )
    layers: int | None = option(None, f"blocks; auto: 4 from {LONG:,} steps on, else 2", none="auto")
    rates: tuple[float, ...] | None = option(
        None,
        "learning rates to choose from on the validation text, ascending; an arm with a dial tries as many "
        f"pairs of rate and dial; auto: 1e-3,2e-3,4e-3,8e-3 from {LONG:,} steps on, else 4e-3",
        none="auto",
    )
    trial_seeds: int = option(2, "other networks, for the trials", least=1)
    trial_share: float = option(0.5, "of the steps, that a trial lasts", fraction=True)
    tested: int | None = option(
        None, f"test windows, sentences of every suite; auto: {TESTED} from {LONG:,} steps on", none="auto"
    )
    num_seeds: int = changed(lab.SeedFlags, "num_seeds", 2, "networks of every arm; verdicts need 12")
    out: str = changed(lab.RunFlags, "out", "checkpoints/level_transformer")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        if self.rates is not None and (not self.rates or sorted(set(self.rates)) != list(self.rates)):
            raise InputError(f"--rates must be different numbers, ascending: {list(self.rates)}")
        if self.rates is not None and min(self.rates) <= 0:
            raise InputError(f"--rates must be above 0: {list(self.rates)}")
        if self.steps % self.looks:
            raise InputError(f"--steps must be a multiple of --looks: {self.steps}, {self.looks}")
        for one in self.extras or ():
            if one not in (*extra.EXTRAS, "none"):
                raise InputError(f"--extras: {one!r} is none of none, {', '.join(extra.EXTRAS)}")
        super().check()


def settle(config: Config) -> Config:
    """Decides what is auto by the length of the run."""
    long = config.steps >= LONG
    values: dict[str, Any] = {"length": 64 if long else 40, "width": 56 if long else 16}
    values |= {
        "layers": 4 if long else 2,
        "tested": TESTED if long else 64,
        "arms": ("all",) if long else FEW,
    }
    values |= {"rates": (1e-3, 2e-3, 4e-3, 8e-3) if long else (4e-3,)}
    values |= {"extras": extra.EXTRAS if long else ("none",)}
    return settled(config, values)


def names_of(asked: Sequence[str]) -> tuple[str, ...]:
    """The arms that are asked for, the plain one first; InputError for one that is not known."""
    from jaxnet.levels import ARMS

    names = [name for one in asked for name in (ARMS if one == "all" else (one,))]
    for name in names:
        if name not in ARMS:
            raise InputError(f"--arms: unknown arm {name!r}: choose from all, {', '.join(ARMS)}")
    return tuple(name for name in ARMS if name in names or name == BASELINE)


def arm_config(config: Config, spec: Any, name: str, **more: Any) -> ArmConfig:
    """The run of one arm at one decoder, in a folder of its own."""
    shared = {f.name for f in dataclasses.fields(ArmConfig)} & {f.name for f in dataclasses.fields(Config)}
    values = {field: getattr(config, field) for field in shared - {"rates"}}
    values |= {"width": spec.width, "hidden": spec.hidden, "arm": name, **more}
    folder = "".join(c if c.isalnum() else "-" for c in values.pop("folder", name).lower())
    return ArmConfig(**{**values, "out": f"{config.out}/{folder}"})


def points_of(
    rates: Sequence[float], dials: Sequence[float], best: float | None
) -> list[tuple[float, float]]:
    """The pairs of rate and dial that an arm tries: as many as there are rates.

    An arm without a dial tries all rates; with one, every value at some rates, from the plain decoder's best
    outwards.

    >>> points_of((1, 2, 4, 8), (1.0,), 2)
    [(1, 1.0), (2, 1.0), (4, 1.0), (8, 1.0)]
    >>> points_of((1, 2, 4, 8), (0.1, 1.0), 4)
    [(2, 0.1), (4, 0.1), (2, 1.0), (4, 1.0)]
    """
    count = max(1, len(rates) // len(dials))
    place = len(rates) - 1 if best is None else list(rates).index(best)
    order = sorted(rates, key=lambda rate: (abs(list(rates).index(rate) - place), rate))
    chosen = sorted(order[:count])
    return [(rate, dial) for dial in dials for rate in chosen][: max(1, len(rates))]


def tuned(summary: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """What every point gave in the trials, and the place of the best: the least loss without divergence."""
    tried = []
    for rate, strength, arm in zip(
        summary["config"]["rates"], summary["config"]["strengths"], summary["arms"].values(), strict=True
    ):
        found = arm["aggregate"]["val"]
        loss = None if any(seed["diverged"] for seed in arm["seeds"]) else found["mean"]
        tried.append({"rate": rate, "strength": strength, "loss": loss})
    losses = [np.inf if t["loss"] is None else t["loss"] for t in tried]
    return tried, int(np.argmin(losses))


def run_all(config: Config) -> dict[str, dict[str, Any]]:
    """Tunes and trains, arm by arm; the summary of every arm."""
    from experiments._level_measures import Cost
    from jaxnet.levels import ARMS, matched, num_params

    names, text = names_of(config.arms or ()), load_text(config)
    dataset: Any = text  # what a study needs of its data: a name and a fingerprint
    asked = make_spec(config, vocab_of(text))
    target = num_params(ARMS[BASELINE].module(asked))
    specs = {}
    for name in names:  # wrong input leaves nothing behind
        try:
            specs[name] = asked if name == BASELINE else matched(ARMS[name].module, asked, target)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from None
        settle_arm(arm_config(config, specs[name], name), text)
    rates, found, best, kept = config.rates or (), dict[str, Any](), None, None
    plain = Cost.of(arm_config(config, asked, BASELINE), ARMS[BASELINE], asked).flops
    for name in names:
        arm, points = ARMS[name], points_of(rates, ARMS[name].dials, best)
        tried, place = list[dict[str, Any]](), 0
        given = dict(zip(("rates", "strengths"), zip(*points, strict=True), strict=True))
        if len(points) > 1:
            looks = max(1, round(config.trial_share * config.looks))
            trial = {"steps": config.steps // config.looks * looks, "looks": looks, "judged": False}
            trial |= {"num_seeds": config.trial_seeds, "seed": config.seed + config.num_seeds}
            run = arm_config(config, specs[name], name, folder=f"{name} trials", **trial, **given)
            tried, place = tuned(ARM.compute(run, report=lambda line: None, dataset=dataset)[0])
        rate, strength = points[place]
        fair = plain / Cost.of(arm_config(config, specs[name], name), arm, specs[name]).flops
        fair_looks = max(1.0, min(fair, MOST_LOOKS) * config.looks)
        more = {"rates": (rate,), "strengths": (strength,), "fair_looks": fair_looks}
        run = arm_config(config, specs[name], name, **more)
        summary, ended = ARM.compute(run, report=lambda line: None, dataset=dataset)
        if name == BASELINE:
            best, kept = rate, ended.shared
        found[name] = {
            **summary,
            "tried": tried,
            "point": [rate, strength],
            "fair": fair_looks / config.looks,
        }
        _name_arm(found[name], name)
        print(shown.arm_line(name, found[name]), flush=True)
    shown.add_steps(found, BASELINE, config.looks)
    return {"arms": found, **extra.run_extras(config, arm_config, asked, dataset, kept, best or rates[0])}


def _name_arm(summary: dict[str, Any], name: str) -> None:
    """The one arm of a run is called after the arm, whatever its rate."""
    (arm,) = summary["arms"].values()
    summary["arms"] = {name: arm}


def questions(config: Config, names: Sequence[str], equal: Sequence[str] = ()) -> list[lab.Question]:
    """Every arm against the plain decoder, and (with intervals alone) against the reversible one.

    A step of those in ``equal`` costs what a plain one costs: their loss at equal FLOPs is that at equal
    steps, and is asked for once.
    """
    asked = []
    reversible = next((name for name in REVNETS if name in names), None)
    for rival in (BASELINE, reversible):
        for name in names:
            if rival is None or name == rival or (rival != BASELINE and name == BASELINE):
                continue
            for measure in (*PRIMARY, *ASIDE):
                if measure == "loss_at_equal_flops" and rival == BASELINE and name in equal:
                    continue
                primary = rival == BASELINE and measure in PRIMARY
                better = measure not in LESS_IS_BETTER
                asked.append(lab.Question(name, rival, measure, primary=primary, higher_is_better=better))
    return asked


def add_extras(path: Path, groups: Mapping[str, Any]) -> None:
    """Adds to the numbers beside a document what searches and smaller decoders say, and Kendall's tau."""
    found = json.loads(path.read_text(encoding="utf-8"))
    for group in ("search", "compression"):
        for summary in groups.get(group, {}).values():
            found["comparisons"] += [{**c, "where": group} for c in summary["comparisons"]]
            found |= {"tau": summary["tau"]} if "tau" in summary else {}
    write_json(path, found)


class Levels(lab.Controls[Config]):
    """The comparison; losses are in nats, so that it has tables of its own."""

    def main(self, config: Config) -> dict[str, Any]:
        """Runs all arms, compares them, prints and writes what came out."""
        from jaxnet.lab.compare import compare
        from jaxnet.lab.shown import diverged_of
        from jaxnet.lab.summary import every_arm
        from jaxnet.lab.terminal import print_table
        from jaxnet.programs import prepare_jax

        prepare_jax()
        config = settle(config)
        groups = self.run(config)
        arms = every_arm({"arms": groups["arms"]})
        equal = [name for name, s in groups["arms"].items() if s["fair"] == 1]
        comparisons = compare(arms, questions(config, list(groups["arms"]), equal))
        print_table("arms, means over seeds", *shown.arm_table(groups["arms"]))
        if comparisons:
            print_table("paired seeds, arm minus rival", *shown.difference_table(comparisons))
        for table in shown.extra_tables(groups):
            print_table(*table)
        if line := diverged_of(arms):
            print(line)
        self.write(config, groups, comparisons)
        if config.doc is not None:
            add_extras(user_path(config.doc).with_suffix(".json"), groups)
        return {"groups": groups, "comparisons": comparisons}


DOCUMENT = lab.Document(
    Path(__file__).parent / "reports" / "levels.md", shown.values, {"": shown.draw_curves}
)
CONTROLS = Levels("level_transformer", Config, run_all, DOCUMENT)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
