"""A study: a question, as a configuration, what to run, what to measure, what to show.

This module loads without JAX, so that a wrong flag is answered at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jaxnet.files import user_path
from jaxnet.lab.command import run_main
from jaxnet.lab.compare import Question
from jaxnet.lab.found import Document, Found, Summary, Table, nothing
from jaxnet.lab.shown import arms_and_verdicts, diverged_in, diverged_line
from jaxnet.lab.summary import Entry, every_arm, numbers

if TYPE_CHECKING:
    from jaxnet.data import Dataset

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class Study(Generic[C]):
    """A study.

    Attributes:
      name: its module, and the ``experiment`` of its summaries.
      config: its configuration, a frozen dataclass of :mod:`jaxnet.lab.flags`.
      settle: ``(config, dataset) -> config``: decides what is ``auto`` and checks what can
        be checked before anything is written.
      run: ``(run, *given) -> Found``, with a :class:`jaxnet.lab.run.Run`.
      tables: ``summary -> tables`` for the terminal.
      plots: files by name, each drawn by ``draw(path, summary, rows)``.
      opening: ``config -> line``, printed before anything is computed.
      numbers: ``entry -> numbers`` that are aggregated.
      rates: measures that are truth values.
      known: ``config -> facts`` beside the provenance.
      owned: ``folder -> names`` of further files that a run writes.
      may_differ: flags that a continued run may change, besides the usual ones.
      unsaid: flags that are stored only where they have a value.
      document: for ``--doc``; None where the configuration has no such flag.
      package: where its module is, for the command that starts it.
    """

    name: str
    config: type[C]
    run: Callable[..., Found]
    settle: Callable[[C, Dataset], C] = lambda config, dataset: config
    tables: Callable[[Summary], Sequence[Table]] = arms_and_verdicts
    plots: Mapping[str, Callable[..., None]] = dataclasses.field(default_factory=dict)
    opening: Callable[[C], str] = lambda config: ""
    numbers: Callable[[Entry], Mapping[str, float | None]] = numbers
    rates: Sequence[str] = ()
    known: Callable[[C], Mapping[str, Any]] = nothing
    owned: Callable[[Path], Sequence[str]] = lambda folder: ()
    may_differ: Sequence[str] = ()
    unsaid: Sequence[str] = ()
    document: Document | None = None
    package: str = "experiments"

    def main(self, config: C, report: Callable[[str], None] = print) -> Summary:
        """Runs the study and prints what came out; returns the summary."""
        from jaxnet.lab.run import run_study, use_compilation_cache

        use_compilation_cache()
        summary, found = run_study(self, config, report=report)
        if self.document is not None and config.doc is not None:  # type: ignore[attr-defined]
            from jaxnet.lab.report import write_document

            groups, program = {"run": {"": summary}}, f"{self.package}.{self.name}"
            write_document(self.name, self.document, config, groups, found.comparisons, program)
        self.show(config, summary, report)
        return summary

    def show(self, config: C, summary: Summary, report: Callable[[str], None] = print) -> None:
        """Prints tables, diverged networks, seconds and the folder."""
        from jaxnet.lab.terminal import print_table

        for table in self.tables(summary):
            print_table(*table)
        line = diverged_line(summary["diverged"], sum(len(arm["seeds"]) for arm in summary["arms"].values()))
        if line is not None:
            report(line)
        timing = summary["timing"]
        report(
            f"compiled in {timing['compile_seconds']:.1f} s, ran for {timing['run_seconds']:.1f} s; "
            f"results in {user_path(config.out)}"  # type: ignore[attr-defined]
        )

    def command(self, description: str | None) -> None:
        """The command line ``python -m PACKAGE.NAME``."""
        prog = f"python -m {self.package}.{self.name}"
        run_main(self.main, self.config, description=description, prog=prog)


@dataclasses.dataclass(frozen=True)
class Controls(Generic[C]):
    """Several runs of studies compared on the same seeds, and the document of what came out.

    Attributes:
      name: its module.
      config: with the fields of :class:`jaxnet.lab.flags.DocumentFlags`.
      run: ``config -> groups``: by name, arms and their summaries.
      questions: what is asked of the arms, as :func:`jaxnet.lab.summary.every_arm` names them;
        or ``config -> questions``.
      values: ``(config, groups, comparisons) -> values`` that the template has besides.
      template: file in ``experiments/reports``.
      rates: measures that are truth values.
      plots: pictures beside the document by the end of their name, each drawn by
        ``draw(path, config, groups, comparisons)``; an empty end is the document's own name.
    """

    name: str
    config: type[C]
    run: Callable[[C], Mapping[str, Mapping[str, Summary]]]
    template: Path
    questions: Sequence[Question] | Callable[[C], Sequence[Question]] = ()
    values: Callable[..., Mapping[str, Any]] = nothing
    rates: Sequence[str] = ()
    plots: Mapping[str, Callable[..., None]] = dataclasses.field(default_factory=dict)

    def main(self, config: C) -> dict[str, Any]:
        """Runs all arms, compares them, prints and writes what came out."""
        from jaxnet.lab.compare import compare
        from jaxnet.lab.report import print_comparisons, write_document
        from jaxnet.lab.run import use_compilation_cache

        use_compilation_cache()
        groups = self.run(config)
        arms = every_arm(groups)
        asked = self.questions(config) if callable(self.questions) else self.questions
        comparisons = compare(arms, asked, rates=self.rates)
        if comparisons:
            print_comparisons(f"{self.name}, paired seeds", comparisons)
        line = diverged_line(diverged_in(arms), sum(len(arm["seeds"]) for arm in arms.values()))
        if line is not None:
            print(line)
        if config.doc is not None:  # type: ignore[attr-defined]
            document = Document(self.template, self.values, self.plots)
            write_document(self.name, document, config, groups, comparisons)
        return {"groups": groups, "comparisons": comparisons}

    def command(self, description: str | None) -> None:
        """The command line ``python -m experiments.NAME``."""
        run_main(self.main, self.config, description=description, prog=f"python -m experiments.{self.name}")
