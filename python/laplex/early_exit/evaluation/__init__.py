"""Evaluation of networks with exits: accuracy against cost, thresholds, comparisons."""
