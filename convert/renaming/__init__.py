"""Gives the tensors of files with unknown names the usual ones, which their structure shows."""
