"""The keys in the state dict of torch's AdamW, and what each of them is here.

This is the place for a new key of a group. A new moment needs a field in `Moments` too
(`jaxgpt/storage/model_directory.py`), and another key in the state of a parameter a line in
`torch_adamw`, which checks files by these tables.
"""

from collections.abc import Mapping
from typing import Any

from jaxgpt.config import OptimConfig

# Of the optimiser.
STATE = "state"  # the state of each parameter, by number
GROUPS = "param_groups"

# Of the state of a parameter, which has exactly these.
STEP = "step"  # the number of its updates
MOMENTS = {"exp_avg": "mu", "exp_avg_sq": "nu"}  # tensors of its shape -> their names in optax
OF_PARAMETER = {STEP, *MOMENTS}  # another key makes another optimiser of it

# Of a group.
NUMBERS = "params"  # of its parameters
NAMES = "param_names"  # of its parameters, where torch was given them
FIELDS = {  # settings -> the fields of OptimConfig that have their values
    "lr": ("learning_rate",),
    "betas": ("beta1", "beta2"),
    "eps": ("eps",),
    "weight_decay": ("weight_decay",),
}
BY_GROUP = "weight_decay"  # the setting in which the groups of one run may differ
# Flags that make another optimiser of it; that of Adam only does if there is decay. AdamW always
# has the first one, and RAdam, which has all other settings, lacks it.
FLAGS = ("amsgrad", "maximize")
DECOUPLED = "decoupled_weight_decay"  # False in Adam
REQUIRED = {*FIELDS, FLAGS[0]}


def settings_of(optim: OptimConfig) -> dict[str, Any]:
    """The settings of a group in torch's words."""
    values = {key: tuple(getattr(optim, name) for name in names) for key, names in FIELDS.items()}
    return {key: each if len(each) > 1 else each[0] for key, each in values.items()}


def fields_of(settings: Mapping[str, Any]) -> dict[str, float]:
    """The settings of a group, except those that differ by group, as fields of OptimConfig."""
    fields: dict[str, float] = {}
    for key, names in FIELDS.items():
        if key != BY_GROUP:
            values = settings[key] if len(names) > 1 else (settings[key],)
            fields |= {name: float(value) for name, value in zip(names, values, strict=True)}
    return fields
