"""The division of a run among devices and processes."""

from dataclasses import dataclass

from jaxgpt.errors import require, require_positive
from jaxgpt.fields import explained, setting


@explained
@dataclass(frozen=True)
class MeshConfig:
    """Division of the work among devices; one of data, fsdp and tensor may be -1."""

    data: int = setting(
        -1, "Groups of devices that each hold the weights and share a batch; -1 takes what is left."
    )
    fsdp: int = setting(
        1,
        "Devices that share a batch, the weights and the optimiser's state; -1 takes what is left.",
    )
    tensor: int = setting(
        1, "Devices that share each matrix product, by heads and MLP width; -1 takes what is left."
    )
    coordinator: str = setting(
        "", "Address HOST:PORT of the first process; auto under SLURM, Open MPI, on a TPU pod."
    )
    processes: int = setting(0, "Number of processes, if the environment does not say it.")
    process: int = setting(-1, "Index of this process, from 0, if the environment does not say it.")
    timeout: int = setting(120, "Seconds to wait for the other processes.")

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "tensor"):
            value = getattr(self, name)
            require(
                value == -1 or value > 0,
                f"{name} must be positive, or -1 for what is left, but is {value}.",
            )
        require(
            -1 not in (self.fsdp, self.tensor) or self.fsdp != self.tensor,
            "only one of fsdp and tensor can be -1.",
        )
        if -1 in (self.fsdp, self.tensor) and self.data == -1:
            object.__setattr__(self, "data", 1)
        require_positive(self, "timeout")
        alone = self.process < 0 and not self.processes
        require(
            bool(self.coordinator) or alone,
            "processes and process need coordinator: where they find each other.",
        )
        require(
            self.coordinator in ("", "auto")
            or (0 <= self.process < self.processes and ":" in self.coordinator),
            f"coordinator {self.coordinator} needs a port, as in HOST:PORT, and process from 0 to "
            f"one less than processes; processes and process are {self.processes} and "
            f"{self.process}.",
        )
