"""Run an exported early-exit network with NumPy, and with onnxruntime or torch for its files.

This file does not import Laplex, and `laplex.early_exit.export` writes a copy of it next to the
segments, so that the folder runs where Laplex is not installed.

>>> from runner import ExportedModel                                              # doctest: +SKIP
>>> ExportedModel.load("exported").predict(images).labels                         # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

KIND, FORMAT, READ = "laplex.early_exit.export", 3, (1, 2, 3)
MANIFEST = "manifest.json"

Array = np.ndarray[Any, Any]
_Segment = Callable[[list[Array]], list[Array]]
_Scorer = Callable[[int, Array, Any], tuple[Array, Any]]


@dataclass(frozen=True)
class ExportedPrediction:
    """Result of `ExportedModel.predict`, like `laplex.early_exit.Prediction` but with arrays.

    Attributes
    ----------
    logits : ndarray [batch, classes]
        Logits of each sample, from the exit that answered for it.
    exit_index : ndarray [batch], int64
        Index of that exit; 0 is the first.
    samples_per_segment : tuple of int
        Number of samples that each segment computed.
    """

    logits: Array
    exit_index: Array
    samples_per_segment: tuple[int, ...]

    @property
    def labels(self) -> Array:
        """Predicted classes, ndarray [batch], int64."""
        found: Array = self.logits.argmax(-1)
        return found

    def __repr__(self) -> str:
        counts = np.bincount(self.exit_index, minlength=len(self.samples_per_segment)).tolist()
        return (
            f"ExportedPrediction({len(self.exit_index)} samples; by exit {counts}; computed by "
            f"segment {list(self.samples_per_segment)})"
        )


class Rule(NamedTuple):
    """An exit policy of `laplex.early_exit` as plain numbers."""

    name: str
    cuts: Array
    """Thresholds in units of scores, [exits - 1]."""
    strict: bool
    most_confident: bool
    score: _Scorer | None
    """A function from exit, logits and memory to score and memory; None: the score in the files."""
    policy: Any = None
    """A live policy, which decides itself which samples leave."""

    def leaves(self, k: int, score: Array) -> Array:
        """Decide from scores which samples leave at exit k, [batch] of bool."""
        if self.policy is not None:
            torch = _needed("torch", "exits")
            reached = self.policy.reached(torch.from_numpy(score), torch.tensor(self.cuts[k]))
            return np.asarray(reached)
        return np.asarray(score > self.cuts[k] if self.strict else score >= self.cuts[k])

    @classmethod
    def of(cls, policy: Any, num_exits: int, exported: str | None = None) -> Rule:
        """Make a rule from a policy or a mapping.

        Parameters
        ----------
        policy
            A policy of laplex, or a mapping with the keys ``rule``, ``thresholds``, ``strict`` and
            ``fallback``.
        num_exits : int
        exported : str, optional
            The rule whose score is part of the files.

        Raises
        ------
        TypeError, ValueError
            If `policy` is neither, its rule is unknown, or its thresholds are NaN or for another
            number of exits.
        """
        if not isinstance(policy, Mapping):
            return cls._live(policy, num_exits)
        name: Any = policy.get("rule")
        fallback = policy.get("fallback", "last")
        if name == "LearnedScore" != exported:
            raise ValueError(
                "policy is a LearnedScore, but the model was exported without one: pass the policy "
                "to export, so that its score becomes part of the segments"
            )
        if name != exported and name not in SCORES:
            known = dict.fromkeys([*SCORES, *([exported] if exported else [])])
            raise ValueError(f"policy has rule {name!r}: it must be one of {', '.join(known)}")
        if fallback not in ("last", "most_confident"):
            raise ValueError(f"fallback must be 'last' or 'most_confident', got {fallback!r}")
        if "thresholds" not in policy:
            raise ValueError(
                f"policy has no thresholds: pass {{'rule': {name!r}, 'thresholds': ...}}"
            )
        cuts = _one_for_each(policy["thresholds"], num_exits)
        return cls(
            name,
            -cuts if name == "Entropy" else cuts,
            bool(policy.get("strict", False)),
            fallback == "most_confident",
            None if name == exported else SCORES[name],
        )

    @classmethod
    def _live(cls, policy: Any, num_exits: int) -> Rule:
        """Make a rule from a policy that scores the logits itself."""
        name = type(policy).__name__
        if not all(hasattr(policy, one) for one in ("score", "cuts", "reached", "fallback")):
            raise TypeError(
                f"policy must be a {', '.join(SCORES)}, another Policy of laplex, or a mapping "
                f"such as {{'rule': 'MaxSoftmax', 'thresholds': 0.9}}, got {name}"
            )
        torch = _needed("torch", "exits")

        def score(k: int, logits: Array, memory: Any) -> tuple[Array, Any]:
            with torch.no_grad():
                found, memory = policy.score(k, torch.from_numpy(logits), memory)
            return found.numpy().astype(np.float64), memory

        _one_for_each(policy.thresholds, num_exits)
        cuts = np.asarray(policy.cuts(num_exits))
        return cls(name, cuts, policy.strict, policy.fallback == "most_confident", score, policy)


class ExportedModel:
    """An exported model that is ready to run. Open one with `ExportedModel.load`.

    Attributes
    ----------
    manifest : dict
        Contents of ``manifest.json``.
    folder : Path or None
        The folder that the model was loaded from.
    exit_names : tuple of str
        Names of the exits; the last one is ``"output"``.
    policy : dict or None
        The policy that the model was exported with: its ``rule``, ``thresholds``, ``strict`` and
        ``fallback``.
    """

    def __init__(
        self, manifest: dict[str, Any], segments: Sequence[_Segment], folder: Path | None = None
    ) -> None:
        self.manifest = manifest
        self.folder = folder
        self._segments = tuple(segments)
        self.exit_names: tuple[str, ...] = tuple(one["exit"] for one in manifest["segments"])
        self.policy: dict[str, Any] | None = manifest["policy"]
        # In format 1, only the score of a LearnedScore was part of the files.
        self._scored = bool(manifest.get("scored") or manifest.get("learned_score"))
        parts = manifest["segments"]
        described = [*manifest["inputs"], *(one for part in parts for one in part["outputs"])]
        self._axes: dict[str, int | None] = {one["name"]: one["batch_axis"] for one in described}
        takes = [{one["name"] for one in part["inputs"]} for part in parts]
        #: Names of the values that the segments after each one need.
        self._needed = [set().union(*takes[k + 1 :]) for k in range(len(parts))]

    @classmethod
    def load(
        cls,
        folder: Any,
        *,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        trusted: bool = False,
    ) -> ExportedModel:
        """Open the folder of an exported model.

        Parameters
        ----------
        folder : path
            The folder that `laplex.early_exit.export` wrote.
        threads : int, optional
            Number of threads that onnxruntime uses within an operator; by default its own choice.
            Files of torch run with the threads of torch.
        providers : sequence of str
            Execution providers of onnxruntime.
        trusted : bool
            Whether to open files of torch. They can contain code, which runs when they are opened:
            set it only for files of people whom you trust. ONNX files contain none.

        Returns
        -------
        ExportedModel

        Raises
        ------
        FileNotFoundError
            If the folder does not hold an exported model, or one of its files is missing.
        ValueError
            If the manifest is broken, describes something else, or is newer than this runner; or if
            the files are those of torch, and `trusted` is not set.
        ImportError
            If onnxruntime, or torch for its own files, is not installed.
        """
        path = Path(folder)
        manifest = _read_manifest(path)
        files = [path / one["file"] for one in manifest["segments"]]
        for file in files:
            if file.parent != path:
                raise ValueError(f"{path / MANIFEST} names {file}, which is not in its folder")
            if not file.is_file():
                raise FileNotFoundError(f"{path} is not complete: there is no {file.name} in it")
        if manifest["file_format"] == "onnx":
            return cls(manifest, _onnx_segments(files, threads, providers), path)
        if threads is not None:
            raise ValueError(
                "threads is for ONNX files only: for files of torch, call torch.set_num_threads"
            )
        if not trusted:
            raise ValueError(
                f"{path} holds files of torch (.pt2), which can run any code when they are opened: "
                "pass trusted=True if you trust whoever wrote them, or export to ONNX"
            )
        return cls(manifest, _torch_segments(files, manifest["imports"]), path)

    @property
    def num_exits(self) -> int:
        """Number of exits, the output of the backbone included."""
        return len(self._segments)

    def predict(self, x: Any, policy: Any = None) -> ExportedPrediction:
        """Predict with early exits: no segment after a sample's exit is computed for it.

        Parameters
        ----------
        x : ndarray [batch, ...], or lists, tuples and mappings of arrays
            An input of the model, as in the example of the export. Arguments of a backbone by their
            names are a mapping, such as the output of a tokenizer. Arrays are converted to the
            types that the segments accept; whole numbers must remain what they are.
        policy : mapping or policy of laplex, optional
            By default the policy of the manifest, whose score is part of the files. A mapping with
            the ``rule`` of the manifest uses the same score with other ``thresholds``. For a
            mapping with the rule "MaxSoftmax", "Entropy", "Margin" or "Patience", the score is
            computed from the logits by NumPy. A policy of laplex scores the logits itself, with
            torch.

        Returns
        -------
        ExportedPrediction

        Raises
        ------
        TypeError, ValueError
            If there is no policy, the policy does not fit the model, or `x` does not have the
            exported shape, or would change when it is converted to whole numbers.
        RuntimeError
            If a segment fails, or returns another number of samples than it was given.

        Notes
        -----
        As in ``MultiExitModel.predict``, NaN is no error: a NaN score reaches no threshold, so that
        the sample goes on to the last exit, and the label is the first class whose logit is NaN.
        In ONNX files, negative indices, such as a token id of -1, count from the end of a table;
        PyTorch refuses them.
        """
        if policy is None:
            policy = self.policy
        if policy is None:
            raise ValueError(
                "policy is needed, because the model was exported without one: pass "
                "{'rule': 'MaxSoftmax', 'thresholds': 0.9}, or pass a policy to export"
            )
        exported = self.policy["rule"] if self.policy is not None and self._scored else None
        rule = Rule.of(policy, self.num_exits, exported)
        values, batch = self._inputs(x)
        walk = _Walk(rule, batch, self.num_exits)
        for k in range(self.num_exits):
            logits, score, values = self._step(k, values, len(walk.rows))
            stays = walk.answer(k, logits, score)
            if not stays.any():
                break
            if not stays.all():
                values = self._rows(values, stays)
        return walk.prediction()

    def logits(self, x: Any) -> Array:
        """Compute the logits of every exit for all samples.

        Parameters
        ----------
        x
            The inputs, as in `predict`.

        Returns
        -------
        ndarray ``[exits, batch, classes]``
            The logits.
        """
        return self.answers(x)[0]

    def answers(self, x: Any) -> tuple[Array, Array | None]:
        """Compute the logits of every exit for all samples, and their scores.

        Parameters
        ----------
        x
            The inputs, as in `predict`.

        Returns
        -------
        logits : ndarray ``[exits, batch, classes]``
            The logits.
        scores : ndarray ``[exits, batch]`` or None
            The scores of the policy in the files; None if the model was exported without a policy.
        """
        (values, batch), found = self._inputs(x), []
        for k in range(self.num_exits):
            *answers, values = self._step(k, values, batch)
            found.append(answers)
        logits, scores = zip(*found, strict=True)
        return np.stack(logits), np.stack(scores) if self._scored else None

    def __repr__(self) -> str:
        rule = "no policy" if self.policy is None else self.policy["rule"]
        return (
            f"ExportedModel({self.manifest['file_format']}, exits at "
            f"{', '.join(self.exit_names)}, {rule})"
        )

    def rest(self, x: Any, k: int, stays: Array) -> Array:
        """Compute the logits of the exits after exit `k` for the samples that stay there.

        Parameters
        ----------
        x
            The inputs, as in `predict`.
        k : int
            Index of the exit.
        stays : ndarray [batch] of bool
            Which samples stay.

        Returns
        -------
        ndarray ``[exits - 1 - k, samples that stay, classes]``
            The logits.

        :meta private:
        """
        (values, rows), found = self._inputs(x), []
        for segment in range(self.num_exits):
            logits, _, values = self._step(segment, values, rows)
            if segment == k:
                values, rows = self._rows(values, stays), int(stays.sum())
            elif segment > k:
                found.append(logits)
        return np.stack(found)

    def _step(
        self, k: int, values: dict[str, Array], rows: int
    ) -> tuple[Array, Array | None, dict[str, Array]]:
        """Run one segment: its logits, the score if any, and the values that are still needed."""
        part = self.manifest["segments"][k]
        given = {one["name"]: values[one["name"]] for one in part["inputs"]}
        segment = f"segment {k} (exit {part['exit']!r})"
        try:
            outputs = self._segments[k](list(given.values()))
        except Exception as error:  # runtimes raise classes of their own
            places = {one["name"]: f"x{one['place']}" for one in self.manifest["inputs"]}
            shapes = ", ".join(
                f"{places.get(name, name)} {one.dtype} {list(one.shape)}"
                for name, one in given.items()
            )
            raise RuntimeError(
                f"{segment} fails for {shapes}: check the values of x, such as token ids beyond "
                f"the vocabulary. The runtime says: {error}"
            ) from error
        names = [one["name"] for one in part["outputs"]]
        found = dict(zip(names, map(np.asarray, outputs), strict=True))
        for name, one in found.items():
            axis = self._axes[name]
            if axis is not None and one.shape[axis : axis + 1] != (rows,):
                raise RuntimeError(
                    f"{segment} returns {name} of shape {list(one.shape)}, which must have "
                    f"{rows} in dimension {axis}, one for each sample: export the model again"
                )
        kept = {name: one for name, one in {**values, **found}.items() if name in self._needed[k]}
        return found["logits"], found.get("score"), kept

    def _rows(self, values: dict[str, Array], stays: Array) -> dict[str, Array]:
        """The rows of the samples that stay, along the batch axis of each value."""
        return {
            name: one if self._axes[name] is None else np.compress(stays, one, self._axes[name])
            for name, one in values.items()
        }

    def _inputs(self, x: Any) -> tuple[dict[str, Array], int]:
        """The inputs of the model by the names of their values, checked, and their batch size."""
        given, described = leaves(x), self.manifest["inputs"]
        places = [one["place"] for one in described]
        for place in {"['labels']", "['label']"}.difference(places):  # are for the loss
            given.pop(place, None)
        if sorted(given) != sorted(places):
            listed = ", ".join(place or "one array" for place in given)
            wanted = ", ".join(place or "one array" for place in places)
            raise ValueError(f"x has {listed or 'no arrays'}, but the model takes {wanted}")
        largest = self.manifest.get("largest_sizes", {})
        sizes: dict[str, int] = {}
        values = {}
        for one in described:
            place, wanted = f"x{one['place']}", one["shape"]
            array = np.asarray(given[one["place"]])
            if array.ndim != len(wanted) or any(
                isinstance(size, int) and size != found
                for size, found in zip(wanted, array.shape, strict=True)
            ):
                shape = ", ".join(map(str, wanted))
                raise ValueError(f"{place} must be [{shape}], got shape {list(array.shape)}")
            for name, found in zip(wanted, array.shape, strict=True):
                if isinstance(name, str) and sizes.setdefault(name, found) != found:
                    raise ValueError(
                        f"{place} has {found} {name}, but another input has {sizes[name]}: pass "
                        "arrays of one batch and equal sizes"
                    )
                if not 1 <= found <= largest.get(name, found):
                    raise ValueError(
                        f"{place} has size {found} in {name}: the model takes at least 1"
                        + (f" and at most {largest[name]}" if name in largest else "")
                    )
            values[one["name"]] = _converted(place, array, one["dtype"])
        return values, sizes["batch"]


class _Walk:
    """One batch on its way, as in `laplex.early_exit.MultiExitModel.predict`."""

    def __init__(self, rule: Rule, batch: int, num_exits: int) -> None:
        self.rule, self.last = rule, num_exits - 1
        self.rows = np.arange(batch)  # indices of the samples that have not left yet
        self.logits: Array | None = None
        self.exit_index = np.zeros(batch, dtype=np.int64)
        self.memory: Any = None
        self.best: tuple[Array, Array, Array] | None = None  # score, logits, exit
        self.computed = [0] * num_exits

    def answer(self, k: int, logits: Array, exported: Array | None) -> Array:
        """Store the answers of exit k for the samples that leave there; return which stay."""
        self.computed[k] = len(logits)
        if self.logits is None:
            self.logits = np.empty_like(logits)
        if self.rule.score is None:
            assert exported is not None
            score = exported
        else:
            score, self.memory = self.rule.score(k, logits, self.memory)
        exits = np.full(len(logits), k)
        leaves = np.ones(len(logits), dtype=bool)
        if k < self.last:
            leaves = self.rule.leaves(k, score)
        answers = logits
        if self.rule.most_confident:
            if self.best is not None:  # among equal scores the earlier exit wins
                ahead = score > self.best[0]
                score = np.where(ahead, score, self.best[0])
                best_logits = np.where(ahead[:, None], logits, self.best[1])
                best_exits = np.where(ahead, exits, self.best[2])
            else:
                best_logits, best_exits = logits, exits
            if k == self.last:
                answers, exits = best_logits, best_exits
            stays = ~leaves
            self.best = score[stays], best_logits[stays], best_exits[stays]
        gone = self.rows[leaves]
        self.logits[gone] = answers[leaves]
        self.exit_index[gone] = exits[leaves]
        self.rows = self.rows[~leaves]
        self.memory = _kept(self.memory, ~leaves)
        stayed: Array = ~leaves
        return stayed

    def prediction(self) -> ExportedPrediction:
        assert self.logits is not None
        return ExportedPrediction(self.logits, self.exit_index, tuple(self.computed))


def _kept(memory: Any, stays: Array) -> Any:
    """The memory of the samples that stay: a Tensor, an array, or several in a tuple or list."""
    if isinstance(memory, (tuple, list)):
        return type(memory)(_kept(one, stays) for one in memory)
    return None if memory is None else memory[stays]


# --- scores of rules by name: (exit, logits, memory) -> (score, memory) --------------------------


def _check_classes(logits: Array) -> None:
    if logits.shape[-1] < 2:
        raise ValueError(
            f"the rule needs logits of at least 2 classes, got {logits.shape[-1]}: pass a policy "
            "of your own"
        )


def _probabilities(logits: Array) -> Array:
    _check_classes(logits)
    shifted = logits.astype(np.float64)
    shifted = np.exp(shifted - shifted.max(-1, keepdims=True))
    found: Array = shifted / shifted.sum(-1, keepdims=True)
    return found


def _max_softmax(k: int, logits: Array, memory: Any) -> tuple[Array, Any]:
    return _probabilities(logits).max(-1), None


def _entropy(k: int, logits: Array, memory: Any) -> tuple[Array, Any]:
    p = _probabilities(logits)
    return (p * np.log(np.where(p > 0, p, 1.0))).sum(-1), None


def _margin(k: int, logits: Array, memory: Any) -> tuple[Array, Any]:
    p = np.sort(_probabilities(logits), -1)
    return p[:, -1] - p[:, -2], None


def _patience(k: int, logits: Array, memory: Any) -> tuple[Array, Any]:
    _check_classes(logits)
    label = logits.argmax(-1)
    if memory is None:
        streak = np.zeros_like(label)
    else:
        streak = np.where(label == memory[:, 0], memory[:, 1] + 1, 0)
    return streak.astype(np.float64), np.stack((label, streak), 1)


#: The rules that a mapping may name, in addition to the rule that a model was exported with.
SCORES: dict[str, _Scorer] = {
    "MaxSoftmax": _max_softmax,
    "Entropy": _entropy,
    "Margin": _margin,
    "Patience": _patience,
}


# --- files ---------------------------------------------------------------------------------------


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no exported model: there is no {MANIFEST} in it")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known = manifest["kind"] == KIND
        form = manifest["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} does not describe an exported model") from error
    if not known:
        raise ValueError(f"{file} does not describe an exported model")
    if form not in READ:
        raise ValueError(
            f"{path} was exported in format {form}, but this runner reads formats {READ[0]} to "
            f"{READ[-1]}: use the runner.py in the folder"
        )
    return manifest if form >= 3 else _renamed(manifest)


def _renamed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of an older format as this runner reads it.

    Before format 3, the tensors that a segment passed on were all that the next one took, and the
    batch was their first dimension.
    """
    first = manifest["segments"][0]["inputs"]
    inputs = [
        {**one, "place": place, "batch_axis": 0}
        for one, place in zip(first, manifest["input_places"], strict=True)
    ]
    segments, taken = [], inputs
    for k, part in enumerate(manifest["segments"]):
        outputs = [
            {**one, "name": one["name"].replace("activation", f"segment{k}"), "batch_axis": 0}
            for one in part["outputs"]
        ]
        segments.append({**part, "inputs": taken, "outputs": outputs})
        taken = [one for one in outputs if one["name"].startswith("segment")]
    return {**manifest, "inputs": inputs, "segments": segments}


def _onnx_segments(
    files: Sequence[Path], threads: int | None, providers: Sequence[str]
) -> list[_Segment]:
    runtime = _needed("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads

    def segment(file: Path) -> _Segment:
        session = runtime.InferenceSession(file, options, providers=list(providers))
        names = [one.name for one in session.get_inputs()]

        def run(arrays: list[Array]) -> list[Array]:
            found: list[Array] = session.run(None, dict(zip(names, arrays, strict=True)))
            return found

        return run

    return [segment(file) for file in files]


def _torch_segments(files: Sequence[Path], imports: Sequence[str]) -> list[_Segment]:
    torch = _needed("torch", "exits")
    for module in imports:  # these register operators that the files call
        if module != "laplex" and not module.startswith("laplex."):
            raise ValueError(f"{MANIFEST} asks for the module {module!r}, which is not of Laplex")
        _needed(module, "exits")

    def segment(file: Path) -> _Segment:
        module = torch.export.load(file).module()

        def run(arrays: list[Array]) -> list[Array]:
            with torch.no_grad():
                outputs = module(*(torch.from_numpy(array) for array in arrays))
            return [output.numpy() for output in outputs]

        return run

    return [segment(file) for file in files]


def _needed(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f'ExportedModel needs {package}: pip install "laplex[{extra}]"', name=package
        ) from error


def leaves(x: Any, place: str = "") -> dict[str, Any]:
    """The arrays in a structure by their position; other values were fixed by the export."""
    parts: Any = ()
    if getattr(x, "_fields", ()) == ("args", "kwargs"):  # laplex.early_exit.activations.Inputs
        parts = [*enumerate(x.args), *x.kwargs.items()]
    elif isinstance(x, Mapping):
        parts = x.items()
    elif isinstance(x, (list, tuple)):
        parts = enumerate(x)
    elif not (x is None or isinstance(x, (bool, int, float, str))):
        return {place: x}
    found: dict[str, Any] = {}
    for key, value in parts:
        found.update(leaves(value, f"{place}[{key!r}]"))
    return found


def _converted(place: str, array: Array, dtype: str) -> Array:
    """An array in the type of an input, refused if whole numbers or truth values would change."""
    with np.errstate(invalid="ignore"):  # NaN, which the comparison finds
        found = np.ascontiguousarray(array, dtype=dtype)
    if found.dtype.kind in "biu" and found.dtype != array.dtype:
        changed = np.flatnonzero(found != array)
        if changed.size:
            raise ValueError(
                f"{place} must hold numbers of type {dtype}, got {array.flat[changed[0]]} in "
                f"{array.dtype}: pass {dtype}, or values that it can represent"
            )
    return found


def _one_for_each(thresholds: Any, num_exits: int) -> Array:
    """Thresholds [exits - 1] from one, or one for each exit but the last."""
    several = isinstance(thresholds, (list, tuple, np.ndarray))
    found = np.array([float(one) for one in thresholds] if several else float(thresholds))
    if found.ndim == 0:
        found = np.full(num_exits - 1, found)
    if found.shape != (num_exits - 1,):
        raise ValueError(
            f"policy has {found.size} thresholds, but the model has {num_exits - 1} exits "
            f"before the last: pass one number, or {num_exits - 1} of them"
        )
    if np.isnan(found).any():
        raise ValueError("thresholds must be finite, inf or -inf, got nan")
    return found
