"""A foreign torch class: imported, built with arguments, loaded, and run in float64."""
