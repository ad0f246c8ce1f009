"""For the API pages: fields that a class declares by `setting` have a default and an explanation."""

import ast
from typing import Any

import griffe


class Explained(griffe.Extension):
    """Show `field: int = setting(6, "Number of blocks.")` as `field: int = 6` with that text."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **_: Any) -> None:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "setting":
            default, explanation = value.args
            attr.value = ast.unparse(default)
            attr.docstring = griffe.Docstring(ast.literal_eval(explanation), parent=attr)
