"""Draws order_tau.png, of the guide to sorting: soft ranks and their derivatives against tau.

python docs/pictures/order_tau.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from laplex.order import soft_rank

scores = torch.tensor([-2.0, -1.1, -1.0, -0.3, 0.2, 0.25, 1.2, 2.4], dtype=torch.float64)
taus = torch.logspace(-3, 2, 200, dtype=torch.float64)
ranks = torch.stack([soft_rank(scores, tau) for tau in taus])
jacobians = torch.stack(
    [
        torch.autograd.functional.jacobian(lambda s, tau=tau: soft_rank(s, tau), scores)
        for tau in taus
    ]
)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for column, score in zip(ranks.T, scores, strict=True):
    left.plot(taus, column, label=f"{score:g}")
left.set(xscale="log", xlabel="tau", ylabel="soft rank")
left.legend(title="scores", ncols=2, fontsize=8, loc="lower right")
right.plot(taus, jacobians.abs().amax((1, 2)), color="black")
gaps = scores.diff()
for gap, name in ((gaps.min(), "smallest gap"), (gaps.max(), "largest gap")):
    right.axvline(gap, linestyle=":", color="#888888")
    right.text(gap * 1.1, 1e-2, name, rotation=90, va="bottom", fontsize=8)
right.set(xscale="log", yscale="log", ylim=(3e-3, 20), xlabel="tau", ylabel="largest derivative")
figure.savefig(Path(__file__).with_name("order_tau.png"), dpi=110)
