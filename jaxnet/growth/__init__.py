"""Growth: changes of a network's shape, on the host between compiled programs."""

from __future__ import annotations

from jaxnet.growth.budget import Budget, Target
from jaxnet.growth.decisions import Decision, DecisionRules, LayerCount, decide
from jaxnet.growth.member import GrowthData, Member
from jaxnet.growth.operators import RULES, add_patches, insert_layer, widen
from jaxnet.growth.plan import GrowthPlan
from jaxnet.growth.population import grow_until
from jaxnet.growth.state import carry_over
from jaxnet.growth.steps import Network

__all__ = [
    "RULES",
    "Budget",
    "Decision",
    "DecisionRules",
    "GrowthData",
    "GrowthPlan",
    "LayerCount",
    "Member",
    "Network",
    "Target",
    "add_patches",
    "carry_over",
    "decide",
    "grow_until",
    "insert_layer",
    "widen",
]
