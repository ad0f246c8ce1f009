"""A pair: one class of encoder-decoder, as a dialect for each of its two sides."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, require
from jaxgpt.seq2seq_config import ENCODER, AnyConfig, Seq2SeqConfig

from .dialect import Container, Dialect
from .hub import Hub
from .kinds import Kind, is_embedding, is_embedding_or_copy


@dataclass(frozen=True)
class Pair:
    """One class of encoder-decoder. The rows of each side have all names as the file has them.

    A tensor for which both sides have a row, such as a shared table of positions, is read by both.
    """

    name: str
    about: str  # one line for readers: whose class it is
    encoder: Dialect
    decoder: Dialect
    family: bool = False  # covers many classes of one structure
    order: tuple[str, ...] = ()  # the tensors of one file
    # The modules of the class in the order in which it has them, where that is not the encoder and
    # what belongs to it, and then the decoder.
    modules: tuple[str, ...] = ()
    # Words of a config.json that both sides have, as encoder_layers and decoder_layers; and those
    # of the encoder that have another form for the decoder alone, as decoder_vocab_size.
    by_side: str = ""
    of_decoder: str = ""

    @property
    def container(self) -> Container:
        return self.decoder.container

    @property
    def hub(self) -> Hub | None:
        return self.decoder.hub

    @property
    def says(self) -> Mapping[str, Mapping[Any, Mapping[str, Any]]]:
        return self.decoder.says

    @property
    def reference(self) -> str:
        return self.decoder.reference

    def unlike(self, config: Any, known: Any = ()) -> dict[str, tuple[Any, Any]]:
        """Fields that no tensor shows and that differ from the class, as `Dialect.unlike`."""
        return {
            f"{side.field_prefix}{field}": values
            for side in sides(self, config)
            for field, values in side.dialect.unlike(
                side.config, [name.removeprefix(side.field_prefix) for name in known]
            ).items()
        }

    def written(self) -> dict[str, Any]:
        """The settled rows as JSON values, stored in a model directory to export the same names."""
        sides_written = {"encoder": self.encoder.written(), "decoder": self.decoder.written()}
        return {"dialect": self.name, "sides": sides_written, "order": self.order}

    def reread(self, written: Mapping[str, Any]) -> "Pair":
        """This pair with the rows that `written()` returned."""
        stored = written["sides"]
        return replace(
            self,
            name=written["dialect"],
            encoder=self.encoder.reread(stored["encoder"]),
            decoder=self.decoder.reread(stored["decoder"]),
            order=tuple(written["order"]),
        )


AnyDialect = Dialect | Pair


@dataclass(frozen=True)
class Side:
    """One side of an encoder-decoder; or a whole decoder, where both prefixes are empty."""

    dialect: Dialect
    config: ModelConfig
    prefix: str = ""  # of its Flax paths
    field_prefix: str = ""  # of its fields, as users write them

    def own(self, paths: set[str]) -> set[str]:
        """Those of the Flax `paths` that belong to this side, without its prefix."""
        return {path.removeprefix(self.prefix) for path in paths if path.startswith(self.prefix)}


def sides(dialect: AnyDialect, config: AnyConfig) -> tuple[Side, ...]:
    """The sides of a model of `config` in files of `dialect`, the encoder first."""
    two = isinstance(config, Seq2SeqConfig)
    require(
        two == isinstance(dialect, Pair),
        f"The model is {'an encoder-decoder' if two else 'a decoder alone'}, and the dialect "
        f"{dialect.name} is for {'decoders alone' if two else 'encoder-decoders'}.",
    )
    if isinstance(dialect, Pair) and isinstance(config, Seq2SeqConfig):
        encoder, decoder = dialect.encoder, dialect.decoder
        if config.encoder.shares_embedding:
            encoder, decoder = _sharing(encoder, decoder)
        else:
            encoder, decoder = _apart(encoder, decoder)
        return (
            Side(encoder, config.encoder, "encoder/", ENCODER),
            Side(decoder, config.decoder, "decoder/"),
        )
    assert isinstance(dialect, Dialect)
    assert isinstance(config, ModelConfig)
    return (Side(dialect, config),)


def _sharing(encoder: Dialect, decoder: Dialect) -> tuple[Dialect, Dialect]:
    """Both sides with the embedding as the decoder's, which writes that of the encoder too."""
    own = [row for row in encoder.rows if is_embedding(row)]
    present = {row.torch.pieces for row in decoder.rows}
    second = [
        replace(row, torch=row.torch.worded({}))
        for row in own[:1]
        if row.torch.pieces not in present
    ]
    return without_embedding(encoder), changed(decoder, lambda rows: (*rows, *second))


def _apart(encoder: Dialect, decoder: Dialect) -> tuple[Dialect, Dialect]:
    """The first variants of both sides in which each has an embedding of its own."""
    ways = zip((encoder, *encoder.variants), (decoder, *decoder.variants), strict=False)
    return next((pair for pair in ways if _table(pair[0]) != _table(pair[1])), (encoder, decoder))


def _table(dialect: Dialect) -> Any:
    """The pattern of the first row of the embedding."""
    return next(row for row in dialect.rows if is_embedding(row)).torch.pieces


def without_embedding(dialect: Dialect) -> Dialect:
    """`dialect` without rows of the token embedding and of its copies."""

    def others(rows: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return tuple(row for row in rows if not is_embedding_or_copy(row))

    return changed(dialect, others)


def changed(dialect: Dialect, change: Callable[[tuple[Kind, ...]], tuple[Kind, ...]]) -> Dialect:
    """`dialect` with the rows of each of its variants as `change` returns them."""
    variants = tuple(replace(each, rows=change(each.rows)) for each in dialect.variants)
    return replace(dialect, rows=change(dialect.rows), variants=variants)


def rotating(dialect: AnyDialect, rotations: Mapping[str, tuple[str, bool]]) -> AnyDialect:
    """`dialect` with the rotary layout of each side, and whether it rotates by minus the angle.

    `rotations` has both for the prefix of each side's fields.
    """
    if isinstance(dialect, Pair):
        encoder, decoder = (
            _rotating(side, rotations.get(prefix))
            for prefix, side in ((ENCODER, dialect.encoder), ("", dialect.decoder))
        )
        return replace(dialect, encoder=encoder, decoder=decoder)
    return _rotating(dialect, rotations.get(""))


def _rotating(dialect: Dialect, rotation: tuple[str, bool] | None) -> Dialect:
    if rotation is None:
        return dialect
    layout, backward = rotation
    return replace(dialect, layout=layout, backward=backward)


def of_decoder(dialect: AnyDialect, doing: str) -> Dialect:
    """`dialect`, which must not be of encoder-decoders, for what `doing` names."""
    if isinstance(dialect, Pair):
        raise UserError(
            f"{doing} is for decoders alone, and {dialect.name} ({dialect.about}) is an "
            "encoder-decoder."
        )
    return dialect
