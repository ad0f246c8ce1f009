"""The tolerances of `verify`: how far two arrays may differ and still count as the same.

`to-flax --torch` has tolerances of its own, next to the measurement of each field. What a text must
show before `probe` settles a field is `LEAST` in `probing/ranking.py`; what counts as a table of
sinusoids is `SINUSOID` in `detect/values.py`.
"""

# The largest difference that is allowed. Those in a column are divided by the largest value of the
# column, or by the median of these over all columns if that is larger. Both models compute in
# float64; their rounding stays below a hundredth of this.
TOLERANCE = 1e-10
# Gradients are compared as if each column had a value of at least this part of the median over the
# parameters. A key bias does not change the softmax: its gradient is rounding, a billionth of the
# others.
GRADIENT_FLOOR = 1e-5
