"""Sparse autoencoders of a model's activations: training, editing, concepts as latents. See ``defenses.saeuron``,
``defenses.saemnesia`` and ``defenses.per``."""
