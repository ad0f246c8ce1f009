"""The parameters of a checkpoint: all in memory, or each made when it is written."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jaxgpt.pytree import Deferred, Tree, flatten, unflatten
from jaxgpt.seq2seq_config import AnyConfig
from jaxgpt.system.stages import Stage, silent

from .files import checkpoints
from .rows import move, whole
from .rows.pair import AnyDialect


@dataclass
class Conversion:
    """Makes the parameters of `config` from the tensors of `source`."""

    source: checkpoints.Checkpoint
    dialect: AnyDialect
    config: AnyConfig
    dtype: np.dtype | None = None  # of the parameters; None for that of the tensors
    allow_nonfinite: bool = False
    _params: Tree | None = field(default=None, repr=False)

    def params(self, stage: Stage = silent) -> Tree:
        """All parameters, which stay in memory.

        Raises:
            UserError: Values are not finite, or would not be in `dtype`.
        """
        if self._params is None:
            self._params = self._made(stage)
        return self._params

    def to_write(self, stage: Stage = silent) -> Tree:
        """The parameters that are in memory, or else deferred ones, which raise the same errors."""
        if self._params is not None or self.source.sequential:
            return self.params(stage)
        reader = _Reader(self.source)
        dtypes = {name: tensor.dtype for name, tensor in self.source.tensors.items()}
        tree = whole.deferred(self.dialect, self.config, reader.read, dtypes, self.dtype)
        leaves = flatten(tree)
        passed = stage("writing", sum(leaf.size for leaf in leaves.values()))

        def checked(leaf: Deferred) -> Deferred:
            def make() -> np.ndarray:
                array = leaf.make()
                passed(array.size)
                overflown = self.dtype and not np.isfinite(array).all()
                if not self.allow_nonfinite and (reader.nonfinite or overflown):
                    self.params()  # raises an error that names all such values
                return array

            return dataclasses.replace(leaf, make=make)

        return unflatten({path: checked(leaf) for path, leaf in leaves.items()})

    def _made(self, stage: Stage) -> Tree:
        source, names = self.source, whole.names(self.dialect, self.config)
        passed = stage("reading", sum(source.tensors[name].size for name in names))
        reader = _Reader(source, passed)
        params = whole.to_flax(self.dialect, self.config, reader.read, self.dtype, source.tensors)
        if not self.allow_nonfinite:
            move.require_finite(reader.nonfinite, source.path)
        if self.dtype and not reader.nonfinite:
            move.require_in_range(params, self.dtype, source.path)
        return params


@dataclass
class _Reader:
    """Reads tensors of `source`, reports their sizes to `passed`, and counts non-finite values."""

    source: checkpoints.Checkpoint
    passed: Callable[[int], None] = lambda size: None
    nonfinite: dict[str, int] = field(default_factory=dict)  # name -> count, if not 0

    def read(self, name: str) -> np.ndarray:
        array = self.source.tensors[name].read()
        self.passed(array.size)
        if count := int(array.size - np.count_nonzero(np.isfinite(array))):
            self.nonfinite[name] = count
        return array
