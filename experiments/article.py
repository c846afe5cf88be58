"""The article's ideas, a row each: where they are in jaxnet, what was tested, and what came out.

Reads the numbers beside the result pages and writes one page; nothing is trained. An idea whose page does
not exist is not tested yet, and the command that tests it is named.

    python -m experiments.article
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import claims
from experiments._article import COMMANDS, IDEAS, Idea
from jaxnet import lab
from jaxnet.files import user_path
from jaxnet.lab import changed

TEMPLATE = Path(__file__).parent / "reports" / "article.md"
POINTS = ("accuracy", "transfer", "kept", "learned", "suites", "steps_share")
"""Measures whose differences are shown in points; others as they are."""


@dataclass(frozen=True)
class Config(claims.Config):
    """A row for every idea of the article."""

    doc: str = changed(claims.Config, "doc", "docs/results/article.md")


def effect(c: Mapping[str, Any]) -> str:
    """A paired difference with its interval, in points or as it is."""
    scale, form, unit = (
        (100, "+.2f", " points") if c["measure"] in POINTS else (1, "+.3g", f" {c['measure']}")
    )
    number = lab.shown.number(None if c["difference"] is None else scale * c["difference"], form)
    ends = lab.shown.span(c["ci95"], form, scale=scale, between=" .. ")
    return lab.shown.with_interval(number, ends) + unit


def row(idea: Idea, folder: Path) -> dict[str, Any]:
    """What is known of an idea."""
    found: dict[str, Any] = {"said": idea.said, "form": idea.form, "where": idea.where, "tests": idea.tests}
    if not idea.page:
        return {**found, "answers": [], "page": "", "command": ""}
    numbers = claims.numbers_of(folder, idea.page)
    if numbers is None:
        command = f"python -m experiments.{COMMANDS[idea.page]} --doc docs/results/{idea.page}.md"
        return {**found, "answers": [], "page": "", "command": command}
    wanted = [c for c in numbers.found["comparisons"] if any(word in title_of(c) for word in idea.asked)]
    if not wanted:
        raise numbers.wrong(f"it has no comparison of {' or '.join(idea.asked)}")
    answers = [
        {"title": title_of(c), "n": str(c["n"]), "effect": effect(c), "verdict": c["verdict"]}
        for c in sorted(wanted, key=lambda c: not c["primary"])
    ]
    return {**found, "answers": answers, "page": f"{idea.page}.md", "command": ""}


def title_of(c: Mapping[str, Any]) -> str:
    """What a comparison is called, with its context."""
    return lab.Question(c["first"], c["second"], c["measure"], c["title"], where=c["where"]).in_full


def main(config: Config) -> dict[str, Any]:
    """Writes the page."""
    folder = user_path(config.results)
    sections = {name: [row(idea, folder) for idea in ideas] for name, ideas in IDEAS.items()}
    every = [one for rows in sections.values() for one in rows]
    values = {
        "sections": sections,
        "answered": sum(bool(one["answers"]) for one in every),
        "ideas": len(every),
    }
    values["open"] = sum(bool(one["command"]) for one in every)
    said = f"{values['ideas']} ideas: {values['answered']} answered by experiments, {values['open']} not yet"
    claims.write_page(config, TEMPLATE, values, said)
    return values


if __name__ == "__main__":
    lab.run_main(main, Config, description=__doc__, prog="python -m experiments.article")
