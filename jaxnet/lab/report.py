"""Documents: Markdown templates filled with what came out, the numbers beside them as JSON."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from jaxnet.files import user_path, write_bytes, write_json
from jaxnet.lab.compare import Comparison, correction
from jaxnet.lab.flags import MAY_DIFFER, flag_name, value_shown
from jaxnet.lab.plots import save_comparisons
from jaxnet.lab.shown import agreement, diverged_of, number, percent, sizes_label, sound, span, with_interval
from jaxnet.lab.summary import Document, every_arm
from jaxnet.lab.terminal import print_table

HEAVY = ("patches", "history", "redundancy")
"""Entries of seeds that the numbers beside a document leave out; the ``summary.json`` of a run has them."""

COLUMNS = ("points", "95 % interval", "wins", "p", "p (Holm)", "verdict")
"""What tables tell of a comparison."""


def mean_and_interval(aggregate: Mapping[str, Any]) -> str:
    """Mean and 95 % interval of fractions, in per cent; ``-`` for what does not exist."""
    return with_interval(percent(aggregate["mean"]), span(aggregate["ci95"], between=" .. "))


def comparison_row(found: Comparison) -> list[str]:
    """Of a comparison: title, difference, interval, wins, p, p (Holm), verdict."""
    p = (number(value, ".2g") for value in (found.p, found.p_holm))
    return [found.question.in_full, found.mean(), found.interval(), found.won, *p, found.said()]


def print_comparisons(title: str, comparisons: Sequence[Comparison]) -> None:
    """Prints a row per comparison to the terminal."""
    print_table(title, ["first minus second", *COLUMNS], list(map(comparison_row, comparisons)))


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """A Markdown table, a row per comparison."""
    return table(["comparison (first minus second)", *COLUMNS], list(map(comparison_row, comparisons)))


def diverged(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence about the diverged networks of some arms; nothing without any."""
    return f"{line[0].upper()}{line[1:]}.\n" if (line := diverged_of(arms)) else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(map(str, line))} |" for line in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def command_line(program: str, config: Any) -> str:
    """The command that makes a document again: the flags of a configuration that decide it, and ``--doc``."""
    always = ("dataset", "datasets", "num_seeds", "doc")
    flags = [
        flag_shown(field, value)
        for field in sorted(dataclasses.fields(config), key=lambda field: field.name == "doc")
        if field.name == "doc" or field.name not in MAY_DIFFER
        if field.metadata.get("cli", True)
        if (value := getattr(config, field.name)) != field.default or field.name in always
    ]
    return " ".join([f"python -m {program}", *flags])


def flag_shown(field: dataclasses.Field[Any], value: Any) -> str:
    """A flag with its value, as a command line takes it."""
    name = flag_name(field.name)
    if isinstance(value, bool):
        return name if value else f"--no-{name[2:]}"
    return f"{name} {value_shown(value, field.metadata.get('none', 'none'))}"


def render(template: Path, values: Mapping[str, Any]) -> str:
    """Fills a template, which may extend ``document.md``; jinja2.UndefinedError for a value that is not."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent / "templates"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "percent": percent, "span": span, "sound": sound}
    environment.filters |= {"interval": mean_and_interval, "sizes": sizes_label, "halves": agreement}
    environment.globals |= {"comparison_table": comparison_table, "correction": correction}
    environment.globals |= {"diverged": diverged, "table": table}
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(template.name).render(**values))


def write_document(
    program: str, document: Document, config: Any, groups: dict[str, Any], comparisons: Sequence[Comparison]
) -> None:
    """Writes the Markdown file that ``config.doc`` names, its pictures and its numbers beside it.

    ``program`` is the module of the experiment; ``groups`` are summaries by group and run.
    """
    path = user_path(config.doc)
    pictures = {}
    for end, draw in (document.plots or {"": save_comparisons}).items():
        draw(picture := path.with_name(f"{path.stem}{end}.png"), config, groups, comparisons)
        pictures[end.strip("_") or "main"] = picture.name
    first = next(iter(next(iter(groups.values())).values()))
    values = {"config": config, "groups": groups, "comparisons": comparisons, "pictures": pictures}
    values |= {"command": command_line(program, config), "numbers": path.with_suffix(".json").name}
    values |= {"first": first, "provenance": first["provenance"]}
    values["kernel"] = first.get("kernel", first["config"].get("kernel"))
    values["asked"] = {(c.question.first, c.question.second, c.question.measure): c for c in comparisons}
    values |= document.values(config, groups, comparisons)
    write_bytes(path, render(document.template, values).encode())
    runs = [summary for group in groups.values() for summary in group.values()]
    timing = {key: sum(r["timing"][key] for r in runs) for key in ("compile_seconds", "run_seconds")}
    flags = {flag: value for flag, value in dataclasses.asdict(config).items() if flag not in MAY_DIFFER}
    arms = {}
    for name, arm in every_arm(groups).items():
        seeds = [{key: value for key, value in seed.items() if key not in HEAVY} for seed in arm["seeds"]]
        arms[name] = {**arm, "seeds": seeds}
    found = {"experiment": program.rpartition(".")[-1], "config": flags, "provenance": first["provenance"]}
    found |= {"arms": arms, "comparisons": [c.as_dict() for c in comparisons], "timing": timing}
    write_json(path.with_suffix(".json"), found)
