"""The notation: arrays with named axes, rows of a dialect, and moving values along them."""
