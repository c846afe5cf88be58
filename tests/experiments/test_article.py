"""``experiments.article``: names that exist, comparisons that are asked, a page from numbers made by hand."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import jaxnet
from experiments import article, cifar10
from experiments._article import COMMANDS, IDEAS
from experiments._claims import CLAIMS
from jaxnet.errors import InputError
from jaxnet.lab.command import parse
from jaxnet.levels import ARMS

ROOT = Path(article.__file__).parents[1]

EVERY = [idea for ideas in IDEAS.values() for idea in ideas]


@pytest.mark.parametrize("idea", EVERY, ids=lambda idea: idea.said)
def test_an_idea_is_where_it_says(idea: Any) -> None:
    home: Any = jaxnet
    for name in re.findall(r"`([^`]+)`", idea.where):
        if idea.where.startswith("arm"):
            assert name in ARMS
        elif name.startswith("experiments."):
            importlib.import_module(name)
        else:
            first, *rest = name.split(".")
            home = getattr(jaxnet, first) if hasattr(jaxnet, first) else getattr(home, first) and home
            for part in rest:
                assert hasattr(home, part) or importlib.import_module(f"{home.__name__}.{part}")
    assert not idea.page or (idea.page in COMMANDS and idea.asked)


@pytest.mark.parametrize("page", ["forgetting", "circuits", "compress", "reasoning"])
def test_what_a_row_shows_is_asked_by_its_command(page: str) -> None:
    name, *flags = COMMANDS[page].split()
    module = importlib.import_module(f"experiments.{name}")
    study = getattr(module, "CONTROLS", None) or module.STUDY
    questions = getattr(study, "questions", None) or module.questions
    titles = [f"{q.where}: {q.shown}" for q in questions(parse(module.Config, flags))]
    for idea in EVERY:
        for word in idea.asked if idea.page == page else ():
            assert any(word in title for title in titles), (word, titles)


def test_pages_are_made_by_the_commands_that_are_named() -> None:
    made: dict[str, str] = {}
    for target in ("results", "results-cifar10"):
        told = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        lines = told.replace("\\\n", " ")
        for command, page in re.findall(r"experiments\.([^;\n]*?)\s+--doc docs/results/(\w+)\.md", lines):
            made[page] = command.replace("--resume", "")
    claimed = {claim.page: claim.flags for claim in CLAIMS if claim.flags}
    whole = {
        page: cifar10.command_of(page) for page in cifar10.PAGES if f"{page}.md" in cifar10.command_of(page)
    }
    shown = {page: re.sub(r"^.*experiments\.|--doc .*$", "", command) for page, command in whole.items()}

    def asked(command: str) -> tuple[str, Any]:
        name, *flags = command.split()
        return name, parse(importlib.import_module(f"experiments.{name}").Config, flags)

    for page, command in (*COMMANDS.items(), *claimed.items(), *shown.items()):
        assert asked(made[page]) == asked(command), page


def test_a_page_from_numbers_by_hand(tmp_path: Path) -> None:
    asked = {
        "title": "gram − none, accuracy", "first": "gram", "second": "none", "measure": "accuracy",
        "difference": -0.0025, "ci95": [-0.005, 0.0], "n": 16, "verdict": "no difference shown",
        "primary": True, "where": "",
    }  # fmt: skip
    others = [{**asked, "title": f"{kind} − none, accuracy"} for kind in ("defect", "gluing")]
    found = {"experiment": "exactness_training", "config": {}, "arms": {}, "comparisons": [asked, *others]}
    (tmp_path / "exactness.json").write_text(json.dumps(found))
    values = article.main(article.Config(results=str(tmp_path), doc=str(tmp_path / "article.md")))
    assert values["answered"] == 3 and values["answered"] + values["open"] < values["ideas"]
    text = (tmp_path / "article.md").read_text()
    assert "| gram − none, accuracy | 16 | -0.25 (-0.50 .. +0.00) points | no difference shown " in text
    assert text.count("not tested yet: `python -m experiments.") == values["open"]
    (tmp_path / "exactness.json").write_text(json.dumps({**found, "comparisons": [asked]}))
    with pytest.raises(InputError, match="no comparison of defect − none or nearest"):
        article.main(article.Config(results=str(tmp_path), doc=str(tmp_path / "article.md")))


def test_the_page_is_what_the_numbers_say(tmp_path: Path) -> None:
    results = Path(__file__).parents[2] / "docs" / "results"
    article.main(article.Config(results=str(results), doc=str(tmp_path / "article.md")))
    assert (tmp_path / "article.md").read_text() == (results / "article.md").read_text()
