"""One arm of ``experiments.level_transformer``: all seeds and tuning points side by side, look by look."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import option

if TYPE_CHECKING:
    from jaxnet.data.text import Text
    from jaxnet.transformer import Spec

LOOKED = 64
"""Windows all over the validation text, after every look and for the disagreement."""

TESTED = 512
"""Windows all over the test text, and held-out sentences of every suite, in runs of some length."""


@dataclass(frozen=True)
class TextFlags(lab.RunFlags, lab.SeedFlags):
    """Which text, which suites, which decoder."""

    dataset: str = option("stdlib", "text: stdlib (this Python's standard library), or path of a file")
    limit: int = option(1 << 22, "of the text that are read at most", "bytes", least=1)
    suite_share: float = option(
        0.25, "of every batch, that are sentences of the suites", "in (0, 1)", fraction=True
    )
    suite_samples: int = option(2000, "sentences of every suite to learn from", "samples", least=1)
    heads: int = option(4, "of every attention", least=1)
    windows: tuple[str, ...] | None = option(
        None, "of every layer: full, so many tokens, or top-NUMBER: the largest scores; none: all full"
    )
    batch_size: int = option(8, "sequences per step", "sequences", least=1)
    kernel: Literal["auto", "dense", "csr"] = option("dense", "all weights are there", cli=False)


@dataclass(frozen=True)
class ArmConfig(TextFlags):
    """One arm, at one decoder."""

    arm: str = option("plain", "one of the arms")
    rates: tuple[float, ...] = option((1e-3,), "learning rates, side by side")
    strengths: tuple[float, ...] = option((1.0,), "values of its dial, one for each rate")
    length: int = option(64, "of a sequence", "tokens", least=2)
    width: int = option(16, "of the stream", "units", least=1)
    hidden: int | None = option(None, "of the perceptrons", "units")
    layers: int = option(2, "blocks", least=1)
    steps: int = option(40, "of training", "steps", least=1)
    looks: int = option(10, "in these steps", least=1)
    fair_looks: float | None = option(None, "looks after which the products are those of the plain decoder")
    tested: int = option(TESTED, "windows of the test text, and held-out sentences of every suite", least=1)
    judged: bool = option(True, "read the test text")


def make_spec(config: Any, vocab: int) -> Spec:
    """The decoder; InputError where it cannot be."""
    from jaxnet.transformer import Spec, window_of

    hidden = getattr(config, "hidden", None)
    try:
        windows = tuple(window_of(word) for word in config.windows or ())
        return Spec(vocab, config.length, config.width, config.heads, config.layers, windows, hidden)
    except ValueError as error:
        raise InputError(str(error)) from None


def vocab_of(text: Text) -> int:
    """Bytes, and behind them the words of the suites."""
    from jaxnet import suites

    return text.vocab + suites.VOCAB


def load_text(config: TextFlags) -> Text:
    """The text, read as bytes."""
    from jaxnet.data import text

    return text(config.dataset, limit=config.limit)


def settle_arm(config: ArmConfig, text: Any) -> ArmConfig:
    """Checks what can be checked before anything is written."""
    make_spec(config, vocab_of(text))
    for part in ("train", "val", "test"):
        text.windows(part, config.length, batch_size=config.batch_size)
    if not 1 <= round(config.suite_share * config.batch_size) < config.batch_size:
        raise InputError(
            f"--suite-share {config.suite_share:g} of {config.batch_size} sequences leaves no sequence "
            "for the text or for the suites: raise --batch-size"
        )
    if config.length < (longest := longest_sentence()):
        raise InputError(f"--length: sequences of {longest} tokens do not fit into {config.length}")
    if config.steps % config.looks:
        raise InputError(f"{config.steps} steps are no multiple of {config.looks} looks")
    return config


def longest_sentence() -> int:
    """Tokens of the longest sentence of a suite, without its last answer."""
    from jaxnet import suites

    rng = np.random.default_rng(0)
    return max(grammar.draw(rng, 1, False).shape[1] - 1 for grammar in suites.SUITES.values())


class Material:
    """What is learned from and judged by, on the device."""

    def __init__(self, config: ArmConfig, text: Text) -> None:
        """Sentences to learn from and others, held out, to judge by."""
        import jax
        import jax.numpy as jnp

        from experiments._level_measures import spread_over
        from jaxnet import suites
        from jaxnet.data.sequences import Mixed, Sequences, padded
        from jaxnet.keys import key_of

        def drawn(purpose: int, samples: int, others: Any = None) -> list[suites.Drawn]:
            keys = jax.random.split(jax.random.fold_in(key_of(config.data_seed), purpose), len(suites.SUITES))
            apart = [None] * len(keys) if others is None else [one.data for one in others]
            each = zip(suites.SUITES, keys, apart, strict=True)
            return [suites.suite(name, key, samples, apart_from=seen) for name, key, seen in each]

        def behind(one: Sequences) -> Sequences:
            one = padded(one, config.length)
            return one.replace(x=one.x + text.vocab, y=one.y + text.vocab)

        windows = partial(text.windows, length=config.length)
        held = drawn(1, config.tested)
        known = [padded(one.data, config.length) for one in drawn(0, config.suite_samples, held)]
        others = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *known)
        self.train = Mixed(windows("train"), others, text.vocab)

        def spread(part: str, number: int) -> Sequences:
            whole = windows(part)
            x, y = whole.batch(jnp.asarray(spread_over(whole.size, number)))
            return Sequences(x, y, jnp.ones(x.shape))

        self.val = spread("val", LOOKED)
        parts = [spread("test", config.tested), *(behind(one.data) for one in held)]
        parts += [behind(one.control) for one in held]
        self.judged = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
        self.names = tuple(suites.SUITES)


def plain_optimizer(steps: int) -> Any:
    """Adam at a rate that is set in its state, after a short warm-up; gradients are clipped at norm 1.

    The rate does not fall: so the loss after every step is that of a run of as many steps.
    """
    import optax

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.scale_by_schedule(optax.linear_schedule(0.0, 1.0, max(1, steps // 20))),
        optax.inject_hyperparams(optax.scale)(step_size=-1.0),
    )


def batches(config: ArmConfig, train: Any, key: Any, look: Any) -> Any:
    """The samples of the steps up to a look: text and, in every step as many, sentences of the suites."""
    import jax
    import jax.numpy as jnp

    from jaxnet.keys import ORDER, purpose
    from jaxnet.train import Batches

    steps, size = config.steps // config.looks, config.batch_size
    some = round(config.suite_share * size)
    first, second = jax.random.split(purpose(key, ORDER, look))
    text = jax.random.randint(first, (steps, size - some), 0, train.text.size)
    others = jax.random.randint(second, (steps, some), train.text.size, train.size)
    return Batches(jnp.concatenate([text, others], 1), jnp.ones((steps, size)))


def run_arm(run: lab.Run[ArmConfig]) -> lab.Found:
    """Trains all points of all seeds, and judges them at equal steps and at equal products."""
    import jax
    import jax.numpy as jnp
    import optax

    from experiments._level_measures import Cost, judge, judgements
    from experiments._rounds import Together, quickly, run_rounds
    from jaxnet.keys import INIT, purpose
    from jaxnet.levels import ARMS, num_params
    from jaxnet.programs import ONCE
    from jaxnet.train import Net, evaluate, train_batches

    config, text, arm = run.config, run.dataset, ARMS[run.config.arm]
    spec, stuff = make_spec(config, vocab_of(text)), Material(config, text)  # type: ignore[arg-type]
    points = len(config.rates)
    seeds, count = list(run.seeds), len(config.rates) * len(run.seeds)
    keys = jnp.concatenate([run.keys] * points)
    rates, strengths = (
        jnp.repeat(jnp.asarray(v, jnp.float32), len(seeds)) for v in (config.rates, config.strengths)
    )
    together, number = Together(run, count), partial(jnp.asarray, dtype=jnp.int32)
    phases = arm.trained(spec, config.steps)
    ends = np.cumsum([steps for _, steps in phases])
    tasks = [arm.task(one, config.batch_size, eval_batch_size=LOOKED) for one, _ in phases]
    plain = plain_optimizer(config.steps)
    optimizer = plain if arm.optimizer is None else arm.optimizer(spec, plain, config.steps)
    every = config.steps // config.looks
    judged = judgements(config.looks, config.fair_looks or config.looks) if config.judged else []
    looks = max([config.looks, *(when for _, when, _ in judged)])
    parts, how = len(stuff.judged.x), quickly(num_params(arm.module(spec)))

    def begin(key: Any, rate: Any, strength: Any) -> dict[str, Any]:
        # parameters have the same shapes in all phases
        params, structure = tasks[0].model.init(jnp.zeros((1, 2), jnp.int32), key=purpose(key, INIT))  # type: ignore[attr-defined]
        net = Net.of(params, structure, optimizer, arm.carried(spec, params, strength, 0.0))
        net = net.replace(opt_state=optax.tree_utils.tree_set(net.opt_state, step_size=-rate))
        blank = {
            "loss": jnp.full(parts, jnp.nan),
            "right": jnp.full(parts, jnp.nan),
            "apart": jnp.asarray(jnp.nan),
        }
        unknown = jnp.full(looks, jnp.nan)  # seconds are in the state, so that a continued run has them too
        return {"net": net, "curve": unknown, "seconds": unknown, "steps": blank, "flops": blank}

    def learn(phase: int, net: Net, key: Any, strength: Any, look: Any, train: Any, val: Any) -> Any:
        one, progress = phases[phase][0], jnp.minimum(look * every / config.steps, 1.0)
        net = net.replace(carried=arm.carried(one, net.params, strength, progress))
        net = train_batches(tasks[phase], net, train, batches(config, train, key, look))[0]
        return net, evaluate(tasks[phase], net.params, net.structure, val).loss

    last = partial(judge, tasks[-1])

    def step(t: int, state: Any) -> Any:
        phase = min(int(np.searchsorted(ends, t * every, side="right")), len(phases) - 1)
        args = state["net"], keys, strengths, number(t), stuff.train, stuff.val
        each, before = (True, True, True, False, False, False), run.clock.run_seconds
        net, loss = together(f"learning, phase {phase}", partial(learn, phase), each, *args, **how)
        state = {**state, "net": net, "curve": state["curve"].at[:, t].set(loss)}
        state["seconds"] = state["seconds"].at[:, t].set(run.clock.run_seconds - before)
        for name, when, share in judged:
            if t + 1 == when:
                given = net.params, net.structure, stuff.judged, stuff.val
                now = together("the test", last, (True, True, False, False), *given, **how)
                mixed = jax.tree.map(lambda old, new, s=share: old + s * (new - old), state[name], now)
                state[name] = now if share == 1 else mixed
        values = np.asarray(loss, float)
        rows = [
            {"seed": seed, "rate": rate, "strength": strength, "phase": config.arm, "look": t + 1}
            | {"steps": (t + 1) * every, "loss": float(values[point * len(seeds) + place])}
            for point, (rate, strength) in enumerate(zip(config.rates, config.strengths, strict=True))
            for place, seed in enumerate(seeds)
        ]
        return state, rows

    def start() -> Any:
        return together("the start", begin, (True, True, True), keys, rates, strengths, options=ONCE)

    def shapes(done: int) -> Any:
        return jax.eval_shape(jax.vmap(begin), keys, rates, strengths)

    end = run_rounds(run, config.arm, looks, start, step, shapes)
    curve = np.asarray(end["curve"], float)
    gone = ~np.isfinite(curve).all(1)
    measures: dict[str, Any] = {"val": curve[:, config.looks - 1], "curve": curve.tolist()}
    if config.judged:
        found, fairly = (jax.tree.map(lambda x: np.asarray(x, float), end[k]) for k in ("steps", "flops"))
        number_of = len(stuff.names)
        right, control = found["right"][:, 1 : 1 + number_of], found["right"][:, 1 + number_of :]
        measures |= {"loss": found["loss"][:, 0], "loss_at_equal_flops": fairly["loss"][:, 0]}
        gone |= ~np.isfinite(measures["loss"] + measures["loss_at_equal_flops"])
        measures |= {"suites": right.mean(1), "controls": control.mean(1), "disagreement": found["apart"]}
        measures["suite"] = {name: right[:, k] for k, name in enumerate(stuff.names)}
        if (tell := arm.told) is not None:

            def told(params: Any, x: Any) -> Any:
                return tell(tasks[-1].model(params, {}, x, key_forward=None)[1])

            args = end["net"].params, stuff.judged.x[0, :LOOKED]
            numbers = together("what the arm tells", told, (True, False), *args, **how)
            measures["told"] = {name: np.asarray(value, float) for name, value in numbers.items()}
    names = [f"{r:g} x {s:g}" for r, s in zip(config.rates, config.strengths, strict=True)]
    cost = Cost.of(config, arm, spec)
    extra = {"kernel": config.kernel, "spec": dataclasses.asdict(spec), "cost": cost._asdict()}
    tokens = every * config.batch_size * config.length * count
    timing = {"tokens_per_second": tokens / float(np.median(np.asarray(end["seconds"])))}
    given = {"params": end["net"].params, "task": tasks[-1], "stuff": stuff, "params_count": cost.params}
    arms = lab.entries(seeds, names, diverged=gone, **measures)
    return lab.Found(arms, extra=extra, timing=timing, shared=given)


ARM: lab.Study[ArmConfig] = lab.Study("level_transformer", ArmConfig, run_arm, settle=settle_arm)
