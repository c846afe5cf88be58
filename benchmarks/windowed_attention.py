"""Local attention in blocks against attention to the whole past, and against a mask of the same window.

What is timed is attention alone, forward and with its gradient, as one compiled program each; the cases take
turns. A mask of the window over all pairs computes every score and throws most of them away. Wanted: at
length 1,024 on a CPU the blocks take at most two thirds of the time of the whole past.

    python -m benchmarks.windowed_attention --json windowed_attention.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import _report as report
from jaxnet.lab import option, run_main


@dataclass(frozen=True)
class Config(report.ClockFlags):
    """Local attention in blocks against attention to the whole past."""

    length: int = option(1024, "of a sequence", "tokens", least=1)
    window: int = option(128, "that a token sees, itself included", "tokens", least=1)
    batch_size: int = option(4, "at once", "sequences", least=1)
    heads: int = option(4, "of attention", least=1)
    head_width: int = option(32, "of a head", "units", least=1)
    repeats: int = option(7, "measurements of each, in turn", least=1)


def main(config: Config) -> None:
    """Measures, prints and writes."""
    import jax

    from jaxnet.provenance import provenance
    from jaxnet.transformer import attend

    report.use_clock(config.clock)
    shape = (3, config.batch_size, config.length, config.heads, config.head_width)
    heads = jax.random.normal(jax.random.key(0), shape)
    seen = (config.window - 1, 0)

    def masked(query: Any, key: Any, value: Any) -> Any:
        return jax.nn.dot_product_attention(query, key, value, is_causal=True, local_window_size=seen)

    ways = {
        "whole past": attend,
        "masked": masked,
        "blocks": lambda query, key, value: attend(query, key, value, config.window),
    }

    def case(program: Any) -> Callable[[], object]:
        jitted = jax.jit(program)
        return lambda: jax.block_until_ready(jitted(*heads))

    cases: dict[str, Callable[[], object]] = {}
    for name, way in ways.items():
        cases[f"{name}, forward"] = case(way)
        cases[f"{name}, gradient"] = case(jax.grad(lambda *qkv, way=way: way(*qkv).sum(), (0, 1, 2)))
    times = report.alternate(cases, config.repeats)
    ratios = {
        f"{name} / blocks, {what}": report.ratio(times[f"{name}, {what}"], times[f"blocks, {what}"])
        for name in ("whole past", "masked")
        for what in ("forward", "gradient")
    }
    rows = [[name, report.shown(report.spread([1e3 * t for t in found]), 1)] for name, found in times.items()]
    rows += [[name, report.shown(found, 2)] for name, found in ratios.items()]
    summary = report.describe(report.machine(), provenance()["versions"])
    title = f"{config.length} tokens, window {config.window}, {config.batch_size} sequences"
    report.publish("windowed_attention", title, ["what", "ms, or ratio"], rows, summary, None)
    seconds = {name: report.spread(t) for name, t in times.items()}
    report.write_numbers(config.json, config, {"seconds": seconds, "ratios": ratios})


if __name__ == "__main__":
    run_main(main, Config, description=__doc__, prog="python -m benchmarks.windowed_attention")
