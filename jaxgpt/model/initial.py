"""The distribution that random weights begin with."""

INIT_STD = 0.02  # the standard deviation of kernels and embeddings, as in GPT-2
