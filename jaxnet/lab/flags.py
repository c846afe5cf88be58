"""Configurations: frozen dataclasses whose fields are flags, composed of parts that studies share.

Fields made by :func:`option` are checked whenever a configuration is made, from a command line
or in Python::

    @dataclass(frozen=True)
    class Config(RunFlags, SeedFlags, NetworkFlags, DataFlags):
        epochs: int = option(20, "of training", "epochs", least=1)

The last part named comes first in ``--help``. ``None`` (``auto``, ``none``) passes every check: it
is decided later (:func:`settled`).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from jaxnet.errors import InputError
from jaxnet.files import user_path

C = TypeVar("C")
Allocation = Literal["uniform", "erdos-renyi", "dense-output", "constant-fan-in"]
Activation = Literal["relu", "tanh", "sigmoid", "gelu"]

AUGMENT = ("crop", "flip", "affine", "jitter")
"""What ``--augment`` knows: :data:`jaxnet.data.augment.PARTS`, which loads JAX."""

MAY_DIFFER = ("out", "resume", "overwrite", "data_dir", "doc", "workers")  # where and how, not what
UNSAID = ("augment", "own_draws", "normalise")  # stored only where they say something
BY_FINGERPRINT = ("dataset",)  # in its place the fingerprint decides whether a run may be continued


def option(
    default: Any,
    help: str,
    unit: str | None = None,
    *,
    none: str = "none",
    least: float | None = None,
    above: float | None = None,
    fraction: bool = False,
    cli: bool = True,
) -> Any:
    """A field of a configuration, with text and unit for ``--help``.

    ``none`` is the word for ``None`` on the command line; without ``cli`` there is no flag. Allowed
    are values from ``least`` on, finite ones ``above`` one, or (``fraction``) above 0 and at most 1.
    """
    limits = {"least": least, "above": above, "fraction": fraction}
    return field(default=default, metadata={"help": help, "unit": unit, "none": none, "cli": cli, **limits})


def changed(part: type, name: str, default: Any = dataclasses.MISSING, help: str | None = None) -> Any:
    """The field of a part with another default or another text."""
    (old,) = (f for f in dataclasses.fields(part) if f.name == name)
    metadata = {**old.metadata, **({} if help is None else {"help": help})}
    return field(default=old.default if default is dataclasses.MISSING else default, metadata=metadata)


def value_shown(value: Any, none: str) -> str:
    """A value as a command line takes it."""
    return none if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def flag_name(name: str) -> str:
    """The flag of a field: ``--num-seeds`` for ``num_seeds``."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Flags:
    """What every configuration is: checked when it is made."""

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        for one in dataclasses.fields(self):
            flag, value, meta = flag_name(one.name), getattr(self, one.name), one.metadata
            if value is None:
                continue
            if meta.get("least") is not None and value < meta["least"]:
                raise InputError(f"{flag} must be at least {meta['least']}: {value}")
            if meta.get("above") is not None and not (math.isfinite(value) and value > meta["above"]):
                raise InputError(f"{flag} must be above {meta['above']}: {value}")
            for part in (value if isinstance(value, tuple) else (value,)) if meta.get("fraction") else ():
                if not 0 < part <= 1:
                    raise InputError(f"{flag} must be above 0 and at most 1: {part}")
        self.check()

    def check(self) -> None:
        """Raises InputError where values do not go together; parts call the next one's."""


def settled(config: C, values: dict[str, Any]) -> C:
    """The configuration with ``values`` where nothing else is asked for; values are not checked again."""
    missing = {name: v for name, v in values.items() if getattr(config, name, name) is None}
    if not missing:
        return config
    new = copy.copy(config)
    for name, value in missing.items():
        object.__setattr__(new, name, value)
    return new


@dataclass(frozen=True)
class DataFlags(Flags):
    """Which samples, and how they are used."""

    dataset: str = option(
        "digits", "data set by name (digits is embedded), or path of an .npz file or a folder of IDX files"
    )
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    normalise: Literal["channels", "pixels"] | None = option(
        None,
        "channels: by mean and standard deviation of every channel of the training images, also where "
        "others are usual (CIFAR-10: 0.5 and 0.5); pixels: not at all, but for pixels / 255",
        none="usual",
    )
    protocol: Literal["clean", "seed"] = option(
        "clean",
        "clean: selection on validation, test images once at the end; seed: the original's, faults included "
        "(docs/protocols.md)",
    )


@dataclass(frozen=True)
class NetworkFlags(Flags):
    """The network at the start."""

    sizes: tuple[int, ...] | None = option(
        None, "units per layer; auto: features of the data,256,128,classes", none="auto"
    )
    density: float | None = option(
        0.02, "fraction of the weights that exist", "in (0, 1]", none="auto", fraction=True
    )
    allocation: Allocation | None = option(
        "uniform", "how the density is shared out over the layers", none="auto"
    )
    init: Literal["dense-fan-in", "sparse-fan-in"] | None = option(
        None, "initial weights; auto: dense-fan-in with --protocol seed, else sparse-fan-in", none="auto"
    )
    activation: Activation | None = option("relu", "of the hidden layers", none="auto")

    def check(self) -> None:
        """Raises InputError for sizes without a hidden layer."""
        check_sizes(self.sizes, 3)
        super().check()


def check_sizes(sizes: tuple[int, ...] | None, least: int, why: str = "(input, hidden, output)") -> None:
    """Raises InputError unless there are so many sizes, all positive."""
    if sizes is not None and (len(sizes) < least or min(sizes) < 1):
        words = {2: "two", 3: "three", 4: "four"}
        raise InputError(f"--sizes needs {words[least]} or more positive sizes {why}: {list(sizes)}")


@dataclass(frozen=True)
class SeedFlags(Flags):
    """How many networks, and which."""

    num_seeds: int = option(8, "networks trained at once", least=1)
    seed: int = option(0, "number of the first seed; a seed decides masks and weights", least=0)
    data_seed: int = option(0, "decides the order of the samples, common to all seeds", least=0)

    def check(self) -> None:
        """Raises InputError for seeds that do not fit into the 32 bits of a key."""
        if self.seed + self.num_seeds > 2**32 or self.data_seed >= 2**32:
            raise InputError("seeds must be below 2**32 (--seed, --num-seeds, --data-seed)")
        super().check()


@dataclass(frozen=True)
class BatchFlags(Flags):
    """What a step sees."""

    batch_size: int = option(64, "samples per step", "samples", least=1)
    augment: tuple[str, ...] | None = option(
        None, "change training images at random: crop (by an eighth), flip, affine (small), jitter (smaller)"
    )
    own_draws: bool = option(False, "every network has its own random changes of images (slower)")

    def check(self) -> None:
        """Raises InputError for an augmentation that does not exist, or that is named twice."""
        names = self.augment
        if names is not None and (not names or len(set(names)) < len(names) or set(names) - set(AUGMENT)):
            raise InputError(f"--augment must be some of {', '.join(AUGMENT)}, each once: {','.join(names)}")
        if self.own_draws and names is None:
            raise InputError("--own-draws has no meaning without --augment")
        super().check()


@dataclass(frozen=True)
class TrainFlags(BatchFlags):
    """How networks are trained."""

    lr: float | None = option(1e-3, "Adam's learning rate", above=0, none="auto")


@dataclass(frozen=True)
class ExtremaFlags(Flags):
    """Which units are extreme."""

    detector: Literal["original", "adaptive", "quantile", "reach"] = option(
        "original", "thresholds for extrema; reach: by the ways through a unit, not by its activation"
    )
    detect_on: Literal["pre", "post"] = option("pre", "activations watched for extrema: before or after")
    extrema_samples: int | None = option(
        None, "samples watched for extrema; auto: all training samples", "samples", none="auto", least=2
    )


@dataclass(frozen=True)
class RunFlags(Flags):
    """Where and by what."""

    kernel: Literal["auto", "dense", "csr"] = option("auto", "sparse product; auto: the faster one here")
    out: str = option("checkpoints/run", "folder for results")
    resume: bool = option(False, "continue the run in --out after its last checkpoint")
    overwrite: bool = option(False, "replace the run in --out")

    def check(self) -> None:
        """Raises InputError where ``--out`` names no folder, or it is to be continued and replaced."""
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite exclude each other: continue the run or replace it")
        if not self.out.strip():
            raise InputError("--out must name a folder: it is empty")
        user_path(self.out)  # a home folder that is not known is refused before anything is loaded
        super().check()


@dataclass(frozen=True)
class DocumentFlags(Flags):
    """What is written down for readers."""

    doc: str | None = option(
        None, "also write the results as Markdown to this file, plots and numbers beside"
    )

    def check(self) -> None:
        """Raises InputError where no document could be written."""
        if self.doc is not None and not user_path(self.doc).parent.is_dir():
            raise InputError(f"--doc: the folder {user_path(self.doc).parent} does not exist")
        super().check()


def check_learning_rates(config: Any, *names: str) -> None:
    """Raises InputError for a rate that is not finite or below 0; 0 freezes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InputError(f"{flag_name(name)} must be 0 or more: {value}")
