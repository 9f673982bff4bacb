"""Find out which axes of image features stand for a class: CEDAR on real images.

    python examples/cedar_images.py [--quick] [--images 4000] [-k 8] [--out DIR]
    python examples/cedar_images.py --wide [--images 4000] [--passes 10] [--out DIR]

EfficientNet-Lite0, which was trained on ImageNet and never on these images, turns images of
Fashion-MNIST into 1280 features. CEDAR codes their 64 principal components. The program judges on
held-out images whether a single axis tells a class from the others, compares this with a random
rotation, principal components and FastICA, and names the axes by the classes. It needs
laplex[examples] and Debian's dataset-fashion-mnist. The features take 0.1 s per image on one core,
once; --quick takes a minute.

--wide fits all 1280 features to fewer and to more images. The variance explained on the training
images then says little about other images.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA as PrincipalComponents
from sklearn.metrics import roc_auc_score

from laplex._support.image_datasets import load_images
from laplex.cedar import CEDAR, name_axes, report
from laplex.cedar.baselines import PCA, FastICA, RandomRotation
from laplex.cedar.encoders import EfficientNetEncoder
from laplex.cedar.metrics import fve, monosemanticity
from laplex.cedar.naming import AxisNames


@dataclass
class Method:
    """Results of one basis on held-out images."""

    name: str
    explained: float
    train_explained: float
    auroc: float  # of the best axis for a class, mean over classes
    monosemantic: float  # mean over the ends of axes


def best_axis_auroc(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, labels: np.ndarray
) -> float:
    """Return the mean AUROC on held-out codes, for the best end of an axis in training."""
    both, both_test = np.hstack((train, -train)), np.hstack((test, -test))
    found = []
    for one in np.unique(train_labels):
        target = train_labels == one
        scores = [roc_auc_score(target, column) for column in both.T]
        found.append(roc_auc_score(labels == one, both_test[:, int(np.argmax(scores))]))
    return float(np.mean(found))


def judge(
    name: str,
    method: Any,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    pixels: np.ndarray,
    k: int,
) -> Method:
    """Fit a basis and judge it; ``pixels`` are an independent view of the held-out images."""
    method.fit(train[0])
    codes, held_out = method.transform(train[0], k), method.transform(test[0], k)
    score = monosemanticity(held_out, pixels)
    ends = np.concatenate((score.positive, score.negative))
    return Method(
        name,
        fve(test[0], method.inverse_transform(held_out)),
        fve(train[0], method.inverse_transform(codes)),
        best_axis_auroc(codes, train[1], held_out, test[1]),
        float(np.nanmean(ends)),
    )


def names_by_class(
    model: CEDAR, features: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]
) -> AxisNames:
    """Name the axes by the mean features of each class, in place of embeddings of its name."""
    means = np.stack([features[labels == one].mean(0) for one in range(len(classes))])
    return name_axes(model, means, classes, text_mean=features.mean(0))


@dataclass
class Fit:
    """Results of a fit of all columns to some of the rows."""

    rows: int
    name: str
    train_explained: float
    explained: float
    seconds: float  # of the processor


def rows_and_columns(
    train: np.ndarray, test: np.ndarray, counts: list[int], k: int, passes: int
) -> list[Fit]:
    """Fit PCA and CEDAR to the first rows of each count, and judge them on these and on other rows.

    The largest count is also fitted by adam, with as many steps as procrustes has passes. This
    compares their time only: adam is then far from convergence.
    """
    fits = []
    for count in counts:
        methods: dict[str, Any] = {"PCA, per-row top k": PCA()}
        for solver in ("procrustes", "adam") if count == max(counts) else ("procrustes",):
            methods[solver] = CEDAR(k, solver=solver, max_iter=passes, random_state=0)
        for name, method in methods.items():
            start = time.process_time()
            method.fit(train[:count])
            seconds = time.process_time() - start
            seen, unseen = (
                fve(rows, method.inverse_transform(method.transform(rows, k)))
                for rows in (train[:count], test)
            )
            fits.append(Fit(count, name, seen, unseen, seconds))
    return fits


def main() -> None:
    """Encode and reduce the images, fit and judge the methods, and write a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="use only 300 images")
    parser.add_argument(
        "--wide", action="store_true", help="fit all features to fewer and to more images"
    )
    parser.add_argument("--passes", type=int, default=10, help="number of passes with --wide")
    parser.add_argument("--images", type=int, default=4000, help="number of images")
    parser.add_argument("-k", type=int, default=8, help="number of nonzero entries of a code")
    parser.add_argument(
        "--components", type=int, default=64, help="number of principal components to keep"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("cedar-images"), help="folder for the report and the cache"
    )
    options = parser.parse_args()
    count = 300 if options.quick else options.images
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_images("fashion-mnist")
    pictures = (data.test_images[:count] * 255).astype(np.uint8)
    labels = data.test_labels[:count]
    encoder = EfficientNetEncoder(normalize=False)
    features = np.array(
        encoder.encode_images(pictures, progress=True, cache=options.out / "features")
    )
    cut = count * 3 // 4
    if options.wide:
        print(f"{features.shape[1]} columns, k = {options.k}, {options.passes} passes or steps\n")
        print("rows  fit                   FVE train  held out  processor s")
        counts = sorted({cut // 6, cut // 2, cut})
        for fit in rows_and_columns(
            features[:cut], features[cut:], counts, options.k, options.passes
        ):
            print(f"{fit.rows:4d}  {fit.name:<20} {fit.train_explained:10.3f} "
                  f"{fit.explained:9.3f} {fit.seconds:12.1f}")  # fmt: skip
        return
    # A rotation of 1280 columns has more freedom than a few thousand rows can pin down.
    reduce = PrincipalComponents(options.components, svd_solver="full").fit(features[:cut])
    rows = reduce.transform(features).astype(np.float32)
    kept = float(reduce.explained_variance_ratio_.sum())
    print(f"{count} images; {options.components} components keep {kept:.2f} of the variance")
    train, test = (rows[:cut], labels[:cut]), (rows[cut:], labels[cut:])
    pixels = pictures[cut:].reshape(count - cut, -1).astype(float)
    print("\n                     FVE train  held out  AUROC of best axis  monosemanticity")
    for name, method in (
        ("random rotation", RandomRotation(random_state=0)),
        ("PCA, per-row top k", PCA()),
        ("FastICA", FastICA(random_state=0)),
        ("CEDAR", CEDAR(options.k, random_state=0)),
    ):
        found = judge(name, method, train, test, pixels, options.k)
        print(f"{name:<20} {found.train_explained:9.3f} {found.explained:9.3f} "
              f"{found.auroc:19.3f} {found.monosemantic:16.3f}")  # fmt: skip
    model = CEDAR(options.k, n_init=3, random_state=0).fit(rows)
    print()
    print(model.confirmation_)
    names = names_by_class(model, rows, labels, data.class_names)
    print(names.table(12))
    page = report(
        model,
        rows,
        out=options.out / "report.html",
        names=names,
        thumbnails=pictures,
        compare=False,
        title="Axes of image features",
    )
    print(f"\nwrote {page}")


if __name__ == "__main__":
    main()
