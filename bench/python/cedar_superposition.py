"""Write docs/measurements/cedar_superposition.md: more causes than columns, and ways to code them.

    python bench/python/cedar_superposition.py [--quick]

This takes about three minutes on each of two cores. --quick uses small sizes, takes less than a
minute, and writes into build/cedar. The word embeddings come from the packaged all-MiniLM-L6-v2 and
wordfreq.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import MiniBatchDictionaryLearning

from laplex.cedar import CEDAR
from laplex.cedar.basis import nearest_rotation
from laplex.cedar.encoders import SentenceEncoder
from laplex.cedar.frame import pursue, updated
from laplex.cedar.metrics import mcc
from laplex.cedar.transforms.frame import Frame
from machine import processor

ROOT = Path(__file__).parents[2]
Rows = torch.Tensor
#: Fits the atoms [axes, d] of centred rows.
Method = Callable[[Rows, int, int], torch.Tensor]


def planted(
    rows: int, causes: int, k: int, noise: float = 0.0, dim: int = 64
) -> tuple[Rows, Rows, np.ndarray]:
    """Return sums of k random atoms with normal coefficients, split, and the atoms."""
    random = np.random.default_rng((causes, k))
    atoms = random.standard_normal((causes, dim))
    if causes == dim:
        atoms = np.linalg.qr(atoms)[0]
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((rows, causes))
    chosen = random.random((rows, causes)).argsort(1)[:, :k]
    np.put_along_axis(codes, chosen, random.standard_normal((rows, k)), 1)
    data = codes @ atoms + noise * random.standard_normal((rows, dim))
    found = torch.from_numpy(data.astype(np.float32))
    return found[: rows * 4 // 5], found[rows * 4 // 5 :], atoms


def explained(rows: Rows, near: Rows) -> float:
    lost = (rows - near).double().square().sum()
    return float(1 - lost / (rows - rows.mean(0)).double().square().sum())


def table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- what was tried -------------------------------------------------------------------------------


def start(rows: Rows, axes: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return Frame.starting_atoms(rows.shape[1], axes // rows.shape[1], random).float()


def alternated(step: Callable[[Rows, Rows, torch.Tensor], torch.Tensor]) -> Method:
    """Alternate between pursuit with a round for each atom and an update of the atoms."""

    def fit(rows: Rows, axes: int, k: int) -> torch.Tensor:
        atoms = start(rows, axes)
        for _ in range(30):
            atoms = step(rows, pursue(rows, atoms, k), atoms)
        return atoms

    return fit


def of_rotations(rows: Rows, codes: Rows, atoms: torch.Tensor) -> torch.Tensor:
    """Turn each rotation in its turn, with the others fixed: Procrustes problems."""
    dim = rows.shape[1]
    new, products = atoms.double().clone(), (codes.T @ rows).double()
    squares = (codes.T @ codes).double()
    for first in range(0, len(atoms), dim):
        own = slice(first, first + dim)
        others = squares[own] @ new - squares[own, own] @ new[own]
        new[own] = nearest_rotation(products[own] - others)
    return new.float()


def least_squares(rows: Rows, codes: Rows, atoms: torch.Tensor) -> torch.Tensor:
    return updated((codes.T @ codes).double(), (codes.T @ rows).double(), atoms)


def tight(rows: Rows, codes: Rows, atoms: torch.Tensor) -> torch.Tensor:
    """Make the columns of the least squares atoms orthonormal: a tight frame, but for norms."""
    left, _, right = torch.linalg.svd(least_squares(rows, codes, atoms), full_matrices=False)
    found: torch.Tensor = left @ right
    return found / found.norm(dim=1, keepdim=True)


def frame(rows: Rows, axes: int, k: int) -> torch.Tensor:
    redundancy = axes // rows.shape[1]
    model = CEDAR(k, basis="frame", redundancy=redundancy, center="none", random_state=0)
    return torch.from_numpy(model.fit(rows).atoms_)


def rotation(rows: Rows, axes: int, k: int) -> torch.Tensor:
    return torch.from_numpy(CEDAR(k, center="none", random_state=0).fit(rows).atoms_)


def dictionary(alpha: float, epochs: int) -> Method:
    """scikit-learn's dictionary; rows have a mean square of 1, so alpha has one scale."""

    def fit(rows: Rows, axes: int, k: int) -> torch.Tensor:
        rows = rows / rows.square().sum(1).mean().sqrt()
        model = MiniBatchDictionaryLearning(
            axes, alpha=alpha, max_iter=epochs, batch_size=512, fit_algorithm="cd", random_state=0
        )
        atoms = torch.from_numpy(model.fit(rows.numpy()).components_).float()
        return atoms / atoms.norm(dim=1, keepdim=True).clamp_min(1e-12)

    return fit


def measured(
    fit: Method, train: Rows, test: Rows, axes: int, k: int
) -> tuple[torch.Tensor, float, float]:
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence is not the question
        atoms = fit(train, axes, k)
    seconds = time.process_time() - begin
    return atoms, explained(test, pursue(test, atoms, k) @ atoms), seconds


def tried(count: int) -> str:
    train, test, truth = planted(count, 128, 4)
    sums = [(f"scikit-learn, alpha = {alpha}", dictionary(alpha, 3)) for alpha in (0.05, 0.15, 0.5)]
    methods: list[tuple[str, Method]] = [
        ("CEDAR, one rotation", rotation),
        ("two rotations, by Procrustes problems", alternated(of_rotations)),
        ("tight frame, by polar factors", alternated(tight)),
        ("frame, least squares alone", alternated(least_squares)),
        ('`basis="frame"`', frame),
        *sums,
    ]
    body = []
    for name, fit in methods:
        atoms, share, seconds = measured(fit, train, test, 128, 4)
        body.append([name, f"{share:.4f}", f"{mcc(atoms.numpy(), truth):.4f}", f"{seconds:.0f} s"])
        print(body[-1], flush=True)
    return table(["", "held-out FVE", "MCC", "processor time"], body)


def cases(count: int) -> str:
    body = []
    for causes, k, noise in ((64, 4, 0), (96, 4, 0), (128, 2, 0), (128, 4, 0), (128, 8, 0),
                             (128, 4, 0.1), (256, 4, 0)):  # fmt: skip
        train, test, truth = planted(count, causes, k, noise)
        best = torch.from_numpy(truth).float()
        line = [f"{causes}, k = {k}" + (f", noise {noise}" if noise else "")]
        line.append(f"{explained(test, pursue(test, best, k) @ best):.4f}")
        for fit, axes in ((rotation, 64), (frame, max(128, causes))):
            atoms, share, _ = measured(fit, train, test, axes, k)
            line.append(f"{share:.4f} / {mcc(atoms.numpy(), truth):.4f}")
        body.append(line)
        print(line, flush=True)
    return table(
        ["causes in 64 columns", "true atoms, FVE", "one rotation, FVE / MCC", "frame"], body
    )


def noise_only(count: int) -> str:
    data = torch.randn(count, 64, generator=torch.Generator().manual_seed(0))
    train, test = data[: count * 4 // 5], data[count * 4 // 5 :]
    chance = start(train, 128)
    body = [
        ["one rotation, fitted", f"{measured(rotation, train, test, 64, 4)[1]:.3f}"],
        ["two random rotations", f"{explained(test, pursue(test, chance, 4) @ chance):.3f}"],
        ["frame, fitted", f"{measured(frame, train, test, 128, 4)[1]:.3f}"],
    ]
    return table(["Gaussian noise, k = 4", "held-out FVE"], body)


def words(count: int) -> torch.Tensor:
    import wordfreq

    found = [word for word in wordfreq.top_n_list("en", 2 * count) if word.isalpha()][:count]
    encoder = SentenceEncoder.mini_lm(normalize=False)
    cache = ROOT / "build" / "cedar"
    rows = np.array(encoder.encode_texts(found, batch_size=256, cache=cache), np.float32)
    np.random.default_rng(0).shuffle(rows)
    return torch.from_numpy(rows)


def of_words(count: int) -> str:
    rows = words(count)
    cut = len(rows) * 4 // 5
    mean = rows[:cut].mean(0)
    train, test = rows[:cut] - mean, rows[cut:][:1000] - mean
    dim = rows.shape[1]
    methods: list[tuple[str, Method, int, int]] = [
        ("CEDAR, one rotation", rotation, dim, 8),
        ("CEDAR, one rotation", rotation, dim, 32),
        ("`basis=\"frame\"`", frame, 2 * dim, 8),
        ("`basis=\"frame\"`", frame, 2 * dim, 32),
        ("scikit-learn, alpha = 0.05", dictionary(0.05, 3), 2 * dim, 8),
    ]  # fmt: skip
    body = []
    for name, fit, axes, k in methods:
        atoms, _, seconds = measured(fit, train, test[:1], axes, k)
        shares = [explained(test, pursue(test, atoms, many) @ atoms) for many in (8, 32)]
        of = "any" if "scikit" in name else str(k)
        line = [name, str(axes), of, *(f"{share:.3f}" for share in shares), f"{seconds:.0f} s"]
        body.append(line)
        print(line, flush=True)
    head = ["", "axes", "k of the fit", "FVE, k = 8", "FVE, k = 32", "processor time"]
    return table(head, body)


def confirmed(most: int) -> str:
    """Compare the confirmed axes of a rotation and a frame with the causes."""
    body = []
    for rows in (most // 10, most // 3, most):
        data, _, atoms = planted(rows * 5 // 4, 32, 2, dim=16)
        for basis in ("orthogonal", "frame"):
            model = CEDAR(2, basis=basis, n_init=3, random_state=0).fit(data)
            right = np.abs(model.atoms_ @ atoms.T).max(1) > 0.9
            counts = (len(right), right.sum(), model.confirmed_.sum())
            body.append(
                [f"{rows:,}", basis, *map(str, counts), str((right & model.confirmed_).sum())]
            )
            print(body[-1], flush=True)
    return table(["rows", "basis", "axes", "right", "confirmed", "confirmed and right"], body)


PAGE = """# CEDAR: more causes than columns

A rotation of d columns has d axes. If the data are mixtures of more than d causes (*superposition*,
the reason why sparse autoencoders are overcomplete), a rotation cannot have an axis for each, and
CEDAR's default basis is far below any overcomplete method. `CEDAR(basis="frame")` has `redundancy`
times d atoms; [how it works](../explanation/cedar.md#frames) is explained elsewhere.
[bench/python/cedar_superposition.py](../../bench/python/cedar_superposition.py) writes this page;
it was measured on {processor}, on one thread, with one seed. FVE is the fraction of variance
explained on held-out rows, by at most k atoms a row. MCC is the mean correlation of the true atoms
with those matched to them. It is at most 0.5 for a rotation where there are two causes for each
axis: twice as much is the mean over its own axes.

What does not flatter the frame:

* It has twice as many axes, so an entry of a code takes one more bit to name its axis, and the
  pursuit that makes a code is many times slower than a product and a selection.
* On noise it explains more than a rotation does: atoms to choose from help without any causes.
  Compare frames with frames, not with rotations.
* Other rows confirm only some of its atoms, even where all are true, unless there are many rows.
* The number of causes has to be guessed: `redundancy=2` was right for 128 causes by construction.
* It is dictionary learning. scikit-learn's `MiniBatchDictionaryLearning`, with pursuit for the
  codes, comes near with a good `alpha`; a bad one costs it much. It was not tuned as carefully as
  the frame: three values on planted data, one on words, three epochs.
* We chose how many rounds a fit takes, and when it replaces an atom, on this planted data and on
  these held-out words, so the numbers flatter the frame a little.

## What was tried

128 causes in 64 columns, four in each row, {rows:,} rows. All atoms are given to the same pursuit.

{tried}

A union of rotations and a tight frame have a simple inverse, the transpose. But random causes are
not at right angles, and no union of rotations holds them. The canonical dual frame is an exact
inverse for any atoms that span the space, so this restriction buys nothing. A selection by pursuit
changes nothing for a rotation, whose largest coordinates are the best choice already.

Least squares alone leave a few pairs of atoms that share a cause. Replacing such an atom by what
the worst row leaves over ends that.

## Causes, sparsity and noise

Half as many rows. A frame of 128 atoms is fitted to up to 128 causes, and one of 256 to 256.

{cases}

{noise}

## Confirmed atoms

Rows of 2 of 32 causes in 16 columns, and `n_init=3`. An axis is right if its cosine with a cause is
above 0.9.

{confirmed}

The rotation has no room for 32 causes, and the directions that it confirms are often none of them.
A separate run had rows without structure, 20 draws of each of five families (Gaussian with equal
and with unequal variances, lengths of 1, and norms with two kinds of heavy tails; 1,000 rows of 8
columns or 1,500 of 16). No atom of a frame was confirmed in any of the 100 draws.

## Embeddings of words

{count:,} words in all-MiniLM-L6-v2 (384 columns), four fifths of them for the fits; the columns
give the FVE of 1,000 of the others with 8 and with 32 atoms a row, by pursuit for all.

{words}

A frame fitted at k = 8 is better than one fitted at 32, also when its codes then have 32 entries.
The rotation is coded with as many entries, but has half as many axes to choose them from.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    folder = ROOT / ("build/cedar" if quick else "docs/measurements")
    folder.mkdir(parents=True, exist_ok=True)
    rows, count = (2_000, 500) if quick else (20_000, 10_000)
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        parts = {
            "words": pool.submit(of_words, count),
            "tried": pool.submit(tried, rows),
            "cases": pool.submit(cases, rows // 2),
            "confirmed": pool.submit(confirmed, rows),
            "noise": pool.submit(noise_only, rows // 2),
        }
        tables = {name: part.result() for name, part in parts.items()}
    page = PAGE.format(processor=processor(), rows=rows, count=count, **tables)
    (folder / "cedar_superposition.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
