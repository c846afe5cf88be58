"""Documents: Markdown templates filled with what came out, the numbers beside them as JSON."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from jaxnet.files import disk_errors, json_safe, user_path, write_json
from jaxnet.lab.compare import Comparison, correction
from jaxnet.lab.flags import MAY_DIFFER, flag_name
from jaxnet.lab.found import Document
from jaxnet.lab.plots import save_comparisons
from jaxnet.lab.shown import NOTHING, document_lines, number, percent, sizes_label, sound, span, with_interval
from jaxnet.lab.summary import every_arm
from jaxnet.lab.terminal import print_table

OWN = Path(__file__).parent / "templates"
"""Folder of the templates that others extend."""

HEAVY = ("patches", "history", "redundancy")
"""Entries of seeds that the numbers beside a document leave out; the ``summary.json`` of a run has them."""


def mean_and_interval(aggregate: Mapping[str, Any]) -> str:
    """Mean and 95 % interval of fractions, in per cent; ``-`` for what does not exist."""
    return with_interval(percent(aggregate["mean"]), span(aggregate["ci95"], between=" .. "))


def comparison_rows(comparisons: Sequence[Comparison], scale: float = 100) -> list[list[str]]:
    """A row per comparison: title, difference, interval, wins, p, p (Holm), verdict."""
    return [
        [
            c.question.shown,
            number(None if c.difference is None else scale * c.difference, "+.2f"),
            c.interval(scale),
            c.won,
            number(c.p, ".2g"),
            number(c.p_holm, ".2g"),
            c.said(scale),
        ]
        for c in comparisons
    ]


def print_comparisons(title: str, comparisons: Sequence[Comparison]) -> None:
    """Prints a row per comparison to the terminal."""
    columns = ["first minus second", "points", "95 % interval", "wins", "p", "p (Holm)", "verdict"]
    where = [f"{c.question.where}: " if c.question.where else "" for c in comparisons]
    rows = zip(where, comparison_rows(comparisons), strict=True)
    print_table(title, columns, [[place + row[0], *row[1:]] for place, row in rows])


def comparison_table(comparisons: Sequence[Comparison], scale: float = 100, unit: str = "points") -> str:
    """A Markdown table, a row per comparison."""
    head = ["comparison (first minus second)", unit, "95 % interval", "wins", "p", "p (Holm)", "verdict"]
    return table(head, comparison_rows(comparisons, scale))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(map(str, line))} |" for line in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def command_line(program: str, config: Any) -> str:
    """The command that makes a document again: every flag that decides the results, and the document.

    Args:
      program: name of the module.
      config: its configuration, a dataclass with a field ``doc``.
    """
    always = ("dataset", "datasets", "num_seeds", "doc")
    flags = [
        f"{flag_name(field.name)} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for field in sorted(dataclasses.fields(config), key=lambda field: field.name == "doc")
        if field.name == "doc" or field.name not in MAY_DIFFER
        if field.metadata.get("cli", True)
        if (value := getattr(config, field.name)) != field.default or field.name in always
    ]
    return " ".join([f"python -m {program}", *flags])


def render(template: Path, values: Mapping[str, Any]) -> str:
    """Fills a template; it may extend ``document.md``.

    Raises:
      jinja2.UndefinedError: it asks for a value that there is not.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, OWN]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"number": number, "percent": percent, "span": span, "sound": sound}
    environment.filters |= {"interval": mean_and_interval, "sizes": sizes_label}
    environment.globals |= {
        "comparison_table": comparison_table,
        "correction": correction,
        "diverged": lambda arms: "\n".join(document_lines(arms)),
        "table": table,
        "nothing": NOTHING,
    }
    text = environment.get_template(template.name).render(**values)
    return re.sub(r"\n{3,}", "\n\n", text)


def write_document(
    name: str,
    document: Document,
    config: Any,
    groups: Mapping[str, Mapping[str, Any]],
    comparisons: Sequence[Comparison],
    program: str | None = None,
) -> None:
    """Writes the Markdown file, its pictures and its numbers.

    Args:
      name: of the experiment.
      document: template and pictures.
      config: its configuration.
      groups: by name, arms and their summaries.
      comparisons: what was asked.
      program: its module, where that is none of ``experiments``.
    """
    path = user_path(config.doc)
    plots = document.plots or {
        "": lambda path, config, groups, comparisons: save_comparisons(comparisons, path)
    }
    pictures = {}
    for end, draw in plots.items():
        picture = path.with_name(f"{path.stem}{end}.png")
        draw(picture, config, groups, comparisons)
        pictures[end.strip("_") or "main"] = picture.name
    first = next(iter(next(iter(groups.values())).values()))
    values = {
        "command": command_line(program or f"experiments.{name}", config),
        "config": config,
        "groups": groups,
        "first": first,
        "provenance": first["provenance"],
        "kernel": first.get("kernel", first["config"].get("kernel")),
        "numbers": path.with_suffix(".json").name,
        "comparisons": comparisons,
        "asked": {(c.question.first, c.question.second, c.question.measure): c for c in comparisons},
        "pictures": pictures,
        **document.values(config, groups, comparisons),
    }
    text = render(document.template, values)
    with disk_errors(path, "write"):
        path.write_text(text, encoding="utf-8")
    write_json(path.with_suffix(".json"), numbers_of(name, config, groups, comparisons))


def numbers_of(
    name: str, config: Any, groups: Mapping[str, Mapping[str, Any]], comparisons: Sequence[Comparison]
) -> dict[str, Any]:
    """What lies beside a document: every seed of every arm, and the comparisons."""

    def light(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in entry.items() if key not in HEAVY}

    arms = {
        arm: {**found, "seeds": [light(entry) for entry in found["seeds"]]}
        for arm, found in every_arm(groups).items()
    }
    runs = [summary for group in groups.values() for summary in group.values()]
    timing = {key: sum(r["timing"][key] for r in runs) for key in ("compile_seconds", "run_seconds")}
    flags = {key: value for key, value in dataclasses.asdict(config).items() if key not in MAY_DIFFER}
    found: dict[str, Any] = json_safe(
        {
            "experiment": name,
            "config": flags,
            "provenance": runs[0]["provenance"],
            "arms": arms,
            "comparisons": [c.as_dict() for c in comparisons],
            "timing": timing,
        }
    )
    return found
