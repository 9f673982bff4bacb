"""Steer two networks along CEDAR axes, and predict what each axis does; measure both.

    python examples/cedar_steering.py [--quick] [--data DIR] [--out DIR]

The networks are EfficientNet-Lite0 with a linear classifier of Fashion-MNIST, and a transformer of
three blocks that is trained here, in seconds, to give the first, last, largest or smallest of four
digits. CEDAR is fitted to the output of a middle layer.

For each class, the axis that tells it best from the others in training claims to stand for it. The
program moves the output of the layer along this axis, on held-out inputs of other classes, and
counts how often the claimed class gains the most. Beside it stand steps of the same length along
the best of as many random directions, along the best principal component, and along the difference
of class means. It then predicts the effect of each axis on the output by one gradient and by eight,
and measures it. It writes cedar_steering.png and cedar_attribution.png, and needs laplex[examples]
and Debian's dataset-fashion-mnist; with --quick, the digits of scikit-learn take its place.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from laplex._support.image_datasets import load_images
from laplex.cedar import CEDAR, CedarModule, attribute, measure_effects, split_at, steer
from laplex.cedar.basis import DenseBasis

#: Lengths of a step, as multiples of the root mean square length of a centred vector.
STRENGTHS = (0.25, 0.5, 1.0, 1.5)


@dataclass
class Case:
    """A network from a layer on, and inputs of that layer, already computed."""

    name: str
    rest: nn.Sequential  # its first module is an Identity: the layer to steer
    train: Tensor  # outputs of the layer, vectors in dimension ``dim``
    train_classes: np.ndarray
    test: Tensor
    test_classes: np.ndarray
    k: int
    dim: int
    positions: Any  # which of the vectors to steer, and to fit to

    def vectors(self, outputs: Tensor) -> Tensor:
        """Return the vectors [n, positions, d] of outputs."""
        moved = outputs.movedim(self.dim, -1)
        moved = moved.flatten(1, -2)
        return moved if self.positions is None else moved[:, [self.positions]]


@dataclass
class Claim:
    """A direction and the class that it is said to stand for."""

    module: CedarModule
    axis: int
    sign: int
    label: int
    clarity: float  # distance of the means of this class and the others, in deviations


def apart(module: CedarModule, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes, and how far each is from the others on each axis [classes, axes].

    The distance is that of the means in training, in deviations of the coordinate.
    """
    rows = case.vectors(case.train)
    with torch.no_grad():
        found = module.encode(rows, k=rows.shape[-1]).double().numpy()
    labels = np.repeat(case.train_classes, found.shape[1])
    found = found.reshape(-1, found.shape[-1])
    kinds = np.unique(labels)
    means = [found[labels == c].mean(0) - found[labels != c].mean(0) for c in kinds]
    return kinds, np.stack(means) / (found.std(0) + 1e-12)


def claims(module: CedarModule, case: Case) -> list[Claim]:
    """Find the axis of each class: the one on which it is farthest from the others."""
    kinds, far = apart(module, case)
    best = np.abs(far).argmax(1)
    values = far[np.arange(len(kinds)), best]
    return [
        Claim(module, int(axis), 1 if value > 0 else -1, int(kind), abs(float(value)))
        for kind, axis, value in zip(kinds, best, values, strict=True)
    ]


def rotation_module(rotation: np.ndarray, mean: Tensor, k: int) -> CedarModule:
    """Make any rotation a module like that of CEDAR."""
    return CedarModule(DenseBasis(torch.tensor(rotation, dtype=mean.dtype)), mean, k).eval()


def directions(case: Case, model: CEDAR) -> dict[str, list[Claim]]:
    """Return the claims of CEDAR and of what it is compared with."""
    module = model.torch_module()
    mean, k = module.mean, case.k
    rows = case.vectors(case.train)
    flat = rows.reshape(-1, rows.shape[-1]).double().numpy()
    random = np.random.default_rng(0)
    width = flat.shape[1]
    chance = np.linalg.qr(random.standard_normal((width, width)))[0]
    components = np.linalg.eigh(np.cov(flat.T))[1].T
    labels = np.repeat(case.train_classes, rows.shape[1])
    differences = []
    for place, c in enumerate(np.unique(labels)):
        difference = flat[labels == c].mean(0) - flat[labels != c].mean(0)
        square = np.column_stack([difference, random.standard_normal((width, width - 1))])
        rotation = np.linalg.qr(square)[0].T  # its first row is along the difference, up to a sign
        one = rotation_module(rotation, mean, k)
        value = float(apart(one, case)[1][place, 0])
        differences.append(Claim(one, 0, 1 if value > 0 else -1, int(c), abs(value)))
    return {
        "CEDAR": claims(module, case),
        "random directions": claims(rotation_module(chance, mean, k), case),
        "principal components": claims(rotation_module(components, mean, k), case),
        "differences of class means": differences,
    }


@dataclass
class Steered:
    """What steps of one length did."""

    strength: float
    first: float  # how often the claimed class gained the most
    gained: float  # mean gain of its log probability
    decided: float  # how often the network now says the claimed class


@torch.no_grad()
def steer_by(found: list[Claim], case: Case, length: float, strengths: tuple[float, ...]) -> Any:
    """Steer held-out inputs of other classes along every claim."""
    before = case.rest(case.test).log_softmax(-1)
    results = []
    for strength in strengths:
        first, gained, decided = [], [], []
        for claim in found:
            step = claim.sign * strength * length
            values = {claim.axis: lambda c, step=step: c + step}
            layer = case.rest[0]
            with steer(layer, claim.module, values, positions=case.positions, dim=case.dim):
                after = case.rest(case.test).log_softmax(-1)
            others = torch.from_numpy(case.test_classes != claim.label)
            gain = (after - before)[others]
            first.append(float((gain.argmax(-1) == claim.label).double().mean()))
            gained.append(float(gain[:, claim.label].mean()))
            decided.append(float((after[others].argmax(-1) == claim.label).double().mean()))
        results.append(Steered(strength, *(float(np.mean(x)) for x in (first, gained, decided))))
    return results


@dataclass
class Attributed:
    """Predicted and measured effects of the axes on single inputs."""

    once: np.ndarray  # [inputs, axes], by the gradient at the input
    path: np.ndarray  # by eight gradients along the way
    measured: np.ndarray
    error: np.ndarray  # [inputs], effect of the omitted part by eight gradients
    total: np.ndarray  # [inputs], the change of the metric
    left: np.ndarray  # [inputs], what does not add up with one gradient, and with eight

    def rank_correlation(self, predicted: np.ndarray) -> float:
        """Return the mean Spearman correlation with the measured effects, over the inputs."""
        pairs = zip(predicted, self.measured, strict=True)
        return float(np.mean([spearmanr(one, other).statistic for one, other in pairs]))


def attribute_inputs(case: Case, module: CedarModule, count: int) -> Attributed:
    """Replace the vectors of an input by those of one of another class; attribute the change.

    The metric is the logit of the class that the network gives, minus that of the other input.
    """
    once, path, measured, error, total, left = [], [], [], [], [], []
    other = np.roll(np.arange(len(case.test)), 1)
    usable = np.flatnonzero(case.test_classes != case.test_classes[other])[:count]
    for place in usable:
        pair = [case.test[[place]], case.test[[other[place]]]]
        with torch.no_grad():
            says, instead = (int(case.rest(one).argmax()) for one in pair)

        def margin(z: Tensor, says: int = says, instead: int = instead) -> Tensor:
            logits = case.rest(z)[0]
            return logits[says] - logits[instead]

        z, metric = split_at(case.rest[0], lambda pair=pair: margin(pair[0]), dim=case.dim)
        patch = pair[1].movedim(case.dim, -1)
        if case.positions is not None:  # the other tokens stay
            patch, whole = z.clone(), patch
            patch[..., case.positions, :] = whole[..., case.positions, :]
        first = attribute(module, z, metric, patch=patch)
        eight = attribute(module, z, metric, patch=patch, steps=8)
        once.append(first.by_axis.numpy())
        path.append(eight.by_axis.numpy())
        axes = range(len(module.mean))
        measured.append(measure_effects(module, z, metric, axes, patch=patch).numpy())
        error.append(float(eight.error.sum()))
        total.append(eight.after - eight.before)
        left.append([abs(first.unexplained), abs(eight.unexplained)])
    return Attributed(*map(np.array, (once, path, measured, error, total, left)))


# --- networks -------------------------------------------------------------------------------------


def pictures(data: str, count: int, held_out: int) -> Case:
    """Take EfficientNet-Lite0 apart after block 12 and give it a classifier of the pictures."""
    from laplex.cedar.encoders import EfficientNetEncoder

    images = load_images(data)
    encoder = EfficientNetEncoder(normalize=False)
    network = encoder.model
    outputs: list[Tensor] = []
    handle = network._blocks[12].register_forward_hook(lambda *call: outputs.append(call[2]))
    shown = (images.test_images[: count + held_out] * 255).astype(np.uint8)
    features = np.asarray(encoder.encode_images(shown, progress=True))
    handle.remove()
    labels = np.asarray(images.test_labels[: count + held_out])
    maps = torch.cat(outputs)
    fit = LogisticRegression(C=0.01, max_iter=500).fit(features[:count], labels[:count])
    head = nn.Linear(features.shape[1], len(fit.classes_))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(fit.coef_))
        head.bias.copy_(torch.from_numpy(fit.intercept_))
    rest = nn.Sequential(
        nn.Identity(),
        *network._blocks[13:],
        network._conv_head,
        network._bn1,
        network._swish,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        head,
    ).eval()
    for parameter in rest.parameters():
        parameter.requires_grad_(False)
    return Case(
        "EfficientNet-Lite0, block 12",
        rest,
        maps[:count],
        labels[:count],
        maps[count:],
        labels[count:],
        k=16,
        dim=1,
        positions=None,
    )


class Reader(nn.Module):
    """The logits of the digits, from the vector of the last token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, z: Tensor) -> Tensor:
        """Return the logits [n, 10]."""
        return self.head(self.norm(z[:, -1]))


class Embedding(nn.Module):
    """Vectors of an operation, four digits and an equals sign."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(15, width)
        self.place = nn.Parameter(torch.randn(6, width) / 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors [n, 6, width]."""
        return self.token(tokens) + self.place


def questions(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw questions such as "largest of 3 1 4 1 =" and their answers."""
    digits = torch.randint(10, (count, 4), generator=random)
    kind = torch.randint(4, (count,), generator=random)
    answers = torch.stack([digits[:, 0], digits[:, 3], digits.amax(1), digits.amin(1)], 1)
    answer = answers.gather(1, kind[:, None])[:, 0]
    equals = torch.full((count, 1), 14)
    return torch.cat([kind[:, None] + 10, digits, equals], 1), answer


def transformer(steps: int, count: int, held_out: int) -> Case:
    """Train a transformer of three blocks and take it apart after the second."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    width = 64
    blocks = [
        nn.TransformerEncoderLayer(width, 4, 128, 0.0, batch_first=True, norm_first=True)
        for _ in range(3)
    ]
    network = nn.Sequential(Embedding(width), *blocks, Reader(width))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        tokens, answer = questions(256, random)
        loss = nn.functional.cross_entropy(network(tokens), answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    tokens, answer = questions(count + held_out, random)
    with torch.no_grad():
        vectors = network[:3](tokens)
    return Case(
        "Transformer, block 2 of 3",
        nn.Sequential(nn.Identity(), *network[3:]),
        vectors[:count],
        answer[:count].numpy(),
        vectors[count:],
        answer[count:].numpy(),
        k=8,
        dim=-1,
        positions=-1,
    )


# --- results --------------------------------------------------------------------------------------


def study(case: Case, inputs: int) -> tuple[dict[str, list[Steered]], Attributed]:
    """Fit CEDAR to a layer, steer and attribute, and print what came out."""
    with torch.no_grad():
        right = (case.rest(case.test).argmax(-1).numpy() == case.test_classes).mean()
    rows = case.vectors(case.train).flatten(0, 1)
    start = time.process_time()
    model = CEDAR(case.k, max_iter=60, tol=1e-4, random_state=0).fit(rows)
    seconds = time.process_time() - start
    held_out = model.score(case.vectors(case.test).flatten(0, 1))
    print(f"\n{case.name}: {right:.3f} of {len(case.test)} held-out inputs are right")
    print(
        f"CEDAR with k = {case.k} explains {held_out:.3f} of other vectors of {rows.shape[1]} "
        f"numbers ({len(rows)} rows, {seconds:.0f} s)"
    )
    steered = {}
    print("\ndirections                  step  gains most  log p gained  decides")
    for name, found in directions(case, model).items():
        clarity = np.mean([claim.clarity for claim in found])
        print(f"{name}: classes are {clarity:.2f} deviations apart on average")
        steered[name] = steer_by(found, case, float(model.scale_), STRENGTHS)
        for one in steered[name]:
            print(f"{name:<26} {one.strength:5.2f} {one.first:11.3f} {one.gained:13.2f} "
                  f"{one.decided:8.3f}")  # fmt: skip
    found = attribute_inputs(case, model.torch_module(), inputs)
    change = np.abs(found.total).mean()
    print(f"\npatching {len(found.total)} inputs; the metric changes by {change:.2f} on average")
    for name, predicted, place in (("one", found.once, 0), ("eight", found.path, 1)):
        print(
            f"{name:>5} gradient(s): rank correlation with the measured effects "
            f"{found.rank_correlation(predicted):.3f}; "
            f"{found.left[:, place].mean() / change:.3f} of the change does not add up"
        )
    apart = np.abs(found.measured.sum(1) + found.error - found.total).mean() / change
    print(
        f"the omitted part has {np.abs(found.error).mean() / change:.3f} of the change; effects "
        f"measured one by one miss {apart:.3f} of it together"
    )
    return steered, found


def draw_steering(figure: Figure, all_steered: dict[str, dict[str, list[Steered]]]) -> None:
    """Draw how often the claimed class gains the most, and how often it is the answer."""
    panels: Any = figure.subplots(2, len(all_steered), squeeze=False, sharex=True, sharey=True)
    for column, (name, steered) in zip(panels.T, all_steered.items(), strict=True):
        values: tuple[tuple[Axes, Callable[[Steered], float], str], ...] = (
            (column[0], lambda one: one.first, "claimed class gains the most"),
            (column[1], lambda one: one.decided, "network says the claimed class"),
        )
        column[0].set_title(name)
        for panel, value, label in values:
            for method, results in steered.items():
                line = [value(one) for one in results]
                panel.plot([one.strength for one in results], line, marker="o", label=method)
            panel.axhline(0.1, color="gray", linestyle=":", linewidth=1)
            panel.set_ylabel(f"share: {label}")
            panel.set_ylim(0, 1.02)
        column[1].set_xlabel("length of the step / rms length of a vector")
    panels[0, 0].legend(fontsize=8)


def draw_attribution(figure: Figure, every: dict[str, Attributed]) -> None:
    """Draw predicted against measured effects of the axes."""
    panels: Any = figure.subplots(1, len(every), squeeze=False)[0]
    for panel, (name, found) in zip(panels, every.items(), strict=True):
        measured = found.measured.ravel()
        ends = [measured.min(), measured.max()]
        panel.plot(ends, ends, color="gray", linewidth=1)
        for label, predicted in (("one gradient", found.once), ("eight gradients", found.path)):
            correlation = found.rank_correlation(predicted)
            text = f"{label}, rank correlation {correlation:.2f}"
            panel.scatter(measured, predicted.ravel(), s=5, alpha=0.4, label=text)
        panel.set_title(name)
        panel.set_xlabel("measured effect of an axis on the difference of logits")
        panel.set_ylabel("predicted effect")
        panel.legend(fontsize=8)


def main() -> None:
    """Study both networks, print the tables and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few inputs, in half a minute")
    parser.add_argument("--data", default="fashion-mnist", help="data set, or folder of its files")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the figures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.quick:
        cases = [pictures("digits", 100, 20), transformer(150, 1500, 100)]
    else:
        cases = [pictures(options.data, 600, 100), transformer(400, 6000, 600)]
    results = {case.name: study(case, 3 if options.quick else 25) for case in cases}
    steering = Figure(figsize=(10, 7), layout="constrained")
    draw_steering(steering, {name: steered for name, (steered, _) in results.items()})
    attribution = Figure(figsize=(10, 5), layout="constrained")
    draw_attribution(attribution, {name: found for name, (_, found) in results.items()})
    for name, figure in (("steering", steering), ("attribution", attribution)):
        path = options.out / f"cedar_{name}.png"
        figure.savefig(path, dpi=100)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
