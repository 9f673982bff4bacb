"""Write docs/measurements/cedar_language.md and its picture: codes of images and texts in use.

    python bench/python/cedar_language.py [--fashion-mnist DIR] [--quick]

This takes four minutes on one core, of which the features of 1,000 pictures take one; all
embeddings are kept in build/embeddings. It needs Debian's dataset-fashion-mnist. --quick takes a
minute and writes into build/cedar.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from laplex._support.image_datasets import FASHION_CLASSES, load_images
from laplex.cedar import (
    CEDAR,
    CodeIndex,
    DriftWarning,
    Splice,
    axes_of,
    explain_match,
    name_axes,
    zero_shot,
)
from laplex.cedar.baselines import PCA, RandomRotation
from laplex.cedar.encoders import EfficientNetEncoder, SentenceEncoder
from machine import processor

ROOT = Path(__file__).parents[2]
KS = (8, 16, 32, 64)
PHRASES = ("a red car", "a little girl", "the queen of England", "rain and snow", "to buy a house")
PROMPTS = ("{}", "a picture of a {}", "a black and white photo of a {}")


@dataclass
class Words:
    """Embeddings of words: to fit to, to be found, and to ask with."""

    fit: np.ndarray
    items: np.ndarray
    queries: np.ndarray
    concepts: np.ndarray  # of the most frequent words, for SpLiCE
    names: list[str]  # of the concepts


def words_of(encoder: SentenceEncoder, quick: bool, cache: Path) -> Words:
    import wordfreq

    count = 2_500 if quick else 10_000
    found = [word for word in wordfreq.top_n_list("en", 2 * count) if word.isalpha()][:count]
    rows = np.array(encoder.encode_texts(found, batch_size=256, cache=cache))
    # The concepts are in the fit: a concept among the queries would explain itself.
    concepts = count * 3 // 10
    order = concepts + np.random.default_rng(0).permutation(count - concepts)
    others, items, queries = np.split(rows[order], [count * 3 // 10, count * 65 // 100])
    fit = np.concatenate([rows[:concepts], others])
    return Words(fit, items, queries, rows[:concepts], found[:concepts])


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- retrieval ------------------------------------------------------------------------------------


def nearest(queries: np.ndarray, items: np.ndarray, n: int = 10) -> np.ndarray:
    """Numbers of the n items with the largest cosines."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, items)]
    return np.argsort(-(unit[0] @ unit[1].T), axis=1, kind="stable")[:, :n]


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    pairs = zip(found, truth, strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in pairs]))


def retrieval(words: Words, models: dict[int, CEDAR]) -> tuple[str, dict[str, list[Any]]]:
    items, queries = words.items, words.queries
    truth = nearest(queries, items)
    pca, random = PCA().fit(words.fit), RandomRotation(random_state=0).fit(words.fit)
    few = 300  # SpLiCE takes 16 ms an item
    near_few = nearest(queries, items[:few])
    curves: dict[str, list[Any]] = {}
    rows = []

    def add(name: str, k: int, size: float, found: np.ndarray) -> None:
        curves.setdefault(name, []).append((size, recall(found, truth)))

    for k in KS:
        index = CodeIndex(models[k], items)
        size = index.bytes_per_item
        add("CEDAR", k, size, index.search(queries).rows)
        for name, method in (("PCA, per-row top k", pca), ("random rotation", random)):
            near = method.inverse_transform(method.transform(items, k))
            add(name, k, size, nearest(queries, near))
        leading = (items - pca.mean_) @ pca.atoms_[: 2 * k].T  # 4 bytes each: as much memory
        add("leading 2 k components", k, 8 * k,
            nearest(queries, leading @ pca.atoms_[: 2 * k] + pca.mean_))  # fmt: skip
        few_index = CodeIndex(models[k], items[:few]).search(queries).rows
        splice = Splice(words.concepts, k).fit(words.fit)
        near = splice.inverse_transform(splice.transform(items[:few]))
        found = [curves[name][-1][1] for name in curves]
        found += [recall(few_index, near_few), recall(nearest(queries, near), near_few)]
        rows.append([str(k), f"{size:.0f}", *(f"{one:.3f}" for one in found)])
    step = np.abs(items).max(1, keepdims=True) / 127
    whole = {
        "float16": (2 * items.shape[1], items.astype(np.float16).astype(np.float32)),
        "int8": (items.shape[1] + 4, np.round(items / step) * step),
        "signs": (items.shape[1] / 8, np.sign(items - items.mean(0))),
    }
    dense = []
    for name, (size, near) in whole.items():
        asked = queries - items.mean(0) if name == "signs" else queries
        found = recall(nearest(asked, near), truth)
        curves[name] = [(size, found)]
        dense.append([name, f"{size:.0f}", f"{found:.3f}"])
    head = ["k", "bytes", *list(curves)[:4], f"CEDAR, {few} items", f"SpLiCE, {few} items"]
    return (
        table(head, rows) + "\n\n" + table(["dense, quantised", "bytes", "recall@10"], dense),
        curves,
    )


# --- matches and phrases --------------------------------------------------------------------------


def shares(words: Words, models: dict[int, CEDAR], k: int = 32) -> str:
    """How much of the centred cosine of neighbours few axes explain, for rotations."""
    nearby = nearest(words.queries, words.items, 1)[:, 0]
    pairs = words.queries, words.items[nearby]
    rows = []
    methods = {
        "CEDAR": models[k],
        "PCA, per-row top k": PCA().fit(words.fit),
        "random rotation": RandomRotation(random_state=0).fit(words.fit),
    }
    for name, method in methods.items():
        codes = [method.transform(one, k).astype(np.float64) for one in pairs]
        a, b = (one - method.mean_ for one in pairs)
        total = (a * b).sum(1)
        parts = -np.sort(-codes[0] * codes[1], axis=1)
        several = [np.mean(parts[:, :n].sum(1) / total) for n in (1, 3, 5, 10)]
        omitted = np.mean(1 - parts.sum(1) / total)
        rows.append([name, *(f"{share:.3f}" for share in several), f"{omitted:.3f}"])
    return table(["basis", "1 axis", "3 axes", "5 axes", "10 axes", "residual"], rows)


def phrases(words: Words, models: dict[int, CEDAR], encoder: SentenceEncoder) -> str:
    model = models[32]
    names = name_axes(model, words.concepts, words.names)
    splice = Splice(words.concepts, 8).fit(words.fit)
    rows = []
    for phrase, embedding in zip(PHRASES, encoder.encode_texts(list(PHRASES)), strict=True):
        found = axes_of(model, embedding, names=names)
        named = [
            f"{name or 'axis ' + str(axis)} ({share:.2f})"
            for axis, name, share in zip(found.axes, found.names, found.contributions, strict=True)
        ]
        weights = splice.transform(embedding[None])
        order = np.argsort(-weights.data)[:5]
        chosen = [words.names[weights.indices[i]] for i in order]
        rows.append([phrase, ", ".join(named[:5]), ", ".join(chosen)])
    few = words.queries[:200]
    kept = []
    for k in (8, 32):
        splice = Splice(words.concepts, k).fit(words.fit)
        methods = [models[k], PCA().fit(words.fit), RandomRotation(random_state=0).fit(words.fit)]
        ready = [one.inverse_transform(one.transform(few, k)) - one.mean_ for one in methods]
        ready.append(splice.inverse_transform(splice.transform(few)) - splice.mean_)
        z = few - words.fit.mean(0)
        share = [1 - ((z - near) ** 2).sum() / (z**2).sum() for near in ready]
        kept.append([str(k), *(f"{one:.3f}" for one in share)])
    return (
        f"{names!r}.\n\n"
        + table(["phrase", "axes, with their shares", "SpLiCE, k = 8"], rows)
        + "\n\nThe share of the squared length of held-out words that k entries keep:\n\n"
        + table(["k", "CEDAR", "PCA, per-row top k", "random rotation", "SpLiCE"], kept)
    )


# --- pictures in the space of the words -----------------------------------------------------------


@dataclass
class Pictures:
    """Pictures and their places in the space of the words; the first half has taught the map."""

    pixels: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    classes: np.ndarray  # [classes, prompts, d], embeddings of the names


def directions(classes: np.ndarray) -> np.ndarray:
    """The mean of the prompts of each class, of unit length."""
    mean = (classes / np.linalg.norm(classes, axis=2, keepdims=True)).mean(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def pictures_of(encoder: SentenceEncoder, fashion: Path, count: int, cache: Path) -> Pictures:
    data = load_images(str(fashion))
    pixels, labels = (data.test_images[:count] * 255).astype(np.uint8), data.test_labels[:count]
    network = EfficientNetEncoder(normalize=False)
    features = np.array(network.encode_images(pixels, cache=cache))
    texts = encoder.encode_texts([p.format(name) for name in FASHION_CLASSES for p in PROMPTS])
    classes = texts.reshape(len(FASHION_CLASSES), len(PROMPTS), -1)
    half = count // 2
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(1, 5, 9)))
    ridge.fit(features[:half], directions(classes)[labels[:half]])
    return Pictures(pixels, labels, ridge.predict(features).astype(np.float32), classes)


def shared_space(
    words: Words, models: dict[int, CEDAR], pictures: Pictures
) -> tuple[str, dict[str, list[float]]]:
    half = len(pictures.rows) // 2
    seen, asked, truth = pictures.rows[:half], pictures.rows[half:], pictures.labels[half:]
    classes, named = pictures.classes, directions(pictures.classes)
    pca, random = PCA().fit(words.fit), RandomRotation(random_state=0).fit(words.fit)
    own = seen.mean(0)
    curves: dict[str, list[float]] = {}
    rows = []
    for k in KS:
        model = models[k].add_modality("picture", seen)
        around = zero_shot(model, asked, classes, truth, ks=k, modality="picture")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DriftWarning)  # rightly: this is what it costs
            plain = zero_shot(model, asked, classes, truth, ks=k)
        found = {"CEDAR": (around.accuracy[1], around.agreement[1]),
                 "CEDAR, mean of the words": (plain.accuracy[1], plain.agreement[1])}  # fmt: skip
        first = np.argmax(asked @ named.T, axis=1)
        splice = Splice(words.concepts, k).fit(seen)
        near = {
            "PCA, per-row top k": pca.inverse_transform(pca.transform(asked - own + pca.mean_, k))
            - pca.mean_ + own,
            "random rotation": random.inverse_transform(
                random.transform(asked - own + random.mean_, k)) - random.mean_ + own,
            "SpLiCE": splice.inverse_transform(splice.transform(asked)),
        }  # fmt: skip
        for name, one in near.items():
            chosen = np.argmax(one @ named.T, axis=1)
            found[name] = float((chosen == truth).mean()), float((chosen == first).mean())
        for name, (accuracy, _) in found.items():
            curves.setdefault(name, []).append(accuracy)
        rows.append([str(k), *(f"{a:.3f} / {b:.3f}" for a, b in found.values())])
    curves["not coded"] = [float(around.accuracy[0])] * len(KS)
    gap = np.linalg.norm(own - words.fit.mean(0)) / models[32].scale_
    spread = np.sqrt(((seen - own) ** 2).sum(1).mean()) / models[32].scale_
    text = (
        f"Not coded, {around.accuracy[0]:.3f} of the pictures get their class (chance is .1; the\n"
        f"standard error is .02). The mean of the pictures is {gap:.2f} standard deviations of\n"
        f"the words away from theirs, and the pictures spread {spread:.2f} times as far.\n\n"
    )
    return text + table(["k", *list(near := found)], rows), curves


def draw(
    words: Words,
    models: dict[int, CEDAR],
    pictures: Pictures,
    encoder: SentenceEncoder,
    curves: dict[str, list[Any]],
    accuracies: dict[str, list[float]],
    path: Path,
) -> None:
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplot_mosaic([["recall", "accuracy"], ["picture", "bars"]],
                                 width_ratios=[1, 1])  # fmt: skip
    for name, points in curves.items():
        size, found = zip(*points, strict=True)
        axes["recall"].plot(size, found, "o-", markersize=4, label=name)
    axes["recall"].set(xscale="log", xlabel="bytes of an item", ylabel="recall@10",
                       title="Words that dense queries find among codes")  # fmt: skip
    axes["recall"].set_xticks([50, 100, 200, 400, 800], ["50", "100", "200", "400", "800"])
    axes["recall"].minorticks_off()
    axes["recall"].legend(frameon=False, fontsize="x-small")
    for name, values in accuracies.items():
        style = "k--" if name == "not coded" else "o-"
        axes["accuracy"].plot(KS, values, style, markersize=4, label=name)
    axes["accuracy"].set(xscale="log", xlabel="k", ylabel="accuracy",
                         title="Pictures classified by the names of classes")  # fmt: skip
    axes["accuracy"].set_xticks(KS, list(map(str, KS)))
    axes["accuracy"].minorticks_off()
    axes["accuracy"].legend(frameon=False, fontsize="x-small")

    half = len(pictures.rows) // 2
    number = half + int(np.argmax(pictures.labels[half:] == len(FASHION_CLASSES) - 1))
    text = encoder.encode_texts([FASHION_CLASSES[-1]])[0]
    names = name_axes(models[32], words.concepts, words.names, confirmed=None)
    match = explain_match(models[32], pictures.rows[number], text, modality_a="picture",
                          names=names)  # fmt: skip
    axes["picture"].imshow(pictures.pixels[number], cmap="gray_r")
    axes["picture"].set(
        xticks=[], yticks=[], title=f"a picture, and the word {FASHION_CLASSES[-1]}"
    )
    labels = [f"{axis} {name}" for axis, name in zip(match.axes[:8], match.names[:8], strict=True)]
    parts = [*match.contributions[:8], match.contributions[8:].sum(), match.mean, match.residual]
    labels += ["other axes", "mean", "residual"]
    axes["bars"].barh(range(len(parts)), parts,
                      color=["#1b9e77" if part >= 0 else "#d95f02" for part in parts])  # fmt: skip
    axes["bars"].set_yticks(range(len(parts)), labels)
    axes["bars"].invert_yaxis()
    axes["bars"].set(
        xlabel=f"contribution to the cosine of {match.total:.2f}", title="Why they match"
    )
    figure.savefig(path, dpi=110)


# --- the page -------------------------------------------------------------------------------------


def page(options: argparse.Namespace, folder: Path, cache: Path) -> str:
    start = time.process_time()

    def timed(name: str, measure: Callable[[], Any]) -> Any:
        before = time.process_time()
        found = measure()
        print(f"{name}, {time.process_time() - before:.0f} s", flush=True)
        return found

    encoder = SentenceEncoder.mini_lm(normalize=False)
    words = timed("words", lambda: words_of(encoder, options.quick, cache))
    pictures = timed("pictures", lambda: pictures_of(
        encoder, options.fashion_mnist, 200 if options.quick else 1000, cache
    ))  # fmt: skip
    models = timed("fits", lambda: {
        k: CEDAR(k, n_init=3 if k == 32 else 1, random_state=0).fit(words.fit) for k in KS
    })  # fmt: skip
    found, curves = timed("retrieval", lambda: retrieval(words, models))
    explained = timed("matches", lambda: shares(words, models))
    spoken = timed("phrases", lambda: phrases(words, models, encoder))
    seen, accuracies = timed("pictures", lambda: shared_space(words, models, pictures))
    draw(words, models, pictures, encoder, curves, accuracies, folder / "cedar_language.png")
    return f"""\
# CEDAR: images and texts

[bench/python/cedar_language.py](../../bench/python/cedar_language.py) writes this page. It ran on
one thread of an {processor()} and took {time.process_time() - start:.0f} s of processor time, with
the embeddings in the cache. All numbers come from one split and one seed.

**No CLIP stands behind this page**, as its weights were not to be had. Words are embedded by
all-MiniLM-L6-v2 (384 columns): the most frequent English ones, {len(words.fit):,} to fit to,
{len(words.items):,} as items and {len(words.queries):,} as queries, none of them in two parts. How
pictures come into their space is said where they are used.

What does not flatter CEDAR, first:

* Codes do not save memory. Eight-bit integers find nearly every neighbour in fewer bytes than
  codes of k = 64, and the signs of the columns alone find more than codes of k = 32.
* SpLiCE, which describes words by other words, keeps more of a word at equal k. It chooses among
  {len(words.concepts):,} concepts, where CEDAR has 384 axes, and takes milliseconds a row.
* Few axes have names that other rows confirm. The best names of the others may be absurd: see the
  explained match in the picture.

![Recall against memory, accuracy against k, and an explained match](cedar_language.png)

## Retrieval

Dense queries search items that are kept as codes (`CodeIndex`). Recall@10 is the share of the ten
nearest items by the cosine of the embeddings that are among the ten nearest by the cosine with the
reconstructions. Leading components take as many bytes as the codes. SpLiCE, whose concepts are the
{len(words.concepts):,} most frequent words, takes 16 ms an item, so that it was compared on 300 of
them.

{found}

At k = 8 to 32, codes find more than principal components of the same size do; at k = 64 they are
level. SpLiCE finds more than CEDAR at equal k. Eight-bit integers find nearly everything in
{words.fit.shape[1] + 4} bytes. SciPy spends 8 bytes on an entry; a packed code could do with 3, and
would still be no match for them. What codes offer is a search whose every score is a sum over a few
axes.

## Explained matches

The centred cosine of each query and its nearest item as a sum over axes, at k = 32
(`explain_match`). The table has the mean share of the cosine that the largest contributions explain
together.

{explained}

## Phrases as axes

`axes_of` at k = 32 beside SpLiCE. An axis has a name only if other rows confirm it.

{spoken}

SpLiCE answers with words, needs no names, and keeps more here, where the concepts are of the same
kind as what they describe. Its words need not be apt either ("manchester" for a red car), and as
concepts are not orthogonal, the weight of a word depends on which other words were chosen.

## Pictures in the space of words

A stand-in for a shared space, **and not a zero-shot classifier**: a ridge regression from features
of EfficientNet-Lite0 (1,280 columns) to the embeddings of the names of the ten classes of
Fashion-MNIST, taught by {len(pictures.rows) // 2} labelled pictures. These also give the mean of
the modality "picture". Other pictures, {len(pictures.rows) - len(pictures.rows) // 2} of them, are
classified by the names of the classes in {len(PROMPTS)} prompts (`zero_shot`). Each entry is the
accuracy, and the share of pictures whose class coding leaves as it was. All bases come from the
words; all but "mean of the words" code around the mean of the pictures.

{seen}

Around their own mean, two to four more pictures in a hundred keep their class at every k than
around the mean of the words. CEDAR and SpLiCE keep the classes equally well, and better than
principal components up to k = 32 (there by four in a hundred); at k = 64 the three are level. In
accuracy, CEDAR and principal components are level from k = 32 on, and the gain by the mean of the
pictures is within the standard error.

The bars in the picture above explain one match. They show the best name of each axis, confirmed or
not. Most are not, and say nothing about boots.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="use small sizes")
    parser.add_argument("--fashion-mnist", type=Path,
                        default=Path("/usr/share/datasets/fashion-mnist"))  # fmt: skip
    parser.add_argument("--cache", type=Path, default=ROOT / "build/embeddings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = ROOT / ("build/cedar" if options.quick else "docs/measurements")
    folder.mkdir(parents=True, exist_ok=True)
    text = page(options, folder, options.cache)
    (folder / "cedar_language.md").write_text(text)


if __name__ == "__main__":
    main()
