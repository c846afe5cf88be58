"""The most accurate perceptrons for their number of weights: the best honest recipes, line by line.

Every line is a network, a number of weights and a rule of counting. Recipes were chosen on validation
samples; the test samples are read once, at the end. Two dense networks teach where a recipe says so. Any
run can be killed and continued with --resume; lines can be runs of their own.

    python -m experiments.headline --lines c --num-seeds 2 --epochs 20
    python -m experiments.headline --resume --doc docs/results/headline.md --export checkpoints/headline
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import _headline_lines as table
from experiments._headline_report import draw_curve, values
from experiments._method_run import ARM, ArmConfig, Networks, settle_arm
from jaxnet import lab
from jaxnet.allocation import dense_counts
from jaxnet.errors import InputError
from jaxnet.files import json_safe, user_path, write_json
from jaxnet.lab import changed, option
from jaxnet.lab.shown import number, percent

ABLATED = ("b", "c")
"""Lines whose recipes are taken apart."""


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags):
    """The best recipes at each number of weights."""

    dataset: str = changed(lab.DataFlags, "dataset", "mnist")
    data_dir: str | None = changed(lab.DataFlags, "data_dir")
    lines: tuple[str, ...] = option(
        ("all",), f"all, or names: {', '.join(table.LINES)} (c-plain is c', e all three, e1, e2, e5 one)"
    )
    weights: int | None = option(None, "of every line, instead of its own number", none="auto", least=1)
    num_seeds: int = option(5, "networks of every line", least=1)
    seed: int = option(0, "number of the first; those of ablations and teachers come after", least=0)
    epochs: int | None = option(None, "of training; auto: as the recipe says", "epochs", none="auto", least=1)
    every: int = option(100, "steps between two changes", "steps", least=1)
    batch_size: int = changed(lab.BatchFlags, "batch_size", 128)
    teachers: int = option(2, "dense networks that teach together; 0: none, and no line is taught", least=0)
    teacher_hidden: tuple[int, ...] = option((512, 512), "hidden layers of the teachers")
    teacher_epochs: int = option(60, "of the teachers", "epochs", least=1)
    ablation_seeds: int = option(3, "networks of every ablation, on validation samples; 0: none", least=0)
    ablation_epochs: int | None = option(60, "of the ablations; auto: as the recipe", none="auto", least=1)
    curve: tuple[float, ...] = option(
        (0.01, 0.03, 0.05), "further densities of line c' for the curve; with commas between", fraction=True
    )
    export: str | None = option(
        None, "folder for the best network of every line (.npz, NumPy alone reads it)"
    )
    out: str = option("checkpoints/headline_runs", "folder for results, a run in a folder each")

    def check(self) -> None:
        """Raises InputError for lines that there are not, and folders that cannot be written."""
        table.names_of(self.lines)
        if not self.teacher_hidden or min(self.teacher_hidden) < 1:
            raise InputError(f"--teacher-hidden must be positive sizes: {list(self.teacher_hidden)}")
        if self.export is not None and not user_path(self.export).parent.is_dir():
            raise InputError(f"--export: the folder {user_path(self.export).parent} does not exist")
        super().check()


def arm_config(
    config: Config, name: str, recipe: table.Recipe, sizes: tuple[int, ...], weights: int, **more: Any
) -> ArmConfig:
    """The run of a recipe, in a folder called after it."""
    taught = config.teachers if recipe.taught else 0
    values: dict[str, Any] = {
        **lab.run.arm_values(config, name.replace("'", " plain")),
        **{field: getattr(config, field) for field in ("num_seeds", "seed", "every", "batch_size")},
        **{field: getattr(recipe, field) for field in ("arm", "weight_decay", "average", "allocation")},
        "sizes": sizes,
        "density": min(1.0, (weights + 0.5) / sum(dense_counts(sizes))),
        "epochs": config.epochs or recipe.epochs,
        "rates": (recipe.rate,),
        "lr": None,
        "augment": table.AUGMENT if recipe.augment else None,
        "taught": taught,
    }
    return ArmConfig(**{**values, **more})


@dataclass(frozen=True)
class Planned:
    """A run: its group, its name, its configuration, and the line it belongs to."""

    group: str
    name: str
    arm: ArmConfig
    line: table.Line


def plan(config: Config, dataset: Any) -> list[Planned]:
    """All runs, in order: lines, the rest of the curve, ablations; InputError where one cannot work."""
    names, found = table.names_of(config.lines), list[Planned]()

    def add(group: str, name: str, line: table.Line, recipe: table.Recipe, **more: Any) -> None:
        sizes = line.sizes(dataset.num_features, dataset.num_classes)
        weights = line.weights(sizes, config.weights)
        found.append(Planned(group, name, arm_config(config, name, recipe, sizes, weights, **more), line))

    for name in names:
        add("lines", f"line {name}", table.LINES[name], table.LINES[name].recipe)
    if "c'" in names:
        for share in config.curve:
            line = dataclasses.replace(table.LINES["c'"], share=share)
            if config.weights is None and share != table.LINES["c'"].share:
                add("curve", f"c' at {share:g}", line, line.recipe)
    if config.ablation_seeds:
        other = {"num_seeds": config.ablation_seeds, "seed": config.seed + config.num_seeds, "judged": False}
        for name in (one for one in ABLATED if one in names):
            variants = table.ablations(table.LINES[name])
            for what, recipe in variants.items():
                half = recipe.epochs < table.LINES[name].recipe.epochs
                epochs = config.epochs or config.ablation_epochs or table.LINES[name].recipe.epochs
                more = {"epochs": max(1, epochs // 2) if half else epochs}
                add("ablations", f"{name}: {what}", table.LINES[name], recipe, **other, **more)
    for one in found:  # wrong input leaves nothing behind
        settle_arm(one.arm, dataset)
        lab.run.augmentation(one.arm, dataset)
    return found


def teach(config: Config, dataset: Any) -> tuple[dict[str, Any], Networks]:
    """Trains the teachers: their summary, and them."""
    sizes = (dataset.num_features, *config.teacher_hidden, dataset.num_classes)
    recipe = table.Recipe("dense", config.teacher_epochs, taught=False, rate=1e-3)
    seed = config.seed + config.num_seeds + config.ablation_seeds
    more: dict[str, Any] = {"num_seeds": config.teachers, "seed": seed, "epochs": config.teacher_epochs}
    more |= {"augment": ("crop", "affine"), "judged": False}
    arm = arm_config(config, "teachers", recipe, sizes, sum(dense_counts(sizes)), **more)
    summary, found = ARM.compute(arm, report=lambda line: None, dataset=dataset)
    (taught,) = summary["arms"].values()
    print(f"teachers: {percent(taught['aggregate']['watched']['mean'])} % of validation samples", flush=True)
    return summary, found.shared


def run_all(config: Config) -> dict[str, dict[str, Any]]:
    """Trains the teachers, then every run; writes ``summary.json`` after each of them."""
    dataset = lab.run.load(ArmConfig(dataset=config.dataset, data_dir=config.data_dir))
    planned, groups = plan(config, dataset), dict[str, dict[str, Any]]()
    teachers, taught = None, None
    if any(one.arm.taught for one in planned):
        taught, teachers = teach(config, dataset)
    for one in planned:
        given = teachers if one.arm.taught else None
        summary, found = ARM.compute(one.arm, report=lambda line: None, dataset=dataset, given=given)
        groups.setdefault(one.group, {})[one.name] = summary
        (arm,) = summary["arms"].values()
        measure = "accuracy" if one.arm.judged else "watched"
        part = "test" if one.arm.judged else "validation"
        weights = number(arm["aggregate"]["weights"]["mean"], ",.0f")
        mean = percent(arm["aggregate"][measure]["mean"])
        print(f"{one.name}: {mean} % of {part} samples, {weights} weights", flush=True)
        if config.export is not None and one.group == "lines":
            write_network(config, one, summary, found.shared, dataset)
        write_summary(config, groups, taught)
    return groups


def line_entry(name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """A line of ``summary.json``."""
    (arm,) = summary["arms"].values()
    accuracy, flags = arm["aggregate"]["accuracy"], summary["config"]
    timing = summary["timing"]
    return {
        "name": name.removeprefix("line "),
        "sizes": summary["sizes"],
        "max_nonzeros": max(summary["most_weights"], *(seed["weights"] for seed in arm["seeds"])),
        "final_nonzeros": max(seed["weights"] for seed in arm["seeds"]),
        "counted": table.LINES[name.removeprefix("line ")].counted,
        "augmentation": list(flags.get("augment") or ()),
        "distillation": int(flags.get("taught") or 0),
        "epochs": summary["epochs"],
        "seconds": timing["compile_seconds"] + timing["run_seconds"],
        "test_accuracy": {key: accuracy[key] for key in ("mean", "std", "ci95", "n")},
        "method": flags["arm"],
    }


def write_summary(config: Config, groups: Mapping[str, Any], taught: Mapping[str, Any] | None) -> None:
    """``summary.json`` in the folder of all runs: what is known so far."""
    lines = [line_entry(name, summary) for name, summary in groups.get("lines", {}).items()]
    found: dict[str, Any] = {"experiment": "headline", "config": dataclasses.asdict(config), "lines": lines}
    found["provenance"] = next(iter(next(iter(groups.values())).values()))["provenance"]
    if taught is not None:
        (arm,) = taught["arms"].values()
        found["teachers"] = {
            "sizes": taught["sizes"],
            "epochs": taught["epochs"],
            "seconds": taught["timing"]["compile_seconds"] + taught["timing"]["run_seconds"],
            "validation_accuracy": [seed["watched"] for seed in arm["seeds"]],
        }
    write_json(user_path(config.out) / "summary.json", json_safe(found))


def write_network(
    config: Config, one: Planned, summary: Mapping[str, Any], networks: Networks, dataset: Any
) -> None:
    """The network of a line that is best on validation samples, as a file."""
    from jaxnet.portable import portable, save_portable

    assert config.export is not None
    folder = user_path(config.export)
    folder.mkdir(exist_ok=True)
    (arm,) = summary["arms"].values()
    seed = arm["seeds"][int(networks.watched.argmax())]
    facts = {
        "line": one.line.name,
        "dataset": dataset.name,
        "weights": seed["weights"],
        "test_accuracy": seed["accuracy"],
        "seed": seed["seed"],
        **{key: summary[key] for key in ("epochs", "most_weights")},
        **{key: summary["config"].get(key) for key in ("arm", "augment", "taught")},
    }
    network = portable(*networks.best(), one.arm.activation or "relu", dataset, facts)
    name = one.line.name.replace("'", "-plain").replace(" %", "").replace(" ", "")
    save_portable(folder / f"{dataset.name}-{name}.npz", network)


DOCUMENT = lab.Document(Path(__file__).parent / "reports" / "headline.md", values, {"": draw_curve})
CONTROLS = lab.Controls("headline", Config, run_all, DOCUMENT)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
