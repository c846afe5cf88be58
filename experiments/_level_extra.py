"""What ``experiments.level_transformer`` asks besides its arms: a search, and smaller decoders."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from experiments._level_arm import ARM, ArmConfig
from jaxnet import lab
from jaxnet.lab import option

EXTRAS = ("search", "compression")
"""Names, as ``--extras`` has them."""

LOOKS = 8
"""Of a candidate of the search."""

WAYS = ("magnitude", "magnitude + refit", "learned masks", "learned masks + refit", "linear bottleneck")
"""Ways to a smaller decoder."""

FITTED, LEARNING = 64, 100
"""Sequences that layers are fitted to; steps in which masks are learned."""


@dataclass(frozen=True)
class CompressConfig(ArmConfig):
    """The plain arm's decoders, made smaller."""

    ratios: tuple[float, ...] = option((0.5, 0.8), "of the weights of the blocks, that go", fraction=True)


def run_compression(run: lab.Run[CompressConfig], given: Any) -> lab.Found:
    """Test loss of every way at every ratio; ``given`` is what the plain arm ended with."""
    import jax
    import jax.numpy as jnp

    from experiments._level_measures import spread_over
    from experiments._rounds import Together, quickly
    from jaxnet.data.batches import epoch_batches
    from jaxnet.keys import METHOD, purpose
    from jaxnet.levels import compression as way
    from jaxnet.train import evaluate
    from jaxnet.train.batch import batch_loss

    config, task, stuff = run.config, given["task"], given["stuff"]
    together, size = Together(run, len(run.seeds)), config.batch_size
    how, module = quickly(given["params_count"]), task.model.module
    index, _ = epoch_batches(stuff.train.text.size, size, run.key_data)
    index = index[jnp.arange(LEARNING) % len(index)]
    x, y = jax.vmap(stuff.train.text.batch)(index)
    text = stuff.train.text.batch(jnp.asarray(spread_over(stuff.train.text.size, FITTED)))[0]
    test = jax.tree.map(lambda leaf: leaf[0], stuff.judged)

    def loss(structure: Any, params: Any, batch: Any) -> Any:
        x, y = batch
        return batch_loss(task, params, structure, None, x, y, jnp.ones(size), None)[1][0]

    def smaller(ratio: float, params: Any, key: Any, text: Any, batches: Any, test: Any) -> Any:
        seen = way.grams(module, params, text)
        masks = way.by_magnitude(params, seen, ratio)
        learned = way.learned_masks(partial(loss, {}), params, seen, ratio, batches, purpose(key, METHOD))
        made = [way.masked(params, masks), way.refitted(params, masks, seen), way.masked(params, learned)]
        made += [way.refitted(params, learned, seen), way.bottleneck(params, seen, ratio)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
        return jax.lax.map(lambda one: evaluate(task, one, {}, test).loss, stacked)

    arms = dict[str, Any]()
    for ratio in config.ratios:
        args = given["params"], run.keys, text, (x, y), test
        each = True, True, False, False, False
        found = np.asarray(together(f"ratio {ratio:g}", partial(smaller, ratio), each, *args, **how), float)
        for place, name in enumerate(WAYS):
            values = found[:, place]
            arms |= lab.entries(
                list(run.seeds), [f"{ratio:g}: {name}"], diverged=~np.isfinite(values), loss=values
            )
    asked = []
    for ratio in config.ratios:
        for first, second in ((4, 1), (3, 1), (2, 0)):
            pair = f"{ratio:g}: {WAYS[first]}", f"{ratio:g}: {WAYS[second]}"
            asked.append(lab.Question(*pair, "loss", where=f"{ratio:g}", higher_is_better=False))
    return lab.Found(arms, asked, {"kernel": config.kernel})


COMPRESS: lab.Study[CompressConfig] = lab.Study("level_transformer", CompressConfig, run_compression)


def run_extras(
    config: Any, arm_config: Any, spec: Any, dataset: Any, plain: Any, rate: float
) -> dict[str, dict[str, Any]]:
    """Groups of summaries beside that of the arms; ``plain`` is what the plain arm ended with."""
    found = dict[str, dict[str, Any]]()
    for name in config.extras:
        if name == "search":
            found[name] = {"search": search(config, arm_config, spec, dataset, rate)}
        if name == "compression":
            base = arm_config(config, spec, "plain", rates=(rate,), folder="compression")
            values = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
            run = CompressConfig(**values)
            summary, _ = COMPRESS.compute(run, report=lambda line: None, dataset=dataset, given=plain)
            found[name] = {"compression": summary}
    return found


def search(config: Any, arm_config: Any, spec: Any, dataset: Any, rate: float) -> dict[str, Any]:
    """Trains every candidate; what halving, random search and the structural score would have found.

    Every candidate is trained for the whole length, so that every search is known exactly: halving looks
    at the curves only as far as it would have trained, and the others get as many looks as it took.
    """
    import jax
    import jax.numpy as jnp

    from jaxnet.keys import INIT, keys_of, purpose
    from jaxnet.lab.compare import compare
    from jaxnet.lab.summary import arm_summary
    from jaxnet.levels import num_params
    from jaxnet.levels import search as ways
    from jaxnet.transformer import Decoder, model

    specs = ways.candidates(spec, num_params(Decoder(spec)))
    every = max(1, round(config.trial_share * config.steps / LOOKS))
    seeds = list(range(config.seed, config.seed + config.num_seeds))
    curves, before, runs = [], [], list[Any]()
    for name, one in specs.items():
        words = tuple("full" if w is None else str(w) for w in one.windows)
        more: dict[str, Any] = {"layers": one.layers, "heads": one.heads, "windows": words, "rates": (rate,)}
        more |= {"steps": every * LOOKS, "looks": LOOKS, "judged": False, "folder": f"search {name}"}
        run = arm_config(config, one, "plain", **more)
        runs.append(ARM.compute(run, report=lambda line: None, dataset=dataset)[0])
        (arm,) = runs[-1]["arms"].values()
        curves.append([s["curve"] for s in arm["seeds"]])

        def score(key: Any, one: Any = one) -> Any:
            params, _ = model(one).init(jnp.zeros((1, 2), jnp.int32), key=purpose(key, INIT))
            return ways.structure_score(params)

        before.append(np.asarray(jax.jit(jax.vmap(score))(keys_of(seeds)), float))
    losses, scores = (
        np.asarray(curves, float),
        np.asarray(before),
    )  # (candidate, seed, look), (candidate, seed)
    losses = np.where(np.isfinite(losses), losses, np.inf)
    entries: dict[str, list[dict[str, Any]]] = {"halving": [], "random search": [], "structural score": []}
    for place, seed in enumerate(seeds):
        final, best = losses[:, place, -1], float(np.min(losses[:, place, -1]))
        chosen, looks = ways.halving(losses[:, place])
        number = max(1, looks // LOOKS)
        first = np.argsort(-scores[:, place], kind="stable")[:number]
        loss = {"halving": final[chosen], "random search": ways.expected_best(final, number)}
        loss["structural score"] = np.min(final[first])
        for name, value in loss.items():
            entries[name].append(
                {"seed": seed, "diverged": False, "loss": float(value), "regret": float(value) - best}
            )
    mean = losses.mean(1)
    tau = {
        "structural score": ways.kendall(scores.mean(1), mean[:, -1]),
        "loss at the first look": ways.kendall(-mean[:, 0], mean[:, -1]),
        "loss at half of the looks": ways.kendall(-mean[:, LOOKS // 2 - 1], mean[:, -1]),
    }
    arms = {name: arm_summary(found) for name, found in entries.items()}
    pairs = ("halving", "random search"), ("structural score", "random search")
    comparisons = compare(arms, [lab.Question(*pair, "loss", higher_is_better=False) for pair in pairs])
    table = [
        {"name": name, "width": one.width, "loss": float(mean[k, -1]), "score": float(scores[k].mean())}
        for k, (name, one) in enumerate(specs.items())
    ]
    timing = {key: sum(r["timing"][key] for r in runs) for key in ("compile_seconds", "run_seconds")}
    told = {key: runs[0][key] for key in ("config", "provenance")}
    answers = [c.as_dict() for c in comparisons]
    return {**told, "arms": arms, "comparisons": answers, "tau": tau, "candidates": table, "timing": timing}
