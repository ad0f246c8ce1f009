"""The comparison of both models in float64: its tolerances and its verdict.

The packages `proving` and `probing` are not called verify and probe, like the commands, because a
package `convert.probe` would hide the function of that name.
"""
