"""Training runs: the step, the loop around it, start and resume, evaluation."""
