"""The pictures of docs/complexes.md: complex, exactness, pages, gluing, and how steps leave complexes.

python -m experiments.complex_pictures --out docs/images
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.files import user_path
from jaxnet.lab import option
from jaxnet.lab.flags import Flags


@dataclass(frozen=True)
class Config(Flags):
    """The pictures of docs/complexes.md."""

    out: str = option("docs/images", "folder for complex.png, pages.png, gluing.png, drift.png")

    def check(self) -> None:
        """Raises InputError where there is no such folder."""
        if not user_path(self.out).is_dir():
            raise InputError(f"--out {self.out}: there is no such folder")
        super().check()


def main(config: Config) -> None:
    """Draws all four; numbers in them are computed."""
    import jax

    jax.config.update("jax_enable_x64", True)
    folder = user_path(config.out)
    for name, draw in (
        ("complex", draw_complex),
        ("pages", draw_pages),
        ("gluing", draw_gluing),
        ("drift", draw_drift),
    ):
        draw(folder / f"{name}.png")


def draw_complex(path: Path) -> None:
    """Spaces as columns of what the maps send in, keep and send on."""
    import jax

    from jaxnet import homology

    plots, sizes, colors = lab.plots, (5, 8, 7, 4), ("#4c72b0", "#dd8452", "0.75")
    keys = jax.random.split(jax.random.key(3), 3)
    d = tuple(jax.random.normal(k, (b, a)) for k, a, b in zip(keys, sizes, sizes[1:], strict=False))
    left = jax.random.normal(jax.random.key(9), (7, 2)) @ jax.random.normal(jax.random.key(8), (2, 8))
    loose = homology.nearest((d[0], left, d[2] * 0.05))[0]
    exact = homology.nearest(d)[0]
    with plots.picture(path, 1, 2, size=(11, 4.4)) as axes:
        for one, maps, title in zip(
            axes, (loose, exact), ("a complex", "one that is exact inside"), strict=True
        ):
            numbers, spectrum = homology.betti(maps, 1e-9)
            rank = [0, *(int(r) for r in homology.ranks(maps, 1e-9).rank), 0]
            for k, n in enumerate(sizes):
                into, harmonic, out = rank[k], int(numbers[k]), rank[k + 1]
                assert into + harmonic + out == n, spectrum
                for low, high, color in (
                    (0, into, colors[0]),
                    (into, into + harmonic, colors[1]),
                    (into + harmonic, n, colors[2]),
                ):
                    if high > low:
                        one.bar(k, high - low, 0.3, low, color=color, edgecolor="white")
                        one.text(k, (low + high) / 2, str(high - low), ha="center", va="center")
                if out:
                    one.fill(
                        [k + 0.16, k + 0.84, k + 0.84, k + 0.16], [n - out, 0, out, n], color="0.9", zorder=0
                    )
            one.set(xticks=range(4), xticklabels=[f"space {k}\nh = {int(h)}" for k, h in enumerate(numbers)])
            one.set(ylabel="dimensions", ylim=(0, 10))
            plots.finish(one, title, grid="y")
        for color, name in zip(colors, ("image of the map before", "homology", "sent on"), strict=True):
            axes[1].bar(0, 0, color=color, label=name)
        axes[1].legend(frameon=False, fontsize=9, ncols=3, loc="upper center")


def filled_triangle() -> tuple[Any, Any]:
    """A triangle whose last side comes at level 1 and whose face comes at level 3."""
    import jax.numpy as jnp

    face, sides = jnp.array([[1.0], [1], [-1]]), jnp.array([[-1.0, 0, -1], [1, -1, 0], [0, 1, 1]])
    return (face, sides), [jnp.array([3]), jnp.array([0, 0, 1]), jnp.zeros(3, int)]


def draw_pages(path: Path) -> None:
    """Dimensions of every page of the triangle, and the differentials between them."""
    from jaxnet import homology

    d, level = filled_triangle()
    found = homology.pages(d, level)
    shown = (0, 1, 2, 3)
    names = ("face", "sides", "corners")
    with lab.plots.picture(path, 1, len(shown), size=(12, 2.9), sharey=True) as axes:
        for one, r in zip(axes, shown, strict=True):
            one.imshow(found.dims[r], cmap="Blues", vmin=0, vmax=4)
            for k in range(3):
                for p in range(4):
                    one.text(p, k, int(found.dims[r, k, p]), ha="center", va="center")
                    if found.rank[r, k, p]:
                        arrow = {"arrowstyle": "->", "color": "#c44e52", "lw": 2, "shrinkA": 9, "shrinkB": 9}
                        one.annotate("", (p - r, k + 1), (p, k), arrowprops=arrow)
            one.set(xticks=range(4), yticks=range(3), yticklabels=names, xlabel="level")
            one.set_title(f"page {r}" + (" = E-infinity" if r >= int(found.collapse) else ""))
        axes[-1].set_title(f"page 3 (collapses at {int(found.collapse)})")


def draw_gluing(path: Path) -> None:
    """Windows that overlap, and how many windows and spurious classes a position has."""
    import numpy as np

    from jaxnet.homology.glue import cover

    with lab.plots.picture(path, 1, 2, size=(11, 3.4)) as axes:
        for one, stride in zip(axes, (4, 2), strict=True):
            windows = 4 if stride == 4 else 7
            (m,) = cover(windows, 8, stride)
            h1 = len(m) - np.linalg.matrix_rank(m)
            over = np.bincount((np.arange(windows)[:, None] * stride + np.arange(8)).ravel())
            for u in range(windows):
                one.plot(
                    [u * stride - 0.4, u * stride + 7.4], [u, u], lw=6, color=lab.plots.COLORS[1], alpha=0.7
                )
            for t, n in enumerate(over):
                if n > 2:
                    one.axvspan(t - 0.5, t + 0.5, color="#c44e52", alpha=0.12, lw=0)
            one.set(
                xlabel="position (red: three windows or more)",
                ylabel="window",
                yticks=range(windows),
                xticks=range(0, 20, 2),
            )
            lab.plots.finish(one, f"width 8, stride {stride}: H1 of pairs has dimension {h1}", grid="x")


def draw_drift(path: Path) -> None:
    """The defect after steps in random directions: raw, tangent, in factors."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from jaxnet import homology

    sizes, plots = (6, 9, 8, 5), lab.plots
    keys = jax.random.split(jax.random.key(0), 3)
    start = tuple(jax.random.normal(k, (b, a)) for k, a, b in zip(keys, sizes, sizes[1:], strict=False))
    d = homology.nearest(start)[0]
    chains = {"raw": optax.identity(), "tangent": homology.tangent(), "factored": homology.factored(1e-9)}
    rates = jnp.geomspace(1e-5, 1e-3, 5)

    def run(chain: Any, state: Any, rate: Any, steps: int) -> Any:
        def step(carry: Any, key: Any) -> Any:
            d, state = carry
            ks = jax.random.split(key, len(d))
            moves = tuple(rate * jax.random.normal(k, m.shape, m.dtype) for k, m in zip(ks, d, strict=True))
            moves, state = chain.update(moves, state, d)
            d = optax.apply_updates(d, moves)
            return (d, state), jnp.linalg.norm(homology.defect(d))

        return jax.lax.scan(step, (d, state), jax.random.split(jax.random.key(1), steps))[1]

    with plots.picture(path, 1, 2, size=(11, 4.2)) as (left, right):
        for (name, chain), color in zip(chains.items(), plots.COLORS[1:], strict=False):
            state = chain.init(d)
            ten = jax.jit(jax.vmap(lambda rate, c=chain, s=state: run(c, s, rate, 10)[-1]))(rates)
            slope = np.polyfit(np.log(rates), np.log(ten), 1)[0]
            label = f"{name}: slope {slope:.2f}" if name != "factored" else f"{name}: rounding"
            left.loglog(rates, ten, "o-", color=color, label=label)
            long = jax.jit(lambda c=chain, s=state: run(c, s, 1e-3, 1000))()
            right.loglog(np.arange(1, 1001), long, color=color, label=f"{name}: {long[-1]:.1e} at the end")
        left.set(xlabel="length of a step", ylabel="defect after 10 steps")
        right.set(xlabel="step of length 0.001", ylabel="defect")
        plots.finish(left, "by the length of a step")
        plots.finish(right, "by the number of steps")


if __name__ == "__main__":
    lab.run_main(main, Config, description=__doc__, prog="python -m experiments.complex_pictures")
