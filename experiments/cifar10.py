"""CIFAR-10 on one page: what was asked, what came out, on which page, and by which command.

Reads the numbers beside the result pages and writes one page; nothing is trained. What was not run yet says
so. ``make results-cifar10`` makes all of it.

    python -m experiments.cifar10
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import claims
from experiments._claim_answers import Numbers, difference
from experiments._method_arms import published
from experiments.cifar10_conv import ARMS, KINDS, SITES
from experiments.cifar10_growth import GROWTH
from experiments.cifar10_mlp import WIDE as WIDE_SIZES
from jaxnet import lab
from jaxnet.files import user_path
from jaxnet.lab import changed
from jaxnet.lab.shown import NOTHING, number

TEMPLATE = Path(__file__).parent / "reports" / "cifar10.md"
PATCHED, PEERS, WATCHED = "patched_accuracy", "accuracy_peers", "watched"

Found = Iterator[tuple[str, str]]
"""What was asked, and what came out."""


def level(n: Numbers, name: str, measure: str = "accuracy") -> str:
    """The mean of an arm, beside that of the best test epochs where it is known."""
    peers = f", best test epoch {n.shown(name, PEERS)}" if PEERS in n.arm(name)["aggregate"] else ""
    return f"{n.shown(name, measure)}{peers}"


def best(n: Numbers, names: Collection[str], measure: str = "accuracy") -> str:
    """The arm that the validation samples prefer; where they are not told, that of the highest mean."""
    told = all(WATCHED in n.arm(name)["aggregate"] for name in names) and measure == "accuracy"
    by = WATCHED if told else measure
    known = {name: mean for name in names if (mean := n.mean(name, by)["mean"]) is not None}
    if not known:
        return NOTHING
    name = max(known, key=lambda one: known[one])
    return f"{name}: {level(n, name, measure)}" + ("" if told else ", chosen by this number")


def starting(n: Numbers, start: str) -> list[str]:
    """The arms whose names begin so."""
    return [name for name in n.found["arms"] if name.startswith(start)]


def asked(n: Numbers, first: str, second: str, measure: str = "accuracy") -> str:
    """A difference with its interval and verdict."""
    c = n.pair(first, second, measure)
    return f"{difference(c)} points, {c['verdict']}"


def patched(n: Numbers) -> Found:
    """The original, what its patches add, the architectures that it suggests."""
    if "original" in n.found["arms"]:
        levels = f"{n.shown('original', 'scaffold_accuracy')}, then {n.shown('original', PATCHED)}"
        yield "the original: a scaffold of 26 to 31 % (printed: 28.62), then 30.40", levels
        for other, what in (("random places", "as many at random places"), ("no patches", "training on")):
            pair = "original", f"original, {other}", PATCHED
            yield f"its patches against {what}", asked(n, *pair)
    for name in n.found["config"]["hidden"]:
        shown = n.shown(f"{name}: mlp, extrema", PATCHED), best(n, starting(n, f"{name}: "), PATCHED)
        yield f"hidden layers {name}, hoped: 60 to 70 %", f"patches at extrema {shown[0]}; best {shown[1]}"
        pair = f"{name}: mlp, extrema", f"{name}: mlp, random", PATCHED
        yield f"patches at extrema against random places, {name}", asked(n, *pair)


def perceptron(n: Numbers) -> Found:
    """3072-1024-512-10 at every density."""
    bars = {0.005: ": Nerva 53.3", 0.01: ": at least 56.2 (Nerva), aim 60", 0.05: ": at least 61.5, aim 64"}
    for density in n.found["config"]["densities"]:
        what = f"3072-1024-512-10 at {100 * density:g} %"
        yield f"{what}{bars.get(density, '')}", f"best {best(n, starting(n, f'{density:g}: '))}"


def wide(n: Numbers) -> Found:
    """3072 x 4 - 10."""
    (density,) = n.found["config"]["densities"]
    known = published("cifar10", WIDE_SIZES)
    for name in ("set", "rigl", "chts"):
        if (arm := f"{density:g}: {name}") in n.found["arms"]:
            yield f"3072 x 4 - 10 as published, {name}: {known[name]:.2f}", level(n, arm)
    what = f"3072 x 4 - 10 as published: above {known['chts']:.2f} (CHTs), aim {known['chtss']:.2f} (CHTss)"
    yield what, f"best {best(n, starting(n, f'{density:g}: '))}"


def clean(n: Numbers) -> Found:
    """3072 x 4 - 10 with validation samples."""
    yield "3072 x 4 - 10, chosen on validation", f"best {best(n, n.found['arms'])}"


def growing(n: Numbers) -> Found:
    """Growth at equal weights."""
    for first, second in GROWTH:

        def chosen(c: Mapping[str, Any], ends: tuple[str, str] = (f": {first}", f": {second}")) -> bool:
            return bool(c["first"].endswith(ends[0]) and c["second"].endswith(ends[1]))

        found = n.pairs(chosen, f"{first} and {second}")
        verdicts = [c["verdict"] for c in found]
        points = sorted(100 * c["difference"] for c in found if c["difference"] is not None)
        span = f"; {points[0]:+.2f} to {points[-1]:+.2f} points" if points else ""
        counts = f"better in {verdicts.count('better')}, worse in {verdicts.count('worse')}"
        yield f"{first} against {second}, equal weights", f"{counts} of {len(found)} cells{span}"


def speed(n: Numbers) -> Found:
    """Seconds of an epoch beside masked PyTorch, augmentation included in both."""
    sizes = "-".join(map(str, n.found["sizes"]))
    bars = {0.01: ", at least 15 times", 0.05: ", at least 5 times"} if len(n.found["sizes"]) == 4 else {}
    for density, found in n.found["by_density"].items():
        seconds = {way: spread["median"] for way, spread in found["seconds_per_epoch"].items()}
        ours, theirs = seconds["csr"], seconds["torch_masked"]
        times = found["ratios"]["csr_vs_torch_masked"]["median"]
        what = f"{sizes} at {100 * float(density):.3g} %: times as fast as masked PyTorch"
        shown = f"{times:.1f} ({ours:.2f} and {theirs:.2f} s an epoch; 100 epochs: {100 * ours / 60:.0f} and "
        yield f"{what}{bars.get(float(density), '')}", f"{shown}{100 * theirs / 60:.0f} min)"


def convolutional(n: Numbers) -> Found:
    """The convolutional base."""
    names = [name for name in n.found["arms"] if name in ARMS and name != "dense"]
    yield "a convolutional base, at most 60,000 non-zeros: at least 72 %, aim 80", f"best {best(n, names)}"


def places(n: Numbers) -> Found:
    """Extrema of channels and of hidden units as places, on a smaller base."""
    for kind, other in itertools.product(KINDS, SITES[1:]):
        what = f"a smaller convolutional base: {kind} at extrema against {other} places"
        yield what, asked(n, f"{kind}, {SITES[0]}", f"{kind}, {other}", "accuracy")


def throughput(n: Numbers) -> Found:
    """Of a plain Flax model trained by jaxnet, beside a loop of jitted steps."""
    ratios = {name: spread["median"] for name, spread in n.found["found"]["ratios"].items()}
    what = "a plain Flax model: times as fast as a loop of jitted steps, at least 1"
    yield what, f"{ratios['loop_over_one']:.2f}"
    seeds = n.found["config"]["num_seeds"]
    yield (
        f"{seeds} seeds of it in one program, at most 6 times the time of one",
        f"{ratios['many_over_one']:.2f}",
    )


def memory(n: Numbers) -> Found:
    """What a hunt was planned to hold, and what its process held."""
    programs = [program for stage in n.found["plan"] for program in stage["programs"]]
    planned, allowed = (
        max(p["bytes_per_call"] for p in programs) / 2**20,
        min(p["bytes_allowed"] for p in programs) / 2**20,
    )
    peak = n.found["timing"].get("peak_bytes")
    held = number(None if peak is None else peak / 2**20, ".0f")
    what = f"{n.found['networks']['trained']} seeds in one hunt stay within the planned memory"
    yield what, f"a call {planned:.0f} of {allowed:.0f} MiB; the process at its peak {held} MiB"


FIVE = "--densities 0.05 --rates 0.001 --weight-decay 0.05 --out checkpoints/cifar10_mlp_5_percent"
WIDE = (
    "python -m experiments.cifar10_mlp --sizes 3072,3072,3072,3072,10 --allocation dense-output "
    "--densities 0.011073 --num-seeds 1 --weight-decay 0.05"
)
AS_PUBLISHED = (
    "--peers --protocol seed --init sparse-fan-in --out checkpoints/cifar10_mlp_published --methods "
    "static,set,rigl,chts,chts-local --baseline set"
)
CLEAN = "--methods chts-local --baseline chts-local --average 0.999 --out checkpoints/cifar10_mlp_wide"
SPEED = "python -m benchmarks.large_network --ways csr,torch_masked --augment"
WIDE_SPEED = "--hidden 3072,3072,3072 --allocation dense-output --densities 0.011073"
SWEEP = (
    "python -m experiments.seed_hunt --dataset cifar10 --augment crop,flip --sizes 3072,1024,512,10 "
    "--allocation erdos-renyi --densities 0.01 --num-seeds 128 --epochs 1 --out checkpoints/cifar10_sweep; "
    "cp checkpoints/cifar10_sweep/summary.json"
)
PAGES: dict[str, tuple[str, Callable[[Numbers], Found]]] = {
    "cifar10_patched": ("python -m experiments.cifar10_patched --doc", patched),
    "cifar10_mlp": ("python -m experiments.cifar10_mlp --peers --doc", perceptron),
    "cifar10_mlp_5_percent": (f"python -m experiments.cifar10_mlp --peers {FIVE} --doc", perceptron),
    "cifar10_mlp_published": (f"{WIDE} {AS_PUBLISHED} --doc", wide),
    "cifar10_mlp_wide": (f"{WIDE} {CLEAN} --doc", clean),
    "cifar10_speed": (f"{SPEED} --densities 0.01,0.05 --json", speed),
    "cifar10_speed_wide": (f"{SPEED} {WIDE_SPEED} --json", speed),
    "cifar10_growth": ("python -m experiments.cifar10_growth --doc", growing),
    "cifar10_conv": ("python -m experiments.cifar10_conv --place-seeds 0 --doc", convolutional),
    "cifar10_conv_places": ("python -m experiments.cifar10_conv --arms none --doc", places),
    "cifar10_conv_speed": ("python -m benchmarks.flax_model --json", throughput),
    "cifar10_sweep": (SWEEP, memory),
}
"""By page, or by file of numbers: what makes it, but for its name, and what it answers."""


def command_of(page: str) -> str:
    """The command that makes a page, or a file of numbers."""
    command, _ = PAGES[page]
    return f"{command} docs/results/{page}.{'md' if command.endswith('--doc') else 'json'}"


@dataclass(frozen=True)
class Config(claims.Config):
    """What came out on CIFAR-10, on one page."""

    doc: str = changed(claims.Config, "doc", "docs/results/cifar10.md")


def main(config: Config) -> dict[str, Any]:
    """Writes the page."""
    folder, parts = user_path(config.results), list[dict[str, Any]]()
    for page, (_, answers) in PAGES.items():
        n = claims.numbers_of(folder, page)
        rows = [] if n is None else list(answers(n))
        link = f"{page}.md" if (folder / f"{page}.md").exists() else f"{page}.json"
        parts.append({"page": link if rows else "", "command": command_of(page), "rows": rows})
    values: dict[str, Any] = {"parts": parts, "open": sum(not part["rows"] for part in parts)}
    said = f"{len(parts) - values['open']} of {len(parts)} parts have been run"
    claims.write_page(config, TEMPLATE, values, said)
    return values


if __name__ == "__main__":
    lab.run_main(main, Config, description=__doc__, prog="python -m experiments.cifar10")
