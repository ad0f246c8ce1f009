"""The notation: arrays with named axes, the rows of a dialect, and moving values along rows."""
