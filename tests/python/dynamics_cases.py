"""Random data of the tests of `laplex.early_exit.dynamics`, by seed."""

import torch


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(count, classes, seed=0):
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))
