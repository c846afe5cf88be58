"""What to believe of the original: a verdict on every claim, from the numbers of the result pages.

Reads the JSON files beside the result pages and writes one page; nothing is trained. A claim whose page does
not exist is not tested yet, and the command that tests it is named.

    python -m experiments.claims
    python -m experiments.claims --results checkpoints/mine --doc mine.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.files import read_json, user_path
from jaxnet.lab import option

TEMPLATE = Path(__file__).parent / "reports" / "claims.md"
KEYS = {
    "gpu": ("device", "by_chunk", "config"),
    "cifar10_sweep": ("plan", "networks", "timing"),
    "cifar10_conv_speed": ("found", "config"),
    **dict.fromkeys(("cifar10_speed", "cifar10_speed_wide"), ("sizes", "by_density", "config")),
}
"""What a results file has, where it is not that of an experiment."""

EXPERIMENTS = {
    "patched_density": "patched_density_controls",
    "growth": "indefinite_growth_controls",
    "bootstrap": "optimal_bootstrap",
    "cliff_rescue": "cliff_rescue_report",
    **dict.fromkeys(("methods", "methods_wired"), "method_comparison"),
    "exactness": "exactness_training",
    "structure": "structure_report",
    **dict.fromkeys(("guard", "guard_spike"), "guarded_training"),
    "reasoning": "reasoning_circuits",
    "levels": "level_transformer",
    "cifar10_conv_places": "cifar10_conv",
    **dict.fromkeys((f"cifar10_mlp_{end}" for end in ("5_percent", "wide", "published")), "cifar10_mlp"),
}
"""The experiment whose numbers a page has, where it is not called after it."""


@dataclass(frozen=True)
class Config(lab.flags.Flags):
    """A verdict on every claim of the original."""

    results: str = option("docs/results", "folder of the result pages and their numbers")
    doc: str = option("docs/claims.md", "the page that is written")

    def check(self) -> None:
        """Raises InputError for folders that do not exist."""
        if not user_path(self.results).is_dir():
            raise InputError(f"--results: the folder {user_path(self.results)} does not exist")
        if not user_path(self.doc).parent.is_dir():
            raise InputError(f"--doc: the folder {user_path(self.doc).parent} does not exist")
        super().check()


def numbers_of(folder: Path, page: str) -> Any:
    """The numbers of a page; None where there is no such page.

    Raises:
      InputError: the file is damaged, or another version's.
    """
    from experiments._claim_answers import Numbers

    path = folder / f"{page}.json"
    if not path.exists():
        return None
    numbers = Numbers(path, read_json(path))
    keys = KEYS.get(page, ("experiment", "config", "arms", "comparisons"))
    missing = [key for key in keys if key not in numbers.found] if isinstance(numbers.found, dict) else keys
    if missing:
        raise numbers.wrong(f"it has no {missing[0]!r}")
    wanted = EXPERIMENTS.get(page, page)
    if page not in KEYS and numbers.found["experiment"] != wanted:
        raise numbers.wrong(f"it is of {numbers.found['experiment']}, not of {wanted}")
    return numbers


def rows(folder: Path) -> list[dict[str, Any]]:
    """What is said of every claim: said, tests, verdict, what else is known, the command."""
    from experiments._claim_answers import NotMeasured, together
    from experiments._claims import CLAIMS

    found = []
    for claim in CLAIMS:
        numbers, answers, beside, why = numbers_of(folder, claim.page), [], "", ""
        if numbers is not None:
            try:
                answers = claim.answers(numbers)
                beside = claim.beside(numbers)
            except NotMeasured as error:
                why = f"the numbers of the page were made before `{error}` was measured"
        command = f"python -m experiments.{claim.flags} --doc docs/results/{claim.page}.md"
        if not claim.flags:
            command = f"python -m benchmarks.{claim.page} --json docs/results/{claim.page}.json"
        made = (folder / f"{claim.page}.md").exists()
        found.append(
            {
                "said": claim.said,
                "answers": answers,
                "verdict": together(answers) if answers else "not tested yet",
                "beside": beside or why,
                "command": command,
                "page": f"results/{claim.page}.md" if made else "",
            }
        )
    return found


def instead(folder: Path) -> dict[str, dict[str, Any]]:
    """What to use instead: of every comparison its difference, n and verdict; only of pages that exist."""
    from experiments._claim_answers import difference
    from experiments._claims import INSTEAD

    found = {}
    for name, (page, pair) in INSTEAD.items():
        numbers = numbers_of(folder, page)
        if numbers is not None:
            c = numbers.pair(*pair)
            levels = [numbers.shown(arm, pair[2]) for arm in pair[:2]]
            found[name] = {"shown": difference(c), "n": c["n"], "verdict": c["verdict"], "levels": levels}
    return found


def best_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``experiments.headline``, where its page exists."""
    numbers = numbers_of(folder, "headline")
    if numbers is None:
        return []
    found = []
    for name, arm in numbers.found["arms"].items():
        if name.startswith("line "):
            weights = lab.shown.number(arm["aggregate"]["weights"]["mean"], ",.0f")
            found.append({"name": name, "weights": weights, "shown": numbers.shown(name)})
    return found


def write_page(config: Config, template: Path, values: Mapping[str, Any], said: str) -> None:
    """Writes a page that is made from numbers of other pages, and says in a line what it holds."""
    from jaxnet.files import write_bytes
    from jaxnet.lab.report import render

    path = user_path(config.doc)
    write_bytes(path, render(template, values).encode())
    print(f"{said}\nwritten to {path}")


def main(config: Config) -> dict[str, Any]:
    """Writes the page."""
    from experiments._claim_answers import MARGIN
    from experiments._claims import LEVEL

    folder = user_path(config.results)
    found = rows(folder)
    times: Mapping[str, int] = Counter(row["verdict"] for row in found)
    values = {
        "rows": found,
        "times": times,
        "by_verdict": {
            verdict: [row for row in found if row["verdict"] == verdict]
            for verdict in ("holds", "fails", "unclear", "not tested yet")
        },
        "instead": instead(folder),
        "lines": best_lines(folder),
        "margin": 100 * MARGIN,
        "level": LEVEL,
    }
    said = f"{len(found)} claims: " + ", ".join(f"{n} {verdict}" for verdict, n in times.items())
    write_page(config, TEMPLATE, values, said)
    return values


if __name__ == "__main__":
    lab.run_main(main, Config, description=__doc__, prog="python -m experiments.claims")
