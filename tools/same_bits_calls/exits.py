"""`laplex.early_exit`."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from laplex import early_exit as ee
from laplex.early_exit import dynamics, networks

Calls = Iterator[tuple[str, Callable[[], Any]]]
FEATURES, CLASSES = 6, 3
#: A backbone, the names of its exits, and the kind of their heads.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], tuple[str, ...]]] = {
    "resnet": (
        lambda: networks.small_resnet(width=4, seed=0),
        ("layer1", "layer2"),
        ("conv", "pooled", "laplex"),
    ),
    "msdnet": (
        lambda: networks.small_msdnet(width=2, growth=2, seed=0),
        ("blocks.0", "blocks.1", "blocks.2"),
        ("pooled",),
    ),
    "vit": (
        lambda: networks.small_vit(dim=16, depth=3, seed=0),
        ("blocks.0", "blocks.1"),
        ("token",),
    ),
    "mlp": (
        lambda: networks.small_mlp(784, seed=0),
        ("layers.0", "layers.1"),
        ("linear", "mlp", "laplex"),
    ),
}


def numbers(*shape: int, seed: int = 40) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def samples(count: int = 40, seed: int = 41) -> TensorDataset:
    x = numbers(count, FEATURES, seed=seed)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def loader(count: int = 40, seed: int = 41, **options: Any) -> DataLoader[Any]:
    return DataLoader(samples(count, seed), batch_size=8, **options)


def block(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))


def tiny(seed: int = 0) -> ee.MultiExitModel:
    """BatchNorm and dropout in the backbone, a kernel layer in a head; scores far apart."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(block(FEATURES), block(8), nn.Linear(8, CLASSES))
    model = ee.MultiExitModel.attach(
        backbone, ["0"], num_classes=CLASSES, example=numbers(2, FEATURES), head="mlp"
    )
    head = ee.heads.LaplexExit(8, CLASSES)
    return ee.MultiExitModel(backbone, {"0": model.heads[0], "1": head})


def policies() -> dict[str, ee.Policy]:
    logits, labels = outputs().logits, outputs().labels
    scorer = ee.ScoreHeads().fit(logits, labels)
    return {
        "MaxSoftmax": ee.MaxSoftmax(0.5),
        "MaxSoftmax of each": ee.MaxSoftmax((0.6, 0.4), strict=True),
        "Entropy": ee.Entropy(0.9),
        "Margin": ee.Margin(0.3, fallback="most_confident"),
        "Patience": ee.Patience(1),
        "LearnedScore": ee.LearnedScore(scorer, 0.5),
        "temperature": ee.LearnedScore(ee.TemperatureScaling().fit(logits, labels), 0.5),
    }


def outputs(count: int = 120, seed: int = 42, exits: int = 3) -> ee.Outputs:
    """Logits that know more about the label at later exits."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    signal = np.arange(1, exits + 1)[:, None, None] * np.eye(CLASSES)[labels]
    logits = (rng.normal(size=(exits, count, CLASSES)) + signal).astype(np.float32)
    return ee.Outputs(logits, labels, ("0", "1", "output"))


def models() -> Calls:
    images = numbers(6, 1, 28, 28)
    for name, (backbone, exits, heads) in NETWORKS.items():
        for head in heads:
            yield (
                f"{name}, {head}",
                lambda backbone=backbone, exits=exits, head=head: of_model(
                    ee.MultiExitModel.attach(
                        backbone(), exits, head=head, num_classes=10, example=images[:2]
                    ),
                    images,
                ),
            )
    x = samples()[:][0]
    for name, policy in policies().items():
        yield f"predict, {name}", lambda policy=policy: tiny().eval().predict(x, policy)
    yield "text", lambda: repr(tiny())


def of_model(model: ee.MultiExitModel, images: Tensor) -> Any:
    initial = {name: each.clone() for name, each in model.state_dict().items()}
    logits = model(images)
    sum(each.square().mean() for each in logits).backward()
    gradients = {name: each.grad for name, each in model.named_parameters()}
    model.eval()
    costs = ee.count_costs(model, images[:2])
    left = [model.predict(images, ee.MaxSoftmax(t)) for t in (0.0, 0.12, 0.2, 2.0)]
    return {
        "initial": initial,
        "logits": logits,
        "gradients": gradients,
        "replays": model.replays,
        "costs": (costs.to_dict(), costs.relative, costs.table()),
        "flops": ee.count_costs(model, images[:2], convention="flops").to_dict(),
        "predictions": [(one.logits, one.exit_index, one.samples_per_segment) for one in left],
    }


def training() -> Calls:
    phases = [ee.Phase("heads", 1), ee.Phase("all", 1, learning_rate=1e-3), ee.Phase("backbone", 1)]
    settings: dict[str, dict[str, Any]] = {
        "disjoint": {"strategy": "disjoint"},
        "joint": {"strategy": "joint"},
        "mixed": {"strategy": "mixed"},
        "phases": {"strategy": phases, "epochs": None},
        "linear weights": {"strategy": "joint", "weights": "linear"},
        "sdn weights": {"strategy": "joint", "weights": "sdn"},
        "own weights": {"strategy": "joint", "weights": (0.2, 0.3, 0.5)},
        "gradient equilibrium": {"strategy": "joint", "gradient_equilibrium": True},
        "detached": {"strategy": "joint", "detach": True},
        "distilled": {"strategy": "joint", "distillation": ee.Distillation(0.5, 2.0)},
        "smoothed": {"strategy": "joint", "label_smoothing": 0.1},
        "stopping": {"strategy": "mixed", "early_stopping": ee.ExitStopping(patience=1)},
        "plain": {"strategy": "joint", "scheduler": None, "weight_decay": 0.0},
    }
    for name, options in settings.items():
        yield name, lambda options=options: trained(tiny(), options)
    logits, labels = tiny().eval()(samples()[:][0]), samples()[:][1]
    for weights, equilibrium, part in itertools.product(
        ("equal", "linear", "sdn"), (True, False), ("all", "heads", "backbone")
    ):
        objective = ee.Objective(weights, equilibrium, label_smoothing=0.1)
        yield (
            f"objective, {weights}, {equilibrium}, {part}",
            (
                lambda objective=objective, part=part: objective.losses(
                    logits, labels, part, progress=0.3, costs=[0.3, 0.6, 1.1]
                )
            ),
        )


def trained(model: ee.MultiExitModel, options: dict[str, Any]) -> Any:
    result = ee.train(
        model,
        loader(shuffle=True),
        loader(24, seed=43),
        learning_rate=0.02,
        **{"epochs": 2} | options,
    )
    return {"history": result.history, "table": result.table(), "state": model.state_dict()}


def judging() -> Calls:
    test, held_out = outputs(), outputs(80, seed=44)
    rules = {name: name.lower() for name in ("Entropy", "Margin", "Patience")} | {
        "MaxSoftmax": "max-softmax"
    }
    named: dict[str, Any] = rules | {f"a {name}": each for name, each in policies().items()}
    costs = [0.3, 0.6, 1.1]
    for (name, policy), calibration, protocol in itertools.product(
        named.items(),
        (None, "temperature", "eefp", "correct"),
        ("validation", "p1-test-sweep"),
    ):
        if calibration and isinstance(policy, ee.LearnedScore):
            continue
        if calibration in ("eefp", "correct") and policy != "max-softmax":
            continue  # they bring a score of their own
        yield (
            f"{name}, {calibration}, {protocol}",
            (
                lambda policy=policy, calibration=calibration, protocol=protocol: (
                    ee.evaluate_outputs(
                        test,
                        policy=policy,
                        calibration=calibration,
                        protocol=protocol,
                        validation=held_out,
                        costs=costs,
                    ).to_dict()
                )
            ),
        )
    yield "evaluate", lambda: evaluated(tiny().eval())
    yield "collect", lambda: ee.collect(tiny().eval(), loader())
    yield "compare", lambda: compared(costs)
    logits, labels = test.logits, test.labels
    correct = logits.argmax(-1) == labels
    confidence = torch.from_numpy(logits).double().softmax(-1).amax(-1).numpy()
    for function in (ee.ece, ee.smooth_ece, ee.failure_auroc, ee.aurc, ee.fpr95, ee.eefp):
        yield function.__name__, lambda function=function: np.asarray(function(confidence, correct))
    yield "ece, other bins", lambda: np.asarray(ee.ece(confidence, correct, bins=4))
    yield "nll", lambda: np.asarray(ee.nll(logits, labels))
    yield "brier", lambda: np.asarray(ee.brier(logits, labels))
    yield "eefp labels", lambda: ee.eefp_labels(correct)
    yield "reliability", lambda: ee.reliability(confidence, correct)
    yield "futility toy", lambda: vars(ee.futility_toy(500))
    for target, by_class in itertools.product(("eefp", "correct"), (True, False)):
        heads = ee.ScoreHeads(target, by_class=by_class)
        yield (
            f"score heads, {target}, {by_class}",
            lambda heads=heads: (
                heads.fit(logits, labels).scores(held_out.logits),
                heads.to_dict(),
            ),
        )
    scaling = ee.TemperatureScaling()
    yield "temperatures", lambda: (scaling.fit_transform(logits, labels), scaling.to_dict())
    for name, policy in policies().items():
        yield (
            f"decisions, {name}",
            lambda policy=policy: (
                policy.scores(logits),
                policy.exit_index(logits),
                type(policy).__name__,
            ),
        )


def evaluated(model: ee.MultiExitModel) -> Any:
    found = ee.evaluate(model, loader(), validation=loader(40, seed=45), calibration="temperature")
    return found.to_dict(), found.table(), found.cuts_at(1.5), found.area


def compared(costs: list[float]) -> Any:
    runs = [
        ee.evaluate_outputs(outputs(seed=seed), validation=outputs(seed=seed + 10), costs=costs)
        for seed in range(50, 54)
    ]
    found = ee.compare({"one": runs[:2], "two": runs[2:]})
    return found.to_dict(), found.table(), found.correlations().to_dict()


def insides() -> Calls:
    batches = loader()
    for squared, average, training_mode in itertools.product(
        (True, False), ("gradients", "norms"), (True, False)
    ):
        yield (
            f"gradient share, {squared}, {average}, {training_mode}",
            (
                lambda squared=squared, average=average, mode=training_mode: (
                    dynamics.gradient_share(
                        tiny(), batches, squared=squared, average=average, training=mode
                    ).to_dict()
                )
            ),
        )
    for spatial, center in itertools.product(("pool", "positions", "flatten"), (True, False)):
        yield (
            f"activation rank, {spatial}, {center}",
            lambda spatial=spatial, center=center: dynamics.activation_rank(
                tiny(), batches, spatial=spatial, center=center
            ).to_dict(),
        )
    for statistics in ("recomputed", "interpolated"):
        yield (
            f"mode connectivity, {statistics}",
            lambda statistics=statistics: dynamics.mode_connectivity(
                tiny(), tiny(1), batches, points=3, train_loader=batches, statistics=statistics
            ).to_dict(),
        )
    for estimator, reduction in itertools.product(("ksg", "gaussian"), ("pca", "random")):
        yield (
            f"mutual information, {estimator}, {reduction}",
            (
                lambda estimator=estimator, reduction=reduction: dynamics.mutual_information(
                    tiny(), batches, estimator=estimator, reduction=reduction, dims=2
                ).to_dict()
            ),
        )
    yield (
        "loss landscape",
        lambda: dynamics.loss_landscape(tiny(), batches, points=(3, 3)).to_dict(),
    )
    yield "filter directions", lambda: dynamics.filter_directions(tiny())
    x, z = numbers(80, 2), numbers(80, 2, seed=46)
    labels = samples(80)[:][1]
    yield "KSG", lambda: dynamics.ksg_information(x, x + z)
    yield "KSG of labels", lambda: dynamics.ksg_label_information(x, labels)
    yield "Gaussian", lambda: dynamics.gaussian_information(x, x + z)
    yield "Gaussian of labels", lambda: dynamics.gaussian_label_information(x, labels)
    yield "entropy of labels", lambda: dynamics.label_entropy(labels)
    yield "analyze", lambda: ee.analyze(tiny(), batches, other=tiny(1)).to_dict()


def exports() -> Calls:
    def mlp() -> ee.MultiExitModel:
        return tiny().eval()

    def resnet() -> ee.MultiExitModel:
        backbone, exits, _ = NETWORKS["resnet"]
        return ee.MultiExitModel.attach(
            backbone(), exits, head="laplex", num_classes=10, example=numbers(2, 1, 28, 28)
        ).eval()

    cases = {"mlp": (mlp, numbers(16, FEATURES)), "resnet": (resnet, numbers(8, 1, 28, 28))}
    for (name, (make, x)), form in itertools.product(cases.items(), ("onnx", "torch")):
        yield f"{name}, {form}", lambda make=make, x=x, form=form: exported(make(), x, form)


def exported(model: ee.MultiExitModel, x: Tensor, form: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported"
        ee.export(model, x[:3], path, format=form, policy=ee.MaxSoftmax(0.4))
        files = ee.ExportedModel.load(path, threads=1 if form == "onnx" else None)
        found = {
            name: files.predict(x.numpy(), policy)
            for name, policy in (("own policy", None), ("another", ee.Margin(0.2)))
        }
        return {"logits": files.logits(x.numpy())} | {
            name: (each.logits, each.exit_index, each.samples_per_segment)
            for name, each in found.items()
        }


AREAS = {
    "exit models": models,
    "exit training": training,
    "exit judging": judging,
    "exit dynamics": insides,
    "exit export": exports,
}
