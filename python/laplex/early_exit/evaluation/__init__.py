"""Judging a network with exits: accuracy against cost, thresholds, comparisons."""
