"""Training by phases, on Lightning: strategies, objectives, freezing, going on."""
