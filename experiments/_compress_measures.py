"""What ``experiments.compress`` measures, part by part, of networks that it trains first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._compress_run import FACTS, WHOLE, Compression
from experiments._compress_shown import RULES
from experiments._rounds import Rows, run_rounds
from jaxnet import circuits, compress

Part = Callable[[Compression, dict[str, Any]], Rows]
"""``(compression, networks) -> rows``: a part of the measurements."""

LEARNED = 0.5
"""Of the facts: what of them is kept is not asked of a network that knows fewer."""


def rounds(made: Compression, parts: Sequence[Part]) -> dict[str, Any]:
    """Trains whole networks and (without a checkpoint) ones that memorise facts, then measures part by part.

    All is kill-safe: the rows of a part that is done are on disk.
    """
    if made.winner is None:
        names, epochs, training = [WHOLE, FACTS], made.config.epochs, made.config.epochs + made.facts_epochs
    else:
        names, epochs, training = [WHOLE], 0, 0

    def start() -> Any:
        return {name: made.start(name) for name in names}

    def step(at: int, state: Any) -> Any:
        if at >= training:
            return state, parts[at - training](made, state)
        if at < epochs:
            return {**state, WHOLE: made.learn(state[WHOLE], made.true, at)}, []
        return {**state, FACTS: made.learn(state[FACTS], made.wrong, at - epochs, "facts")}, []

    def shapes(done: int) -> Any:
        return {name: jax.eval_shape(jax.vmap(partial(made.begin, name)), made.keys) for name in names}

    return run_rounds(made.run, "compress", training + len(parts), start, step, shapes)


def row(arm: str, judged: np.ndarray, **more: Any) -> dict[str, Any]:
    """Of an arm, what was measured of every seed; it has diverged where ``judged`` is not a number."""
    return {
        "arm": arm,
        "diverged": np.isnan(judged).tolist(),
        **{name: np.asarray(values).tolist() for name, values in more.items()},
    }


def whole(made: Compression, nets: dict[str, Any]) -> Rows:
    """Networks before anything is done to them."""
    net, facts = nets[WHOLE], nets.get(FACTS)
    accuracy = made.accuracy(net.params, net.structure)
    rows = [row("whole", accuracy, accuracy=accuracy)]
    if facts is not None:
        known, accuracy = made.knowledge(facts)
        rows.append(row("facts: whole", accuracy, accuracy=accuracy, remembered=known))
    return rows


def pruned(made: Compression, nets: dict[str, Any], ratio: float) -> Rows:
    """A share of the weights gone, in every way; rivals of as many weights."""
    net, rows, label = nets[WHOLE], list[dict[str, Any]](), f"{ratio:g}: "

    def note(name: str, params: Any, structure: Any) -> None:
        accuracy = made.accuracy(params, structure)
        rows.append(row(label + name, accuracy, accuracy=accuracy))

    scores = made.once("scores", lambda: {name: made.scores(name, net) for name in compress.SCORES})
    for name in compress.SCORES:
        params, left = made.pruned(net, scores[name], ratio)
        note(name, params, left)
        note(f"{name} + tuned", made.tuned(params, left), left)
        params = made.refit(net, params, left)
        note(f"{name} + refit", params, left)
        note(f"{name} + refit + tuned", made.tuned(params, left), left)
    counts = jnp.asarray(made.counts(left).sum(1))
    if made.winner is None:
        for kind in ("small", "sparse", "rigl"):
            note(f"{kind} from scratch", *made.from_scratch(counts, kind))
    held = jnp.asarray(np.floor(made.config.keep * np.asarray(counts)).astype(np.int32))[:, None]
    own = net.params, net.structure
    there = made.together("weights", circuits.existing, (True, True), *own)
    circuit = made.once("circuit", lambda: made.circuit(net))
    for what, by in (("circuit", circuit), ("random", scores["random"])):
        place = jnp.argsort(jnp.argsort(-jnp.where(there, by, -jnp.inf), 1), 1)
        keep = (place < held) & there
        note(f"{what} kept", *made.pruned(net, scores["magnitude"], ratio, keep))
    return rows + (forgotten(made, nets[FACTS], ratio, label) if FACTS in nets else [])


def forgotten(made: Compression, facts: Any, ratio: float, label: str) -> Rows:
    """What is left of facts and of rules, by magnitude."""
    chance = 1 / made.run.dataset.num_classes  # what is known by chance is neither kept nor lost
    known, rules = made.knowledge(facts)
    params, left = made.pruned(facts, made.scores("magnitude", facts), ratio)
    still = made.accuracy(params, left)
    kept = (made.remembered(params, left) - chance) / np.maximum(known - chance, 1e-9)
    share = (still - chance) / np.maximum(rules - chance, 1e-9)
    rows = [row(label + "facts network", still, accuracy=still)]
    for name, values in (("facts", kept), ("rules", share)):
        rows.append(row(label + name + " kept", still, kept=np.where(known < LEARNED, np.nan, values)))
    return rows


def rounded(made: Compression, nets: dict[str, Any]) -> Rows:
    """Fewer bits, shared out by every rule."""
    net, rows = nets[WHOLE], list[dict[str, Any]]()
    sens, hessian = made.sensitivities(net)
    sizes = made.counts(net.structure)
    tables = {"sensitivity": sens, "Hessian trace": hessian}
    tables["size rule"] = np.broadcast_to(4.0 ** -np.array(compress.BITS), sens.shape)
    for budget in made.config.bits:
        for rule in RULES:
            if rule == "uniform":
                bits = np.full(sizes.shape, max(b for b in compress.BITS if b <= budget))
            else:
                found = [
                    compress.allocate_bits(s, n, budget) for s, n in zip(tables[rule], sizes, strict=True)
                ]
                bits = np.stack(found)
            accuracy = made.rounded(net, jnp.asarray(bits))
            rows.append(row(f"{budget:g} bits: {rule}", accuracy, accuracy=accuracy, bits=bits.mean(0)))
    return rows
