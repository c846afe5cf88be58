"""Half of ``experiments.structure_report``: what of a scaffold predicts its accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import jaxnet
from jaxnet import lab
from jaxnet.lab import changed, option

LAYERED = ("participation", "energy", "marchenko-pastur")
"""Effective ranks that are given layer by layer."""

TOLERANCE = 1e-5
"""Of ranks in this report, which are computed in float32: relative to the largest singular value."""

BASE = "live inputs"
"""The predictor whose company the others must prove themselves in."""


@dataclass(frozen=True)
class PredictConfig(lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.NetworkFlags, lab.DataFlags):
    """Scaffolds of one density, looked at before training and trained."""

    epochs: int = option(10, "of training", "epochs", least=2)
    followed: int = option(16, "networks whose structure is followed through training", least=1)
    extrema_samples: int = option(3000, "training samples watched for extrema", "samples", least=2)
    lr: float = changed(lab.TrainFlags, "lr", 1e-2)
    batch_size: int = changed(lab.TrainFlags, "batch_size", 128)
    out: str = changed(lab.RunFlags, "out", "checkpoints/structure_predict")


def spec_of(config: Any, dataset: jaxnet.data.Dataset, hidden: tuple[int, ...] = (128,)) -> Any:
    """The network of a configuration."""
    fields = {name: getattr(config, name) for name in ("density", "activation", "allocation")}
    return lab.run.network_spec(dataset, config.sizes, hidden, **fields, init=lab.run.init_rule(config))


def settle(config: PredictConfig, dataset: jaxnet.data.Dataset) -> PredictConfig:
    """What is wrong is said before anything is written."""
    lab.run.check_samples(config, dataset)
    return lab.run.resolve_kernel(config, spec_of(config, dataset), config.num_seeds)


def described(matrices: Any) -> dict[str, Any]:
    """Ranks and directions of the layers of one network, leaves ``(layer,)``; in float32."""
    import jax.numpy as jnp

    from jaxnet import reach

    found: list[dict[str, Any]] = []
    for matrix in matrices:
        rank = reach.rank_of(matrix, TOLERANCE)
        seen = reach.directions(matrix)
        used = matrix.shape[0] - seen.dead_rows, matrix.shape[1] - seen.dead_cols
        here = {rule: reach.effective_rank(rank.singular_values, rule, shape=used) for rule in LAYERED}
        units = {name: getattr(seen, name) for name in ("dead_rows", "dead_cols", "duplicates")}
        found.append({"rank": rank.rank, "gap": rank.gap, **here, **units})
    layers = {name: jnp.stack([layer[name] for layer in found]) for name in found[0]}
    bars = reach.bars_of(matrices, TOLERANCE)
    return {**layers, "bars": bars.bars, "smallest_gap": bars.gap}


def run_predict(run: lab.Run[PredictConfig]) -> lab.Found:
    """Draws, looks, trains an epoch, looks, trains on, looks, judges."""
    import jax
    import optax

    from jaxnet import reach, signals

    config, spec = run.config, spec_of(run.config, run.dataset)
    task = run.task(spec)
    optimizer = optax.adam(config.lr)

    def start(key: Any, before: Any) -> Any:
        network = jaxnet.init(spec, **jaxnet.keys.network_keys(key))
        return jaxnet.init_state(jaxnet.Net.of(*network, optimizer))

    stages = [
        lab.Stage("drawn", 0, task, start, judged_at_start=True),
        lab.Stage("first", 1, task, lambda key, before: before, order=0),
        lab.Stage("rest", config.epochs - 1, task, lambda key, before: before, order=1),
    ]
    trained = lab.train_stages(run, stages)
    states = {name: trained[name].kept for name in ("drawn", "first", "rest")}
    drawn, last = states["drawn"], states["rest"]

    def look(state: Any, split: Any) -> dict[str, Any]:
        net = state.net
        units = signals.find(task, net.params, net.structure, split, "original", values="post")
        hidden = sum(u.high.shape[-1] for u in units)
        alive = reach.live(net.structure)
        size = sum(
            jax.numpy.sum(jax.numpy.where(mask, jax.numpy.abs(layer.weight), 0.0))
            for mask, layer in zip(alive.weights, net.params.scaffold, strict=True)
        )
        layers = described(reach.layer_matrices(net.params, net.structure))
        return {
            **{f"live {name}": value for name, value in vars(alive.counts).items()},
            "extrema score": sum(jax.numpy.sum(u.high) + jax.numpy.sum(u.low) for u in units) / hidden,
            "magnitude": size,
            "rank of all layers": layers["bars"][0, -1],
            "participation": layers["participation"][0],
        }

    watched = run.split("train", slice(config.extrema_samples))
    seen = jax.tree.map(np.asarray, run.over_seeds("the scaffolds", look, drawn, watched))
    last_layer = len(spec.sizes) - 1
    structures = [jaxnet.trees.take(drawn.net.structure, k) for k in range(config.num_seeds)]
    paths = np.array([reach.disjoint_paths(structure, 0, last_layer) for structure in structures])
    accuracy, halves = run.judge(task, last.best_params, last.net.structure, run.split("test"))
    rows = {row["seed"]: row["accuracy"] for row in trained["first"].rows}
    columns = {**seen, "disjoint paths": paths, "after one epoch": np.array([rows[s] for s in run.seeds])}
    lost = np.asarray(last.diverged)
    predicted = jaxnet.prediction.predictors(columns, np.where(lost, np.nan, accuracy), BASE)
    measures = {name.replace(" ", "_"): np.asarray(column, float) for name, column in columns.items()}
    entries = lab.entries(
        run.seeds, ("scaffolds",), diverged=lost, accuracy=accuracy, accuracy_halves=halves, **measures
    )
    followed = {name: jax.tree.map(lambda leaf: leaf[: config.followed], s) for name, s in states.items()}
    extra = {
        "sizes": list(spec.sizes),
        "kernel": config.kernel,
        "predictors": predicted,
        "along": along(run, followed, [*itertools.pairwise(followed)]),
        "all_classes": float(np.mean(seen["live outputs"] == spec.sizes[-1])),
        "rank_is_paths": float(np.mean(paths == seen["rank of all layers"])),
    }
    return lab.Found(entries, extra=extra)


def along(run: lab.Run[Any], states: Any, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Means over networks of the structure at every checkpoint, and of what changed in pairs of them."""
    import jax

    from jaxnet import reach

    def matrices(state: Any) -> Any:
        return reach.layer_matrices(state.net.params, state.net.structure)

    layers = {name: run.over_seeds(f"the matrices of {name}", matrices, s) for name, s in states.items()}
    shown: dict[str, Any] = {}
    for name, here in layers.items():
        found = run.over_seeds(f"the ranks of {name}", described, here)
        gaps = np.asarray(found.pop("smallest_gap"))
        del found["gap"]
        shown[name] = jax.tree.map(lambda leaf: np.mean(np.asarray(leaf, float), axis=0).tolist(), found)
        shown[name] |= {"smallest_gap": float(gaps.min()), "ambiguous": int(np.sum(gaps < reach.LEAST_GAP))}
    changes = {}
    for before, after in pairs:
        both = enumerate(zip(layers[before], layers[after], strict=True), 1)
        what = f"the change from {before} to {after}, layer"
        found = [run.over_seeds(f"{what} {k}", reach.change_between, a, b) for k, (a, b) in both]
        changes[f"{before} to {after}"] = [
            {name: float(np.mean(np.asarray(value))) for name, value in vars(one).items()} for one in found
        ]
    return {"checkpoints": shown, "changes": changes}


PREDICT = lab.Study("structure_predict", PredictConfig, run_predict, settle=settle)
