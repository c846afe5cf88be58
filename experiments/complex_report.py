"""What a chain of matrices is: ranks, rank bars, how far from a complex, homology, pages.

The file's matrices are maps d[0], d[1], ... in its order, each (outputs, inputs). Arrays called level... are
the levels of the basis vectors of every space, in order; one called points... is a cloud (points,
coordinates) whose persistence GUDHI computes.

    python -m experiments.complex_report weights.npz
    python -m experiments.complex_report weights.npz --tol 1e-6 --out report
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.files import user_path, write_bytes
from jaxnet.lab import option
from jaxnet.lab.flags import Flags


@dataclass(frozen=True)
class Config(Flags):
    """What a chain of matrices is: ranks, rank bars, how far from a complex, homology, pages."""

    file: str = option("", "an .npz file with matrices; may be given without the flag")
    tol: float = option(1e-9, "singular values above this share of the largest one count; float64")
    points: int = option(150, "points of a cloud at most, the first ones", "points", least=2)
    out: str = option("checkpoints/complex_report", "folder for report.md and barcode.png")

    def check(self) -> None:
        """Raises InputError where there is no file or no tolerance."""
        if not user_path(self.file).is_file():
            raise InputError(f"give an .npz file with matrices: {self.file or 'none'} is no file")
        if not (math.isfinite(self.tol) and 0 < self.tol < 1):
            raise InputError(f"--tol must be above 0 and below 1: {self.tol}")
        super().check()


def main(config: Config) -> None:
    """Prints the report, and writes it with its picture."""
    from experiments import _complex_found as found

    read = found.read(user_path(config.file))
    said, bars, cloud = found.report(read, config.tol, config.points)
    text = f"# What {user_path(config.file).name} is\n\n{said}\n"
    folder = user_path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    maps = list(read.maps.values())
    sizes = [maps[0].shape[1], *(m.shape[0] for m in maps)]
    found.draw(folder / "barcode.png", bars, sizes, cloud)
    write_bytes(
        folder / "report.md", f"{text}\n![Rank bars, and persistence of points](barcode.png)\n".encode()
    )
    print(text)
    print(f"report in {folder}")


def arguments(given: Sequence[str]) -> list[str]:
    """Arguments in which a file that comes first has its flag."""
    return ["--file", *given] if given and not given[0].startswith("--") else list(given)


if __name__ == "__main__":
    prog = "python -m experiments.complex_report"
    lab.run_main(main, Config, arguments(sys.argv[1:]), description=__doc__, prog=prog)
