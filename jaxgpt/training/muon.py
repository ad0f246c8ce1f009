"""Muon in optax: matrices are updated by their orthogonalised momentum, all else by AdamW.

See https://kellerjordan.github.io/posts/muon: the updates of a matrix have nearly equal singular
values, so that they have the same size in all directions.
"""

import math

import jax
import optax
from optax import contrib

from jaxgpt.model.matrices import Matrix, matrix_of
from jaxgpt.optim_config import OptimConfig
from jaxgpt.pytree import Tree


def with_muon(
    adamw: optax.GradientTransformation, o: OptimConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Muon for the matrices of the blocks, and `adamw`, with the learning rates of `schedule`."""
    # optax.contrib.muon would use Nesterov momentum in AdamW as well.
    muon = optax.chain(
        _scale_by_layer(o.muon_momentum),
        optax.add_decayed_weights(o.weight_decay),
        optax.scale_by_learning_rate(
            lambda count: schedule(count) * (o.muon_learning_rate / o.learning_rate)
        ),
    )
    return optax.partition({"muon": muon, "adamw": adamw}, optimizer_names)


def optimizer_names(params: Tree) -> Tree:
    """The name of the optimiser of each of `params`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "muon" if matrix_of(_name(path)) else "adamw", params
    )


def _scale_by_layer(momentum: float) -> optax.GradientTransformation:
    """optax's Muon for stacked kernels, one layer after the other.

    If all layers were updated at once, devices with sharded weights would gather the whole model.
    """
    state = contrib.scale_by_muon(beta=momentum)

    def update(
        gradients: Tree, old: contrib.MuonState, params: Tree | None = None
    ) -> tuple[Tree, contrib.MuonState]:
        def of_kernel(path: tuple, gradient: jax.Array, mu: jax.Array) -> tuple:
            matrix = matrix_of(_name(path))
            assert matrix is not None
            axes = contrib.MuonDimensionNumbers(*([axis - 1 for axis in each] for each in matrix))
            rule = contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=axes)

            def of_layer(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                scaled, new = rule.update(pair[0], old._replace(mu=pair[1]))
                return scaled * _scale(matrix, gradient.shape), new.mu

            return jax.lax.map(of_layer, (gradient, mu))

        pairs = jax.tree_util.tree_map_with_path(of_kernel, gradients, old.mu)
        both = jax.tree.structure(gradients), jax.tree.structure((0, 0))
        scaled, mu = jax.tree.transpose(*both, pairs)
        return scaled, old._replace(count=optax.safe_increment(old.count), mu=mu)

    return optax.GradientTransformation(state.init, update)


def _scale(matrix: Matrix, shape: tuple[int, ...]) -> float:
    """Keller Jordan's scale for the update of a `matrix`, which depends on its outputs and
    inputs."""
    inputs, outputs = (math.prod(shape[axis] for axis in each) for each in matrix)
    return max(1, outputs / inputs) ** 0.5


def _name(path: tuple) -> str:
    return "/".join(part.key for part in path)
