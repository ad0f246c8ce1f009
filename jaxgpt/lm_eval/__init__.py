"""A model directory as a model of lm-eval: python -m jaxgpt.lm_eval."""
