"""``--preset``: the flags of a recipe in one word; flags that are given besides win."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxnet.errors import InputError
from jaxnet.lab import option
from jaxnet.lab.flags import DataFlags, Flags

RECIPE: dict[str, Any] = {
    "dataset": "mnist",
    "sizes": (784, 256, 128, 10),
    "allocation": "erdos-renyi",
    "densities": (0.02,),
    "batch_size": 128,
    "augment": ("jitter",),
    "epochs": 160,
}
"""What the recipes of the headline's lines b and c have in common."""

METHODS: dict[str, dict[str, Any]] = {
    "headline": {
        **RECIPE,
        "methods": ("static", "sparse-momentum-correlated", "lamp"),
        "rates": (2e-3,),
        "weight_decay": 1e-4,
        "average": 0.999,
        "taught": 2,
        "num_seeds": 5,
    }
}
"""Of ``experiments.method_comparison``."""

HUNT: dict[str, dict[str, Any]] = {
    "headline": {**RECIPE, "method": "rigl", "lr": 2e-3, "num_seeds": 20},
}
"""Of ``experiments.seed_hunt``, whose networks are always sparse, and never taught."""


@dataclass(frozen=True)
class PresetFlags(Flags):
    """A configuration that knows recipes by name."""

    preset: Literal["headline"] | None = option(
        None, "headline: the flags of experiments.headline's recipe; those given besides win"
    )

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}

    def check(self) -> None:
        """Raises InputError for a preset that this experiment has not."""
        if self.preset is not None and self.preset not in self.PRESETS:
            raise InputError(f"--preset {self.preset} has no meaning here: leave it out")
        super().check()

    @classmethod
    def of_flags(cls, **given: Any) -> Any:
        """The configuration of a command line: what was given, over the preset, over the defaults."""
        return cls(**{**cls.PRESETS.get(given.get("preset") or "", {}), **given})


@dataclass(frozen=True)
class HuntPresets(PresetFlags, DataFlags):
    """Recipes of a hunt, and the data they are for."""

    PRESETS: ClassVar = HUNT
