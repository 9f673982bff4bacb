"""Published methods as recipes: which heads to attach, how to train them, and when to leave.

A `Recipe` is data for functions that are there without it: `Recipe.attach` makes a model,
``train(model, loader, **recipe.options)`` trains it, and ``recipe.policy(model)`` is the exit
policy. `RECIPES` lists the recipes by name. They are our readings of the papers; the documentation
of each says what it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable

from .joint_gates import jei
from .past_future import gpf
from .patience import pabee
from .recipe import Recipe
from .sample_weights import l2w
from .shallow_deep import sdn
from .zero_time_waste import ztw

__all__ = ["RECIPES", "Recipe", "gpf", "jei", "l2w", "pabee", "sdn", "ztw"]

#: The functions that make the recipes, by name.
RECIPES: dict[str, Callable[..., Recipe]] = {
    "sdn": sdn,
    "pabee": pabee,
    "gpf": gpf,
    "ztw": ztw,
    "l2w": l2w,
    "jei": jei,
}
