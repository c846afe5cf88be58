"""A study: a question, as a configuration, what to run, what to measure, what to show.

This module loads without JAX, so that a wrong flag is answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jaxnet.files import json_safe, read_json, user_path
from jaxnet.lab.command import run_main
from jaxnet.lab.compare import Comparison, Question, compare
from jaxnet.lab.flags import BY_FINGERPRINT, MAY_DIFFER, UNSAID
from jaxnet.lab.shown import arms_and_verdicts, diverged_line, diverged_of
from jaxnet.lab.summary import Document, Found, arm_summary, every_arm, numbers, summarise

if TYPE_CHECKING:
    from jaxnet.data import Dataset

C = TypeVar("C")
Summary = dict[str, Any]
Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Page(Generic[C]):
    """What studies and comparisons of studies have in common.

    Attributes:
      name: its module, and the ``experiment`` of its summaries.
      config: its configuration, a frozen dataclass of :mod:`jaxnet.lab.flags`.
      run: what it does.
      document: for ``--doc``; None where the configuration has no such flag.
      rates: measures that are truth values.
      package: where its module is, for the command that starts it.
    """

    name: str
    config: type[C]
    run: Callable[..., Any]
    document: Document | None = None
    rates: Sequence[str] = ()
    package: str = "experiments"

    def command(self, description: str | None) -> None:
        """The command line ``python -m PACKAGE.NAME``."""
        prog = f"python -m {self.package}.{self.name}"
        run_main(self.main, self.config, description=description, prog=prog)  # type: ignore[attr-defined]

    def write(self, config: Any, groups: dict[str, Any], comparisons: Sequence[Comparison]) -> None:
        """Writes the document, where one is asked for."""
        if self.document is not None and config.doc is not None:
            from jaxnet.lab.report import write_document

            write_document(f"{self.package}.{self.name}", self.document, config, groups, comparisons)


@dataclasses.dataclass(frozen=True)
class Study(Page[C]):
    """A :class:`Page` whose ``run`` is ``(run, *given) -> Found``, with a :class:`jaxnet.lab.run.Run`.

    Attributes:
      load: ``config -> samples`` with ``name`` and ``fingerprint``; by default what the flags of data name.
      settle: ``(config, dataset) -> config``: decides what is ``auto``, refuses what cannot work.
      tables: ``summary -> tables`` (title, columns, rows) for the terminal.
      plots: files by name, each drawn by ``draw(path, summary, rows)``.
      opening: ``config -> line``, printed before anything is computed.
      numbers: ``entry -> numbers`` that are aggregated.
      known: ``config -> facts`` beside the provenance.
      owned: ``folder -> names`` of further files that a run writes.
      may_differ: flags that a continued run may change, besides the usual ones.
      unsaid: flags that are stored only where they have a value.
    """

    load: Callable[[C], Any] | None = None
    settle: Callable[[C, Any], C] = lambda config, dataset: config
    tables: Callable[[Summary], Sequence[tuple[Any, Any, Any]]] = arms_and_verdicts
    plots: Mapping[str, Callable[..., None]] = dataclasses.field(default_factory=dict)
    opening: Callable[[C], str] = lambda config: ""
    numbers: Callable[[dict[str, Any]], Mapping[str, float | None]] = numbers
    known: Callable[[C], Mapping[str, Any]] = lambda config: {}
    owned: Callable[[Path], Sequence[str]] = lambda folder: ()
    may_differ: Sequence[str] = ()
    unsaid: Sequence[str] = ()

    def main(self, config: C, report: Report = print) -> Summary:
        """Runs the study and prints what came out; returns the summary."""
        from jaxnet.programs import prepare_jax

        prepare_jax()
        summary, found = self.compute(config, report=report)
        self.write(config, {"run": {"": summary}}, found.comparisons)
        self.show(config, summary, report)
        return summary

    def show(self, config: Any, summary: Summary, report: Report = print) -> None:
        """Prints tables, diverged networks, seconds and the folder."""
        from jaxnet.lab.terminal import print_table

        for table in self.tables(summary):
            print_table(*table)
        number = sum(len(arm["seeds"]) for arm in summary["arms"].values())
        if line := diverged_line(summary["diverged"], number):
            report(line)
        compiled, ran = (summary["timing"][f"{what}_seconds"] for what in ("compile", "run"))
        report(f"compiled in {compiled:.1f} s, ran for {ran:.1f} s; results in {user_path(config.out)}")

    def compute(
        self, config: Any, *, report: Report = print, dataset: Dataset | None = None, given: Any = None
    ) -> tuple[Summary, Found]:
        """Runs the study in the folder that its configuration names, or continues it there.

        ``dataset`` saves loading it again, ``given`` is what ``run`` may take over from another run.
        Returns the summary, which is on disk with the plots, and what the study found.
        """
        from jaxnet.lab.run import Run, load
        from jaxnet.programs import Beside
        from jaxnet.provenance import provenance
        from jaxnet.store.folder import CONFIG, SUMMARY, RunFolder

        dataset = (self.load or load)(config) if dataset is None else dataset
        config = self.settle(config, dataset)
        # where the data lie does not change the results; which data they are does
        flags = {**dataclasses.asdict(config), "data_fingerprint": dataset.fingerprint}
        with (
            RunFolder.open(
                config.out,
                {flag: v for flag, v in flags.items() if v or flag not in (*self.unsaid, *UNSAID)},
                resume=config.resume,
                overwrite=config.overwrite,
                may_differ=(*MAY_DIFFER, *self.may_differ),
                only_stored=BY_FINGERPRINT,
                owns=(*self.plots, *self.owned(user_path(config.out))),
            ) as folder,
            contextlib.closing(Beside()) as beside,
        ):
            run = Run(config, dataset, folder, report, beside)
            if line := self.opening(config):
                report(line)
            known = {**provenance(), "dataset": dataset.name, "data_fingerprint": dataset.fingerprint}
            known |= self.known(config)
            folder.write_json("provenance.json", known)
            ended, before = folder.path / SUMMARY, folder.read_rows()
            took = read_json(ended)["timing"] if before and ended.exists() else None
            found: Found = self.run(run) if given is None else self.run(run, given)
            arms = {name: arm_summary(seeds, self.numbers, self.rates) for name, seeds in found.arms.items()}
            found.comparisons = compare(arms, found.questions, rates=self.rates)
            rows = folder.read_rows()  # where none is new, the run was only read again
            timing = took if took and rows == before else {**run.clock.as_dict(), **found.timing}
            head = {"experiment": self.name, "config": read_json(folder.path / CONFIG), "provenance": known}
            rest = {**summarise(arms, found.comparisons), **found.extra, "timing": timing}
            folder.write_json(SUMMARY, summary := json_safe({**head, **rest}))
            for name, draw in self.plots.items():
                draw(folder.path / name, summary, rows)
        return summary, found


@dataclasses.dataclass(frozen=True)
class Controls(Page[C]):
    """A :class:`Page` that compares runs of studies; ``run`` is ``config -> groups`` of summaries by arm.

    Attributes:
      questions: of the arms as :func:`jaxnet.lab.summary.every_arm` names them, or ``config -> questions``.
    """

    questions: Sequence[Question] | Callable[[C], Sequence[Question]] = ()

    def main(self, config: C) -> dict[str, Any]:
        """Runs all arms, compares them, prints and writes what came out."""
        from jaxnet.lab.report import print_comparisons
        from jaxnet.programs import prepare_jax

        prepare_jax()
        groups = self.run(config)
        arms = every_arm(groups)
        asked = self.questions(config) if callable(self.questions) else self.questions
        comparisons = compare(arms, asked, rates=self.rates)
        if comparisons:
            print_comparisons(f"{self.name}, paired seeds", comparisons)
        if line := diverged_of(arms):
            print(line)
        self.write(config, groups, comparisons)
        return {"groups": groups, "comparisons": comparisons}


def run_arms(
    study: Study[Any],
    arms: Mapping[str, Mapping[str, Any]],
    config: Any,
    *,
    shared: Sequence[str] = (),
    **values: Any,
) -> dict[str, Summary]:
    """Runs a study once per arm, in a folder each below ``config.out``; returns their summaries.

    Args:
      study: of one arm.
      arms: by name, what each changes in the study's configuration.
      config: the flags of the comparison, whose kernel and folder the arms share.
      shared: arms that agree in these flags start from one another's results.
      values: what all arms have besides.
    """
    from jaxnet.lab.run import arm_values, load

    configs = {name: study.config(**{**arm_values(config, name), **values, **arms[name]}) for name in arms}
    read, by = study.load or load, ("dataset", "data_dir", "protocol", "normalise")  # what ``load`` reads
    of = {name: tuple(getattr(arm, flag, None) for flag in by) for name, arm in configs.items()}
    datasets = {key: read(configs[name]) for key, name in {key: name for name, key in of.items()}.items()}
    settled = {name: study.settle(arm, datasets[of[name]]) for name, arm in configs.items()}  # before any
    known, summaries = dict[Any, Any](), {}
    for name, arm in settled.items():
        key = (of[name], *(getattr(arm, flag) for flag in shared)) if shared else name
        given, dataset = known.get(key), datasets[of[name]]
        summaries[name], found = study.compute(arm, report=lambda line: None, dataset=dataset, given=given)
        known.setdefault(key, found.shared)
    return summaries
