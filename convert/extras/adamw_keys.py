"""The keys in the state dict of torch's AdamW, and the counterpart of each in jaxgpt.

When torch adds a key to its groups: if its value is plain and nothing here corresponds to it, no
change is needed, because it is stored and written back. If a run can set it, it goes into `FIELDS`;
if it makes AdamW another optimiser, into `FLAGS`. When torch adds a moment to the state of a
parameter, it also needs a field in `Moments` (`jaxgpt/storage/moments.py`). Any other new key in
that state needs a line in `torch_adamw`, which checks files by these tables.
"""

from collections.abc import Mapping
from typing import Any

from jaxgpt.config import OptimConfig

# Keys of the optimiser.
STATE = "state"  # the state of each parameter, by number
GROUPS = "param_groups"

# Keys of the state of a parameter, which has exactly these.
STEP = "step"  # the number of updates so far
MOMENTS = {"exp_avg": "mu", "exp_avg_sq": "nu"}  # tensors of its shape -> their names in optax
OF_PARAMETER = {STEP, *MOMENTS}  # any other key means another optimiser

# Keys of a group.
NUMBERS = "params"  # of its parameters
NAMES = "param_names"  # the names of its parameters, if torch was given them
FIELDS = {  # settings -> the corresponding fields of OptimConfig
    "lr": ("learning_rate",),
    "betas": ("beta1", "beta2"),
    "eps": ("eps",),
    "weight_decay": ("weight_decay",),
}
BY_GROUP = "weight_decay"  # the only setting that may differ between the groups of a run
# If one of these flags is set, the optimiser is not AdamW, and is refused. `amsgrad` must be
# present, because RAdam has all other settings of AdamW but not this one.
FLAGS = ("amsgrad", "maximize")
DECOUPLED = "decoupled_weight_decay"  # False in Adam, which is refused if it has weight decay
REQUIRED = {*FIELDS, "amsgrad"}


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
