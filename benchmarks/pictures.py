"""The README's picture of the speed, as ratios to PyTorch.

    make pictures

measures and draws it (the Makefile has the commands). The speed of a sweep is that of one core, by the
processor's time, which others on the machine change less; that of a large network stands in the table of
docs/kernels.md. Ratios are those of a round, in which the ways took turns; shown are median and range.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._report import Spread, ratio, spread
from jaxnet.errors import InputError
from jaxnet.files import read_json, user_path
from jaxnet.lab.command import run_main
from jaxnet.lab.flags import Flags, option

SWEEP = {
    "csr": "jaxnet, sparse kernel",
    "csr_whole": "jaxnet, also units that\nno output reads",
    "jax_masked_live": "JAX, masked, without units\nthat no output reads",
    "jax_masked": "JAX, masked",
    "torch_vmap": "PyTorch, torch.func.vmap",
    "torch_loop": "PyTorch, one by one",
}
LARGE = {
    "csr vs torch_masked": ("PyTorch, masked", "#4c72b0"),
    "csr vs masked": ("JAX, masked", "#55a868"),
    "csr vs torch_csr": ("PyTorch, CSR", "#c44e52"),
    "csr vs sparseprop": ("SparseProp", "#8172b3"),
}
"""What is drawn, by its name in the results or the head of its column, and what it is called."""

SECOND = {"wall": "second", "processor": "second of one core"}


@dataclass(frozen=True)
class Config(Flags):
    """Draws the picture of the README from what was measured."""

    sweep: str = option("docs/images/speed.json", "result of benchmarks.seed_sweep")
    doc: str = option("docs/kernels.md", "document with the table of benchmarks.large_network")
    folder: str = option("docs/images", "where the picture goes")

    def check(self) -> None:
        """Raises InputError for a folder that is not there."""
        if not user_path(self.folder).is_dir():
            raise InputError(f"--folder {self.folder}: there is no such folder")


def _sweep(axes: Any, result: Mapping[str, Any]) -> None:
    (name, found), config = next(iter(result["by_batch"].items())), result["config"]
    rounds = len(found["load_before_rounds"])
    seconds = {way: found["seconds_per_seed"][way]["values"] for way in SWEEP}
    ratios = {way: ratio(seconds["torch_loop"], values) for way, values in seconds.items()}
    for place, (way, times) in enumerate(reversed(ratios.items())):
        axes.barh(place, times["median"], color="#c44e52" if way.startswith("csr") else "0.7", height=0.6)
        if way != "torch_loop":
            about = [[times["median"] - times["min"]], [times["max"] - times["median"]]]
            axes.errorbar(times["median"], place, xerr=about, color="0.2", capsize=3)
        axes.annotate(
            f"{times['median']:.3g} ×", (times["max"], place), (6, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(SWEEP)), list(reversed(SWEEP.values())))
    axes.set_xlabel(f"networks trained per {SECOND[config['clock']]}, relative to a tuned PyTorch loop")
    hidden = "-".join(map(str, config["hidden"]))
    axes.set_title(
        f"Many small networks\n{config['dataset']}, 784-{hidden}-10, {100 * config['density']:g} % "
        f"of the weights, batch {name[1:]}; n = {rounds} rounds",
        fontsize=9,
    )
    axes.margins(x=0.18)
    axes.grid(alpha=0.3, axis="x")


def read_table(doc: Path) -> tuple[str, str, dict[str, list[Spread]]]:
    """The table of ``benchmarks.large_network`` in a document: title, machine, and columns by their head."""
    text = doc.read_text(encoding="utf-8")
    lines = text.partition("<!-- large_network -->")[2].partition("<!-- end")[0].strip().splitlines()
    if not lines:
        raise InputError(f"{doc} has no table of benchmarks.large_network")
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|")
    found: dict[str, list[Spread]] = {}
    for row in rows:
        for name, cell in zip(head, row, strict=True):
            values = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell)]  # median (min..max)
            found.setdefault(name, []).append(spread(values))
    machine = next(line for line in lines[1:] if line and line[0] != "|").partition(";")[0]
    return lines[0], machine, found


def _large(axes: Any, title: str, table: Mapping[str, Sequence[Spread]]) -> None:
    densities = [found["median"] for found in table["density"]]
    for column, (label, color) in LARGE.items():
        found = table[column]
        medians = [f["median"] for f in found]
        about = [[f["median"] - f["min"] for f in found], [f["max"] - f["median"] for f in found]]
        axes.errorbar(
            densities, medians, about, color=color, marker="o", ms=4, capsize=3, label=f"than {label}"
        )
    axes.axhline(1, color="0.3", lw=1)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(densities, [f"{d:g}" for d in densities])
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.set(xlabel="weights that exist (%)", ylabel="jaxnet trains faster by a factor of")
    data, sizes, batch = title.partition(":")[0].split(", ")
    rounds = title.rstrip(".").split()[-1]
    axes.set_title(f"One large network\n{data}, {sizes}, {batch}; n = {rounds} rounds", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_speed(path: Path, sweep: Mapping[str, Any], doc: Path) -> None:
    """Both comparisons side by side; a line says on which machine."""
    from jaxnet.lab import plots

    figure, (left, right) = plots.plt.subplots(
        1, 2, figsize=(10.4, 4.0), layout="constrained", width_ratios=[1.15, 1]
    )
    _sweep(left, sweep)
    title, there, table = read_table(doc)
    _large(right, title, table)
    machine, versions = sweep["machine"], sweep["provenance"]["versions"]
    told = "median and range of the ratios of a round, in which the ways took turns; "
    load = statistics.median(next(iter(sweep["by_batch"].values()))["load_before_rounds"])
    told += f"left: {machine['processor']}, {machine['cpu_cores']} core(s), load {load:.0f}; right: {there}; "
    told += f"jax {versions['jax']}, torch {versions['torch']}"
    figure.supxlabel(told, fontsize=7.5, color="0.35")
    plots.save_figure(figure, path)


def main(config: Config) -> None:
    """Draws both comparisons."""
    folder = user_path(config.folder)
    draw_speed(folder / "speed.png", read_json(config.sweep), user_path(config.doc))
    print(f"speed.png in {folder}")


if __name__ == "__main__":
    run_main(main, Config, prog="python -m benchmarks.pictures", description=__doc__)
