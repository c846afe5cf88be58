"""A run of a study: its folder, its samples, its clock, and everything around what it computes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import data, environment
from jaxnet.data import Dataset
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.files import cache_folder, json_safe, read_json, user_path
from jaxnet.kernels import product
from jaxnet.kernels.choice import choose
from jaxnet.keys import key_of, keys_of
from jaxnet.lab.compare import compare
from jaxnet.lab.flags import BY_FINGERPRINT, MAY_DIFFER
from jaxnet.lab.found import Found
from jaxnet.lab.summary import arm_summary, summarise
from jaxnet.lab.terminal import compiling
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.programs import ONCE, Beside, Clock
from jaxnet.provenance import processors, provenance
from jaxnet.statistics import exact_fraction
from jaxnet.store.folder import CONFIG, RunFolder
from jaxnet.sweep.memory import available_memory
from jaxnet.train import Batches, Evaluation, Task, answers, epoch_order, evaluate
from jaxnet.types import Array, Int, Key

C = TypeVar("C")
Part = Literal["train", "val", "test"]
"""A part of a data set."""

PARTS = {"train": "training", "val": "validation", "test": "test"}
"""The parts in words."""


class Run(Generic[C]):
    """What a study computes with.

    Attributes:
      config: settled: nothing in it is ``auto``.
      dataset: the samples, on the host.
      folder: where everything goes.
      report: takes a line for the reader.
      clock: seconds of compiling and running.
    """

    def __init__(
        self, config: C, dataset: Dataset, folder: RunFolder, report: Callable[[str], None] = print
    ) -> None:
        self.config, self.dataset, self.folder, self.report = config, dataset, folder, report
        self.clock = Clock()
        self._splits: dict[Any, Split] = {}
        self._orders: dict[int, Any] = {}
        self._beside = Beside()

    @cached_property
    def seeds(self) -> range:
        """Numbers of the networks of an arm."""
        config: Any = self.config
        return range(config.seed, config.seed + config.num_seeds)

    @cached_property
    def keys(self) -> Key:
        """A key per seed."""
        return keys_of(self.seeds)

    @property
    def key_data(self) -> Key:
        """Key of the order of the samples."""
        return key_of(self.config.data_seed)  # type: ignore[attr-defined]

    @property
    def watched(self) -> Part:
        """What is looked at after every epoch: test samples under ``--protocol seed``."""
        return watched_part(self.config)

    def split(self, part: Part, samples: slice = slice(None)) -> Split:
        """A part of the data set on the device as it is stored; all samples or some."""
        key = part, samples.start, samples.stop
        if key not in self._splits:
            self._splits[key] = make_split(self.dataset, part, samples)
        return self._splits[key]

    def order(self, batch_size: int) -> Callable[[Key, Array], Batches]:
        """The order of the training samples, by the key of the data and the number of the epoch."""
        if batch_size not in self._orders:
            draw = partial(epoch_order, self.split("train").size, batch_size)
            number = jnp.zeros((), jnp.int32)
            self._orders[batch_size] = self.compiled("the order", draw, key_of(0), number, options=ONCE)
        return self._orders[batch_size]

    def provenance(self) -> dict[str, Any]:
        """Code, versions, device, time, and which data."""
        return {**provenance(), "dataset": self.dataset.name, "data_fingerprint": self.dataset.fingerprint}

    def compiled(self, what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The compiled function; the terminal says what is being compiled."""
        with compiling(what):
            if begun := self._beside.take(what):
                return self.clock.awaited(begun)
            return self.clock.compiled(function, *args, **options)

    def begin(self, what: str, make: Callable[[], tuple[Any, ...]]) -> None:
        """Begins to compile what :meth:`compiled` will be asked for (:class:`jaxnet.programs.Beside`)."""
        self._beside.begin(what, make)

    def close(self) -> None:
        """Lets go what is still to be compiled."""
        self._beside.close()

    def over_seeds(self, what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """``function`` of every network: arguments ``(network, ...)``; a :class:`Split` is shared."""
        together = jax.vmap(function, in_axes=tuple(None if isinstance(a, Split) else 0 for a in args))
        return self.compiled(what, together, *args, **options)(*args)

    def evaluate(self, task: Task, params: Any, structure: Any, split: Split) -> Evaluation:
        """Loss and accuracy of every network on samples, ``(network,)``."""

        def one(params: Any, structure: Any, split: Split) -> Evaluation:
            return evaluate(task, params, structure, split)

        result: Evaluation = self.over_seeds("the evaluation", one, params, structure, split)
        return result

    def judge(self, task: Task, params: Any, structure: Any, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy of every network ``(network,)``, and on the even and the odd samples ``(network, 2)``.

        Exact fractions; NaN where a weight or a logit is not finite.
        """

        def one(params: Any, structure: Any, split: Split) -> Array:
            return count_right(task, params, structure, split)

        counts = self.over_seeds("the evaluation", one, params, structure, split)
        return fractions(np.asarray(counts), split.size)


def count_right(task: Task, params: Any, structure: Any, split: Split) -> Int[Array, "half"]:
    """How many of the even and of the odd samples one network answers right; -1 where it has diverged."""
    right, finite = answers(task, params, structure, split)
    halves = jnp.stack([jnp.sum(right[::2]), jnp.sum(right[1::2])])
    return jnp.where(finite, halves, -1)


def fractions(counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy ``(network,)`` and that on both halves ``(network, 2)`` from counts ``(network, 2)``."""
    counts = np.where(counts < 0, np.nan, counts.astype(float))
    return counts.sum(axis=1) / size, counts / np.array([(size + 1) // 2, max(size // 2, 1)])


def watched_part(config: Any) -> Part:
    """Samples that epochs and targets are judged by."""
    return "test" if config.protocol == "seed" else "val"


def load(config: Any) -> Dataset:
    """Loads the data set of a configuration: all training samples under ``--protocol seed``."""
    fraction = 0.0 if config.protocol == "seed" else data.DEFAULT_VALIDATION_FRACTION
    return data.load(config.dataset, data_dir=config.data_dir, validation_fraction=fraction)


def make_split(dataset: Dataset, part: Part, samples: slice = slice(None)) -> Split:
    """Puts a part of a data set on the device as it is stored; all ``samples`` or some."""
    x, y = getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}")
    # a NumPy copy first: device arrays must not alias a memory-mapped cache file
    x, y = np.array(x[samples]), np.array(y[samples])
    return Split(jnp.asarray(x), jnp.asarray(y), jnp.asarray(dataset.mean), jnp.asarray(dataset.std))


def network_spec(
    dataset: Dataset, sizes: tuple[int, ...] | None, hidden: tuple[int, ...] = (256, 128), **fields: Any
) -> NetworkSpec:
    """The network for a data set.

    Args:
      dataset: decides the first and the last size.
      sizes: as given by ``--sizes``.
      hidden: units of the hidden layers if no sizes are given.
      fields: the other fields of the specification.

    Raises:
      InputError: ``--sizes`` does not fit the data, or the density is too low for the sizes.
    """
    ends = (dataset.num_features, dataset.num_classes)
    sizes = sizes or (ends[0], *hidden, ends[1])
    if (sizes[0], sizes[-1]) != ends:
        raise InputError(
            f"--sizes {','.join(map(str, sizes))} does not fit {dataset.name}: "
            f"it has {ends[0]} features and {ends[1]} classes, so give {ends[0]},...,{ends[1]}"
        )
    try:
        return NetworkSpec(sizes, **fields)
    except ValueError as error:
        raise InputError(str(error)) from None


def init_rule(config: Any) -> str:
    """Initial weights: what is asked for, or what the protocol says."""
    rule: str = config.init or ("dense-fan-in" if config.protocol == "seed" else "sparse-fan-in")
    return rule


def check_samples(config: Any, dataset: Dataset) -> None:
    """Raises InputError where there is nothing to judge by."""
    for part in dict.fromkeys((watched_part(config), "test")):
        if not len(getattr(dataset, f"y_{part}")):
            raise InputError(f"{dataset.name} has no {PARTS[part]} samples")


def resolve_kernel(config: C, spec: NetworkSpec, num_networks: int) -> C:
    """The configuration with a kernel: ``auto`` is measured once for the task and remembered.

    A continued run keeps the product that it started with, so that it ends with
    the same bits whatever a new measurement would say.

    Raises:
      InputError: the product asked for is not available here, or a setting would change results.
    """
    given: Any = config
    environment.check()
    kernel = given.kernel
    stored = user_path(given.out) / CONFIG
    if kernel == "auto" and given.resume and stored.exists():
        known = read_json(stored)
        kernel = known.get("kernel", kernel) if isinstance(known, dict) else kernel
    if kernel == "auto":
        kernel = choose(spec.sizes, spec.density, given.batch_size, num_networks, spec.allocation)
    product(kernel)
    return dataclasses.replace(given, kernel=kernel)


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless JAX_COMPILATION_CACHE_DIR says otherwise."""
    # a cache that cannot be read or written costs compile time, nothing else
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError):  # no home folder, no cache
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))


def use_all_processors() -> None:
    """Has JAX see a CPU as one device per processor, before it starts.

    Networks that are trained in one call are laid over the devices: then every part of a step runs
    on all processors, and not the sparse products alone. JAX_NUM_CPU_DEVICES says otherwise; samples
    lie on every device, so there are no more devices than the free memory has GiB.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", min(processors(), max(1, available_memory() // 2**30)))


def open_folder(study: Any, config: Any, dataset: Dataset) -> RunFolder:
    """Opens the folder of a run; see :meth:`jaxnet.store.RunFolder.open`.

    Where the data lie does not change the results; which data they are does.
    """
    flags = {**dataclasses.asdict(config), "data_fingerprint": dataset.fingerprint}
    flags = {name: value for name, value in flags.items() if value is not None or name not in study.unsaid}
    return RunFolder.open(
        config.out,
        flags,
        resume=config.resume,
        overwrite=config.overwrite,
        may_differ=(*MAY_DIFFER, *study.may_differ),
        only_stored=BY_FINGERPRINT,
        owns=(*study.plots, *study.owned(user_path(config.out))),
    )


def run_study(
    study: Any,
    config: C,
    *,
    report: Callable[[str], None] = print,
    dataset: Dataset | None = None,
    given: Any = None,
) -> tuple[dict[str, Any], Found]:
    """Runs a study in the folder that its configuration names, or continues it there.

    Args:
      study: what to do, a :class:`jaxnet.lab.study.Study` (above this module).
      config: its flags; ``auto`` is settled first, before anything is written.
      report: takes lines for the reader.
      dataset: saves loading it again.
      given: what the study's ``run`` may take over from another run.

    Returns:
      The summary, which is on disk with the plots, and what the study found.
    """
    dataset = load(config) if dataset is None else dataset
    config = study.settle(config, dataset)
    with (
        open_folder(study, config, dataset) as folder,
        contextlib.closing(Run(config, dataset, folder, report)) as run,
    ):
        if line := study.opening(config):
            report(line)
        known = {**run.provenance(), **study.known(config)}
        folder.write_json("provenance.json", known)
        found = study.run(run) if given is None else study.run(run, given)
        arms = {name: arm_summary(seeds, study.numbers, study.rates) for name, seeds in found.arms.items()}
        found.comparisons = comparisons = compare(arms, found.questions, rates=study.rates)
        stored = folder.read_json(CONFIG)
        timing = {**run.clock.as_dict(), **found.timing}
        summary = json_safe(summarise(study.name, stored, known, arms, comparisons, timing, found.extra))
        folder.write_json("summary.json", summary)
        rows = folder.read_rows()
        for name, draw in study.plots.items():
            draw(folder.path / name, summary, rows)
    return summary, found


def run_arms(
    study: Any,
    arms: Mapping[str, Mapping[str, Any]],
    config: Any,
    *,
    shared: Sequence[str] = (),
    **values: Any,
) -> dict[str, dict[str, Any]]:
    """Runs a study once per arm, in a folder each below ``config.out``.

    Args:
      study: of one arm.
      arms: by name, what each changes in the study's configuration.
      config: the flags of the comparison, whose data, kernel and folder the arms share.
      shared: arms that agree in these flags start from one another's results.
      values: what all arms have besides.

    Returns:
      The summary of each arm.
    """
    configs = {name: study.config(**{**arm_values(config, name), **values, **arms[name]}) for name in arms}
    dataset = load(next(iter(configs.values())))
    # all are settled first: wrong input leaves nothing behind
    settled = {name: study.settle(arm, dataset) for name, arm in configs.items()}
    known: dict[Any, Any] = {}
    summaries = {}
    for name, arm in settled.items():
        key = tuple(getattr(arm, flag) for flag in shared) if shared else name
        summaries[name], found = run_study(
            study, arm, report=lambda line: None, dataset=dataset, given=known.get(key)
        )
        known.setdefault(key, found.shared)
    return summaries


def arm_values(config: Any, name: str) -> dict[str, Any]:
    """What a comparison hands to one of its runs, whose folder is called after it."""
    folder = "".join(c if c.isalnum() else "-" for c in name.encode("ascii", "ignore").decode().lower())
    handed = {key: getattr(config, key) for key in ("dataset", "data_dir", "kernel", "resume", "overwrite")}
    return {**handed, "out": str(Path(user_path(config.out)) / folder)}


def exact(values: np.ndarray, count: int) -> np.ndarray:
    """Accuracies as exact fractions of ``count`` samples."""
    return np.array([exact_fraction(float(value), count) for value in values])
