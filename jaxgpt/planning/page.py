"""The printed page of a plan, and the time of an ideal step."""

from typing import NamedTuple

from jaxgpt.config import Config
from jaxgpt.devices.mesh import shape_of
from jaxgpt.model.cache import elements as cache_elements
from jaxgpt.planning.plan import Plan, changes, gpu_share

GIB, MIB = 2**30, 2**20
MOVED = "state and temporaries in and out once, weights in each pass"


class Ideal(NamedTuple):
    """Lower bounds on the seconds of a step, one for each rate in the data sheet."""

    arithmetic: float
    memory: float
    links: float


def ideal(plan: Plan) -> Ideal | None:
    """The ideal step of `plan`; None for a device without a data sheet."""
    if plan.chip is None:
        return None
    train, memory = plan.config.train, plan.memory
    width = {"float32": 4, "bfloat16": 2}[plan.config.compute.dtype]
    weights = (
        plan.size
        * width
        / plan.mesh.shape["tensor"]
        * (3 if plan.config.compute.remat == "full" else 2)
    )
    parameters = memory.parameters * (1 if train.lora_rank else 2)  # the frozen base is not written
    moved = (
        parameters + 2 * memory.optimizer + train.accumulate * (2 * memory.temporaries + weights)
    )
    received = sum(traffic.received for traffic in plan.traffic.values())
    return Ideal(
        plan.operations / plan.chip.peak, moved / plan.chip.bandwidth, received / plan.chip.links
    )


def page(plan: Plan, name: str, other: Plan | None = None) -> str:
    """The text to print for the `plan` of the run `name`; `other` is a change of it that fits."""
    mesh, train, length = plan.mesh, plan.config.train, _length(plan.config)
    shape = " x ".join(f"{axis} {n}" for axis, n in shape_of(mesh).items())
    rows = train.batch_size // train.accumulate / (mesh.size // mesh.shape["tensor"])
    parts = f" in {train.accumulate} parts" if train.accumulate > 1 else ""
    head = [
        f"{name}: {mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {shape}",
        "",
        _line("parameters", f"{plan.size:,}{_adapters(plan)}"),
        _line(
            "a step",
            f"{train.batch_size:,} x {length} tokens{parts}, {rows:g} a device at a time",
        ),
        *(_line(setting, choice) for setting, choice in plan.choices),
        _line("to sample", _sampling(plan)),
        _line("compiled in", f"{plan.seconds:.0f} s" if plan.text else "not: it is too large"),
    ]
    return "\n".join([*head, *_memory(plan), *_work(plan), *_time(plan), "", verdict(plan, other)])


def _length(config: Config) -> str:
    """The tokens of a row: of a text, or of a source and a target."""
    target = f"{config.model.context_length:,}"
    return f"({config.encoder.context_length:,} + {target})" if config.encoder else target


def _adapters(plan: Plan) -> str:
    """The parameters of adapters, if there are any."""
    if not plan.adapters:
        return ""
    return f" frozen, and {plan.adapters:,} in adapters of rank {plan.config.train.lora_rank}"


def _sampling(plan: Plan) -> str:
    """The memory that generation takes, in the dtype of the weights."""
    model, encoder = plan.config.model, plan.config.encoder
    elements = cache_elements(model)
    if encoder:  # add the keys and values of cross-attention
        width = model.num_kv_heads * model.head_dim
        elements += 2 * model.num_blocks * encoder.context_length * width
    cache = _in_short(4 * elements)
    return (
        f"{_in_short(4 * plan.size)} of weights, and for each text of {model.context_length:,} "
        f"tokens {cache} of cache"
    )


def _line(label: str, value: str, indent: int = 2) -> str:
    """A line of the page, with its values in one column."""
    return f"{' ' * indent}{label}".ljust(23) + value


def _memory(plan: Plan) -> list[str]:
    """The lines on the memory of a device."""
    sizes = plan.memory._asdict()
    total = sizes.pop("total")
    unit = GIB if total >= GIB else MIB
    share = f" of {_in_short(plan.limit)}, {total / plan.limit:.{0 if total >= GIB else 1}%}"
    if plan.mesh.devices.flat[0].platform == "gpu" and plan.chip:
        share += f"; that is {gpu_share():.0%} of a GPU, see XLA_PYTHON_CLIENT_MEM_FRACTION"
    lines = [_line(name, _size(size, unit), 4) for name, size in sizes.items()]
    return ["", "  memory of each device", *lines, _line("in all", _size(total, unit) + share, 4)]


def _size(size: float, unit: int) -> str:
    """`size` in `unit`, right-aligned."""
    return f"{size / unit:8.3f} {'GiB' if unit == GIB else 'MiB'}"


def _in_short(size: float) -> str:
    """`size` with its unit: MiB below one GiB."""
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.2f} MiB"


def _work(plan: Plan) -> list[str]:
    """The lines on arithmetic and communication in a step."""
    again = f", {plan.again:.0%} of it computed a second time" if plan.again else ""
    lines = [_line("arithmetic", f"{plan.operations / 1e12:8.2f} TFLOP{again}", 4)]
    for kind, traffic in sorted(plan.traffic.items()):
        unit, name = (1e9, "GB") if traffic.received >= 1e9 else (1e6, "MB")
        lines.append(
            _line(kind, f"{traffic.received / unit:8.2f} {name} come in ({traffic.times:,} x)", 4)
        )
    return ["", "  each step, on each device", *lines]


def _time(plan: Plan) -> list[str]:
    """The lines on the ideal step; none without a data sheet or a program."""
    step, chip = ideal(plan), plan.chip
    if step is None or chip is None or not plan.text:
        return []
    longest = max(step)
    encoder = plan.config.encoder
    context = plan.config.model.context_length + (encoder.context_length if encoder else 0)
    tokens = plan.config.train.batch_size * context
    wide = ", which float32 does not reach" if plan.config.compute.dtype == "float32" else ""
    return [
        "",
        f"  ideal step: {longest:.3g} s, {tokens / longest:,.0f} tokens/s: the longest of",
        _line(
            "arithmetic", f"{step.arithmetic:8.3g} s at {chip.peak / 1e12:,.0f} TFLOP/s{wide}", 4
        ),
        _line("memory", f"{step.memory:8.3g} s at {chip.bandwidth / 1e9:,.0f} GB/s: {MOVED}", 4),
        _line(
            "links",
            f"{step.links:8.3g} s at {chip.links / 1e9:,.0f} GB/s: all links at once, as in a ring",
            4,
        ),
        "  by the data sheet, and if no part of it waits for another; a real step takes longer",
    ]


def verdict(plan: Plan, other: Plan | None) -> str:
    """One line that says whether `plan` fits, and if not, what to change: to get `other`, if there
    is one."""
    takes, limit = _in_short(plan.memory.total), _in_short(plan.limit)
    if plan.fits:
        return f"fits: {takes} of {limit}"
    more = "" if plan.text else " and more"
    wanting = f"does not fit: {takes}{more} where a device has {limit}"
    if other:
        took = _in_short(other.memory.total)
        return (
            f"{wanting}: try {changes(plan.config, other.config)}, "
            f"which was compiled as well and takes {took}"
        )
    return (
        f"{wanting}, nor with anything that computes the same steps in less: "
        "try more devices, or a smaller model"
    )
