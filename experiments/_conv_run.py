"""One arm of ``experiments.cifar10_conv``: networks that are drawn, changed and trained in one way."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import jaxnet
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option

if TYPE_CHECKING:
    from jaxnet.data import Dataset

MOST = 3_000_000
"""Multiply-adds of the base for an image, at most."""

UNTIL = 0.75
"""Share of the training after which no weight is exchanged any more."""

PRUNED_FROM, PRUNED_UNTIL = 0.05, 0.6
"""Shares of the training between which networks that start dense are pruned."""

RATE = 6e-3
"""Adam's, at the top of its cycle."""

SEEN = 5000
"""Training images by which extrema are found."""


@dataclass(frozen=True)
class ArmConfig(lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """A convolutional base with a sparse head, in one way."""

    blocks: tuple[str, ...] = option(
        ("12", "24", "40-40", "80"), "channels of the convolutions of every block, which ends with a pooling"
    )
    hidden: tuple[int, ...] = option((128,), "hidden layers of the head")
    weights: int = option(
        59_000, "that exist at the end, of base, head and what is added; no biases, no normalisation", least=1
    )
    base_share: float = option(
        0.65, "of the weights, in the base; 1: every weight of the base", fraction=True
    )
    start: Literal["sparse", "dense", "small"] = option("sparse", "small: a dense network of as many weights")
    base: Literal["joint", "frozen"] = option("joint", "frozen: not trained in the second phase")
    method: Literal["none", "set", "rigl", "magnitude"] = option("none", "what changes base and head")
    every: int = option(100, "steps between two changes", "steps", least=1)
    adds: Literal["none", "nothing", "patches", "channels", "growth"] = option(
        "none", "what the second phase begins with; none: there is one phase of all epochs"
    )
    placement: Literal["extrema", "random", "least"] = option("extrema", "where it is added")
    added: int = option(3_000, "weights that are added", least=1)
    epochs: int = option(8, "of the first phase", "epochs", least=1)
    more_epochs: int = option(4, "of the second phase", "epochs", least=1)
    batch_size: int = changed(lab.BatchFlags, "batch_size", 128)
    lr: float | None = changed(lab.TrainFlags, "lr", RATE)
    lr_patch: float = option(3e-3, "of patches", above=0)
    num_seeds: int = changed(lab.SeedFlags, "num_seeds", 3)

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        if not base_of(self.blocks) or not self.hidden or min(self.hidden) < 1:
            raise InputError(f"--blocks and --hidden must name one or more: {self.blocks}, {self.hidden}")
        if self.adds != "none" and self.start != "sparse":
            raise InputError(f"--adds {self.adds} needs --start sparse")
        if self.base == "frozen" and self.adds == "none":
            raise InputError("--base frozen needs a second phase: --adds nothing or more")
        if self.adds != "none" and self.added >= self.weights:
            raise InputError(f"--added {self.added} must be fewer than --weights {self.weights}")
        super().check()

    @property
    def phases(self) -> int:
        """One, or two with something (or nothing) added between them."""
        return 1 if self.adds == "none" else 2

    @property
    def at_start(self) -> int:
        """Weights before anything is added."""
        return self.weights - (self.added if self.phases > 1 else 0)


SHARED = (
    *(
        "phases",
        "blocks",
        "hidden",
        "weights",
        "base_share",
        "start",
        "method",
        "every",
        "added",
        "num_seeds",
    ),
    *("epochs", "more_epochs", "lr", "lr_patch", "batch_size", "augment", "seed"),
)
"""Arms of two phases that agree in these share the first."""


def base_of(blocks: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Channels by their names, for instance ``48-48``; InputError where one names none."""
    for block in blocks:
        if not all(width.isdecimal() and int(width) for width in block.split("-")):
            raise InputError(f"--blocks must be channels joined by '-', for instance 48-48: {block!r}")
    return tuple(tuple(map(int, block.split("-"))) for block in blocks)


def shapes_of(config: ArmConfig, dataset: Dataset) -> list[tuple[int, ...]]:
    """Shapes of all arrays of weights."""
    from experiments import _conv_net as nets

    return nets.layers(base_of(config.blocks), dataset.image_shape, config.hidden, dataset.num_classes)


def settle(config: ArmConfig, dataset: Dataset) -> ArmConfig:
    """Refuses what cannot work; makes a small dense network small."""
    from experiments import _conv_add as adding
    from experiments import _conv_net as nets

    image, classes = dataset.image_shape, dataset.num_classes
    if len(image) != 3 or min(image[:2]) >> len(config.blocks) < 1:
        raise InputError(
            f"{len(config.blocks)} poolings need images of at least {2 ** len(config.blocks)} pixels a "
            f"side: {dataset.name} has samples of {'x'.join(map(str, image))}"
        )
    try:
        if config.start == "small":
            found = nets.small_like(base_of(config.blocks), image, config.hidden, classes, config.weights)
            blocks = tuple("-".join(map(str, block)) for block in found[0])
            config = dataclasses.replace(config, blocks=blocks, hidden=found[1])
        elif config.start == "sparse":
            shapes = shapes_of(config, dataset)
            adding.room_for(config, shapes, nets.counts_of(shapes, config.at_start, config.base_share))
        method_of(config, dataset)
    except ValueError as error:
        raise InputError(str(error)) from None
    if (macs := nets.multiply_adds(base_of(config.blocks), image)) > MOST:
        raise InputError(f"--blocks {','.join(config.blocks)}: {macs} multiply-adds an image, over {MOST}")
    if config.kernel == "csr":
        raise InputError("--kernel csr: a head this dense, or masked, is computed as dense arrays")
    lab.run.check_samples(config, dataset)
    return dataclasses.replace(config, kernel="dense", lr=config.lr or RATE)


def steps_of(config: ArmConfig, dataset: Dataset) -> tuple[int, int]:
    """Steps of the first (or only) phase and of both."""
    each = -(-len(dataset.y_train) // config.batch_size)
    total = each * (config.epochs + config.more_epochs)
    return (total if config.adds == "none" else each * config.epochs), total


def method_of(config: ArmConfig, dataset: Dataset) -> Any:
    """What changes the structure in the first phase; None without one."""
    from jaxnet import methods

    steps, _ = steps_of(config, dataset)
    if config.method == "none":
        return None
    if config.method == "magnitude":
        begin, end = (max(1, round(share * steps)) for share in (PRUNED_FROM, PRUNED_UNTIL))
        density = (config.weights + 0.5) / sum(map(math.prod, shapes_of(config, dataset)))
        rules: dict[str, Any] = {"density": density, "begin": begin, "end": end, "scope": "lamp"}
        return methods.make("magnitude", every=config.every, **rules)
    if (until := int(UNTIL * steps)) <= config.every:
        raise InputError(f"--every {config.every}: there are changes until step {until} only: train longer")
    return methods.make(config.method, every=config.every, until=until)


def make_stages(run: lab.Run[ArmConfig]) -> tuple[Any, list[lab.Stage]]:
    """How the networks are trained: in one phase, or in two with something added between them."""
    import jax
    import optax

    from experiments import _conv_add as adding
    from experiments import _conv_net as nets

    config, dataset = run.config, run.dataset
    image: Any = dataset.image_shape
    model = nets.model_of(base_of(config.blocks), image, config.hidden, dataset.num_classes)
    rules: dict[str, Any] = {
        "batch_size": config.batch_size,
        "transform": lab.run.augmentation(config, dataset),
    }
    task = jaxnet.Task(model, **rules)
    shapes, (first, total) = shapes_of(config, dataset), steps_of(config, dataset)
    counts = [math.prod(shape) for shape in shapes]
    if config.start == "sparse":
        counts = nets.counts_of(shapes, config.at_start, config.base_share)
    rates = {
        "scaffold": optax.cosine_onecycle_schedule(total, config.lr or RATE, 0.2, 25, 1e3),
        "patch": optax.cosine_decay_schedule(config.lr_patch, max(1, total - first)),
    }
    optimizer = jaxnet.grouped({name: optax.adam(rate) for name, rate in rates.items()})
    method = method_of(config, dataset)

    def start(key: Any, before: Any) -> Any:
        del before
        network = nets.draw(model, counts, image, dense=config.start != "sparse", key=key)
        net = jaxnet.Net.of(*network, optimizer)
        return jaxnet.init_state(net, method, key=jaxnet.keys.purpose(key, jaxnet.keys.METHOD))

    if config.adds == "none":
        epochs = config.epochs + config.more_epochs
        return task, [
            lab.Stage("train", epochs, task, start, order=0, method=method, between=only_small(run))
        ]

    def keep(state: Any, split: Any) -> Any:
        return {"state": state, "found": jax.vmap(adding.find, (None, 0, None))(task, state, split)}

    def second(key: Any, before: Any) -> Any:
        return adding.changed(config, before["state"], before["found"], key)

    frozen = dataclasses.replace(model, frozen=config.base == "frozen")
    seen = run.split("train", slice(SEEN))
    return task, [
        lab.Stage("first", config.epochs, task, start, keep=keep, samples=seen, order=0, method=method),
        lab.Stage(
            "second",
            config.more_epochs,
            dataclasses.replace(task, model=frozen),
            second,
            order=1,
            quick=False,
        ),
    ]


def only_small(run: lab.Run[ArmConfig]) -> Any:
    """Between epochs: while more weights exist than at the end, an epoch is not the best one."""
    import jax.numpy as jnp

    config = run.config
    if config.method != "magnitude":
        return None
    each = -(-len(run.dataset.y_train) // config.batch_size)
    last = round(PRUNED_UNTIL * each * (config.epochs + config.more_epochs))

    def between(done: int, state: Any, account: Any, result: Any) -> Any:
        del result
        if done * each < last:
            state = state.replace(best_accuracy=jnp.full_like(state.best_accuracy, -1.0))
        return state, account

    return between


def run_arm(run: lab.Run[ArmConfig], given: Any = None) -> lab.Found:
    """Trains, changes, trains on, judges the best epoch once on the test samples."""
    import jax

    from experiments import _conv_add as adding
    from experiments import _conv_net as nets

    config = run.config
    task, stages = make_stages(run)
    trained = lab.train_stages(run, stages, given)
    state = trained[stages[-1].name].kept
    network: Any = state.best
    accuracy, halves = run.judge(task, network[0], network[1], run.split("test"))
    counted = jax.device_get(run.over_seeds("the count", adding.count, *network))
    gone, best = jax.device_get((state.diverged, state.best_accuracy))
    found = lab.entries(
        run.seeds,
        ("network",),
        diverged=gone,
        accuracy=np.where(gone, np.nan, accuracy),
        watched=np.where(gone, np.nan, best),
        best_epoch=state.best_epoch,
        accuracy_halves=halves,
        **counted,
    )
    extra = {
        "blocks": list(config.blocks),
        "hidden": list(config.hidden),
        "multiply_adds": nets.multiply_adds(base_of(config.blocks), run.dataset.image_shape),
        "epochs": sum(stage.epochs for stage in stages),
        "seconds": run.clock.run_seconds,
    }
    shared = {"first": trained["first"]} if "first" in trained else None
    return lab.Found(found, extra=extra, shared=shared)


ARM = lab.Study("cifar10_conv", ArmConfig, run_arm, settle=settle)
