"""Training in phases, with Lightning: strategies, objectives, freezing, checkpoints."""
