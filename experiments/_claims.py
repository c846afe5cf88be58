"""The claims of the original, each with the test that decides it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments._claim_answers import (
    MARGIN,
    Answer,
    Numbers,
    Verdict,
    difference,
    of_level,
    of_many,
    of_pair,
    of_share,
)
from jaxnet import prediction
from jaxnet.lab.shown import number, sound

LEVEL = 0.05
"""A p below it is one."""


def headline_level(n: Numbers) -> list[Answer]:
    """97.67 % with patches at extrema, and no more than 3 % of the weights."""
    answers = []
    for kind in ("mlp", "dense"):
        weights = number(n.mean(f"{kind}, extrema", "weights")["mean"], ",.0f")
        found = n.mean(f"{kind}, extrema", "patched_accuracy")
        answers.append(of_level(f"{kind} patches at extrema, {weights} weights", found, 0.9767))
    return answers


def headline_beside(n: Numbers) -> str:
    """Where the printed curve comes from."""
    arm = "784-128-10, masks in the scaffold phase only"
    weights = number(n.mean(arm, "weights")["mean"], ",.0f")
    return f"without masks in the second phase {n.shown(arm, 'patched_accuracy')}, with {weights} weights"


def places(n: Numbers) -> list[Answer]:
    """Patches at extrema against random places and the least extreme ones."""
    pairs = [
        n.pair(f"{k}, extrema", f"{k}, {p}", "patched_accuracy")
        for k in ("mlp", "dense")
        for p in ("random", "least")
    ]
    return [of_pair(c) for c in pairs]


def rates(n: Numbers) -> list[Answer]:
    """Five times the scaffold's rate for the patches, against the scaffold's own."""
    return [
        of_pair(n.pair(f"{k}, extrema", f"{k}, single rate", "patched_accuracy")) for k in ("mlp", "dense")
    ]


def scaffolds(n: Numbers) -> dict[str, list[Mapping[str, Any]]]:
    """The networks of every run of ``experiments.patchability``."""
    found = {name: sound(arm["seeds"]) for name, arm in n.found["arms"].items() if name.endswith("scaffolds")}
    if not found:
        raise n.wrong("it has no arm of scaffolds")
    return found


def gains_by_extrema(n: Numbers) -> list[Answer]:
    """The third of the scaffolds with most high extrema against the third with fewest."""
    answers = []
    for name, seeds in scaffolds(n).items():
        high = [sum(v for c, v in s["predictors"].items() if c.startswith("high")) for s in seeds]
        found = prediction.thirds(high, [s["gain"] for s in seeds])
        ends = found["ci95"] or [-np.inf, np.inf]
        said: Verdict = "holds" if ends[0] > 0 else "fails" if ends[1] < MARGIN else "unclear"
        test = f"gain of the third with most high extrema − with fewest ({name.split(':')[0]})"
        answers.append(Answer(test, str(len(seeds)), f"{difference(found)} points", said))
    return answers


def patchability(n: Numbers) -> list[Answer]:
    """What patchability adds to the accuracy in predicting the gain, cross-validated and permuted."""
    answers = []
    for name, seeds in scaffolds(n).items():
        score = next((c for c in seeds[0]["predictors"] if c.startswith("score ×")), None)
        if score is None:
            raise n.wrong("it has no patchability")
        columns = {c: np.array([s["predictors"][c] for s in seeds], float) for c in ("accuracy", score)}
        gain = np.array([s["gain"] for s in seeds], float)
        found = prediction.predict(columns[score][:, None], gain, columns["accuracy"][:, None])
        more, p = found["increment"], found["p"]
        known = more is not None and p is not None
        said: Verdict = "unclear" if not known else "holds" if p < LEVEL and more > 0.01 else "fails"  # type: ignore[operator]
        test = f"R² that patchability adds to the accuracy ({name.split(':')[0]})"
        answers.append(Answer(test, str(found["n"]), f"{number(more, '+.3f')}, p = {number(p, '.2g')}", said))
    return answers


def reaches_95(n: Numbers) -> list[Answer]:
    """Networks that grow until a target of 95 % validation accuracy."""
    seeds = sound(n.arm("lean to 95 %")["seeds"])
    weights = sorted(s["nonzeros"]["scaffold"] for s in seeds)
    test = f"networks that reach 95 % on test samples, with {weights[0]:,} to {weights[-1]:,} weights"
    return [of_share(test, [s["accuracy"] >= 0.95 for s in seeds])]


def growth_beside(n: Numbers) -> str:
    """What does the work there."""
    alone = n.shown("extrema, without RigL")
    pair = difference(n.pair("extrema", "RigL"))
    return f"growth without RigL ends at {alone}; growth − RigL with all weights from the start {pair} points"


FREE = ("lean to 97 %", "original, protocol seed, to 95 %")
"""Arms whose networks grow until a target, or a limit of iterations."""


def natural_size(n: Numbers) -> list[Answer]:
    """What ended the growth: a target, a limit, or nothing left to grow at."""
    return [
        of_share(f"networks that stopped by themselves, {arm}", [s == "no extrema" for s in stops_of(n, arm)])
        for arm in FREE
    ]


def stops_of(n: Numbers, arm: str) -> list[str]:
    """Why the networks of an arm stopped."""
    return [s["stop_reason"] for s in n.arm(arm)["seeds"]]


def stops_beside(n: Numbers) -> str:
    """What ended it."""
    stops = Counter(stop for arm in FREE for stop in stops_of(n, arm))
    return "what ended it: " + ", ".join(f"{stop} ({times})" for stop, times in stops.most_common())


def static_cifar(n: Numbers) -> list[Answer]:
    """Growth alone against networks with as many weights from the start."""
    pairs = n.pairs(
        lambda c: c["first"].endswith(": growing, without RigL") and c["second"].endswith(": static"),
        "growing and static",
    )
    return of_many(pairs, "growing, without RigL − static, equal weights")


def one_or_many(n: Numbers) -> list[Answer]:
    """One network that grows against hunts over architectures for as many operations."""
    return [of_pair(n.pair("grown", hunt)) for hunt in ("hunt", "hunt, halving")]


def bootstrap(n: Numbers) -> list[Answer]:
    """At equal numbers of weights."""
    return [of_pair(n.pair(f"{s}: bootstrapped", f"{s}: random")) for s in ("medium", "fine")]


def cliff(n: Numbers) -> list[Answer]:
    """Skips from high extrema to low ones against a network that stays as it is."""
    pairs = n.pairs(lambda c: ends_of(c) == ("skips", "static"), "skips")
    return [Answer(f"{c['where']}: {a.test}", a.n, a.effect, a.verdict) for c in pairs for a in [of_pair(c)]]


def cliff_beside(n: Numbers) -> str:
    """The original's own rule, and as many weights elsewhere."""
    wanted = ("clone-and-prune", "static"), ("skips", "random-output")
    told = [
        f"{c['where']}: {' − '.join(ends_of(c))} {difference(c)} points"
        for c in n.pairs(lambda c: ends_of(c) in wanted, "skips and random weights")
    ]
    return "; ".join(told)


def ends_of(c: Mapping[str, Any]) -> tuple[str, ...]:
    """Both arms of a comparison of accuracies read once, without the data set; nothing of others."""
    ends = (c[key].split(": ")[-1] for key in ("first", "second"))
    return tuple(ends) if c["measure"] == "accuracy" and "protocol seed" not in c["where"] else ()


def forgetting(n: Numbers) -> list[Answer]:
    """What the scaffold alone has lost after the patch phase: at most half a point."""
    answers = []
    for kind in ("mlp", "dense"):
        lost = n.mean(f"{kind}, extrema", "forgotten")
        ends = lost["ci95"] or [-np.inf, np.inf]
        said: Verdict = "holds" if ends[1] < MARGIN else "fails" if ends[0] > MARGIN else "unclear"
        effect = f"{difference({'difference': lost['mean'], 'ci95': lost['ci95']})} points"
        test = f"accuracy of the scaffold lost when {kind} patches are taken out"
        answers.append(Answer(test, str(lost["n"]), effect, said))
    return answers


def seeds_per_second(n: Numbers) -> list[Answer]:
    """Networks of 784-128-10 at 2 %, 5 epochs each, per second."""
    if n.found["device"]["platform"] == "cpu":
        raise n.wrong("it was measured on a CPU")
    rates = [(one["seeds_per_second"], name) for c in n.found["by_chunk"].values() for name, one in c.items()]
    best, name = max(((r, name) for r, name in rates if name != "csr"), key=lambda pair: pair[0]["median"])
    said: Verdict = "holds" if best["median"] >= 50 else "fails"
    timed, device = n.found["config"]["epochs"], n.found["device"]["kind"]
    test = f"seeds per second, {timed} of 5 epochs timed, {device}, {name}"
    middle, least, most = (number(best[key], ",.0f") for key in ("median", "min", "max"))
    rounds = f"{n.found['config']['repeats']} rounds"
    return [Answer(test, rounds, f"{middle} (all rounds: {least} .. {most})", said)]


@dataclass(frozen=True)
class Claim:
    """What the original says, the page whose numbers decide it, the command that makes that page."""

    said: str
    page: str
    flags: str
    answers: Callable[[Numbers], list[Answer]]
    beside: Callable[[Numbers], str] = lambda numbers: ""


PATCHES = "patched_density", "patched_density_controls --dataset mnist --num-seeds 16"
GROWTH = "growth", "indefinite_growth_controls --dataset mnist --num-seeds 16"
PATCHABILITY = "patchability", "patchability --dataset mnist"
CIFAR10 = "cifar10_growth", "cifar10_growth"
HUNTS = "growth_or_hunt", "growth_or_hunt --dataset mnist"
BOOTSTRAP = "bootstrap", "optimal_bootstrap --dataset mnist --num-seeds 16"
CLIFF = "cliff_rescue", "cliff_rescue_report --datasets cliff,mnist --num-seeds 16 --kernel csr"

CLAIMS = (
    Claim("97.67 % on MNIST with 3 % of the weights", *PATCHES, headline_level, headline_beside),
    Claim("Patches at extrema beat patches elsewhere", *PATCHES, places),
    Claim("Dual learning rates matter", *PATCHES, rates),
    Claim("Networks with many high extrema gain more by patches", *PATCHABILITY, gains_by_extrema),
    Claim("Growth reaches 95 % by itself", *GROWTH, reaches_95, growth_beside),
    Claim("Growth stops by itself, at a natural size", *GROWTH, natural_size, stops_beside),
    Claim("Growth beats static networks on CIFAR-10", *CIFAR10, static_cifar),
    Claim("One network that grows beats training 1,000 architectures", *HUNTS, one_or_many),
    Claim("A bootstrapped network beats a random one", *BOOTSTRAP, bootstrap),
    Claim("Growth rescues a network too sparse to learn", *CLIFF, cliff, cliff_beside),
    Claim("Patchability predicts what patches give", *PATCHABILITY, patchability),
    Claim("Patching does not make the scaffold forget", *PATCHES, forgetting),
    Claim("50 to 100 seeds per second on a GPU", "gpu", "", seeds_per_second),
)
"""In the order of the page."""

PATCHED = "patched_accuracy"

INSTEAD = {
    "allocation": ("patched_density", ("no patches, Erdős–Rényi", "no patches", PATCHED)),
    "initialisation": ("patched_density", ("no patches", "no patches, original init", PATCHED)),
    "patches": ("patched_density", ("mlp, extrema", "no patches", PATCHED)),
    "more weights": ("patched_density", ("mlp, extrema", "no patches, 2.6 % from the start", PATCHED)),
    "extrema": ("methods", ("0.02: extrema", "0.02: set", "accuracy")),
    **{
        name: ("methods", (f"0.02: {arm}", "0.02: static", "accuracy"))
        for name, arm in (
            ("SET", "set"),
            ("RigL", "rigl"),
            ("sparse momentum", "sparse-momentum"),
            ("correlated", "static-correlated"),
            ("taught", "rigl-taught"),
        )
    },
    "local": ("methods_wired", ("0.02: static-local", "0.02: static", "accuracy")),
}
"""What a reader is told to use instead, and what comes of it: pages and comparisons."""
