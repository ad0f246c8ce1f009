"""The registry: every dialect that the bridge knows, in the order in which they are tried."""

from convert.dialects import gpt
from convert.rows import Dialect

DIALECTS: dict[str, Dialect] = {module.DIALECT.name: module.DIALECT for module in (gpt,)}
