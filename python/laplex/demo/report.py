"""Write what the demo found as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

from laplex._support.html_pages import Table, render_page
from laplex._support.image_datasets import ImageDataset
from laplex.demo import figures
from laplex.demo.covariance import CovarianceStudy
from laplex.demo.exactness import Exactness
from laplex.demo.timing import Timing
from laplex.demo.training import LAPLEX, RANDOM_START, Comparison, Ranks, Settings
from laplex.nn import LaplexHead, LaplexLinear


def render(
    images: ImageDataset,
    exactness: Sequence[Exactness],
    timings: Sequence[Timing],
    settings: Settings,
    comparisons: Sequence[Comparison],
    ranks: Sequence[Ranks],
    covariances: CovarianceStudy,
    machine: str,
) -> str:
    """Return the report as HTML, pictures embedded.

    Parameters
    ----------
    images, exactness, timings, settings, comparisons, ranks, covariances
        What was measured; see the modules of those names.
    machine : str
        One line on processor and versions.
    """
    by_name = {comparison.variant.name: comparison for comparison in comparisons}
    run = by_name[LAPLEX.name].runs[0]
    layers, starts = list(run.network), list(run.before)
    return render_page(
        __package__,
        "report.html",
        extra="demo",
        title=f"Laplex demo: {images.name}",
        machine=machine,
        exactness=Table(EXACTNESS_COLUMNS, exactness_rows(exactness)),
        timing=Table(TIMING_COLUMNS, timing_rows(timings)),
        scaling=figures.scaling(timings),
        task=task(images, settings),
        training=Table(TRAINING_COLUMNS, training_rows(comparisons)),
        findings=findings(comparisons),
        curves=figures.training_curves(comparisons),
        samples=figures.samples(images, run.network),
        ranks=Table(RANK_COLUMNS, rank_rows(ranks)),
        starts=starts_compared(by_name),
        kernel=figures.kernel(cast("LaplexLinear", layers[1])),
        anchors=figures.anchors(cast("LaplexLinear", starts[1]), cast("LaplexLinear", layers[1])),
        routing=figures.routing(cast("LaplexHead", layers[-1]), images.class_names),
        covariances=Table(COVARIANCE_COLUMNS, covariance_rows(covariances)),
        order=covariances.model.plot_order(images.train_images.shape[1:]),
        completions=figures.completions(covariances),
    )


# ------------------------------------------------------------------------- tables, as text cells

EXACTNESS_COLUMNS = ("form", "precision", "max error / Σ|K||v|", "promised", "")
TIMING_COLUMNS = ("n", "sort", "new", "moved", "again", "+ grads", "FFT", "dense", "fill")
TIMING_NOTE = (
    "sort: a new plan; new: with its first product; moved: anchor update and product; again: a "
    "product; + grads: and all gradients; fill: forming the dense matrix"
)
TRAINING_COLUMNS = ("layers", "accuracy, %", "±", "parameters", "CPU s")
COVARIANCE_COLUMNS = ("model", "parameters", "error, %", "nearest, pixels", "filled in, dB")
COVARIANCE_NOTE = (
    "error: of test images' covariances off the diagonal; nearest: mean distance of a pixel's four "
    "most correlated others; filled in: PSNR where half of the pixels were missing"
)
RANK_COLUMNS = ("initial anchors", "layer", "full", "one kernel alone", "whole weight")


def exactness_rows(rows: Iterable[Exactness]) -> list[tuple[str, ...]]:
    """Cells of the table of errors."""
    return [
        (
            row.form,
            row.precision,
            f"{row.error:.1e}",
            f"{row.bound:.0e}",
            "ok" if row.passed else "FAILED",
        )
        for row in rows
    ]


def timing_rows(rows: Iterable[Timing]) -> list[tuple[str, ...]]:
    """Cells of the table of times, in milliseconds."""
    return [
        (
            f"{row.n:,}",
            *(
                "–" if seconds is None else f"{1e3 * seconds:.3g}"
                for seconds in (
                    row.sort,
                    row.new_forward,
                    row.moved_forward,
                    row.forward,
                    row.forward_backward,
                    row.fft,
                    row.dense,
                    row.dense_build,
                )
            ),
        )
        for row in rows
    ]


def training_rows(comparisons: Iterable[Comparison]) -> list[tuple[str, ...]]:
    """Cells of the table of networks."""
    return [
        (
            comparison.variant.name,
            f"{comparison.accuracy[0]:.2f}",
            f"{comparison.accuracy[1]:.2f}" if len(comparison.runs) > 1 else "–",
            f"{comparison.runs[0].parameters:,}",
            f"{comparison.seconds:.1f}",
        )
        for comparison in comparisons
    ]


def rank_rows(ranks: Iterable[Ranks]) -> list[tuple[str, ...]]:
    """Cells of the table of ranks at the start."""
    return [
        (row.init, row.layer, str(row.full), f"{row.kernel:.0f}", str(row.weight)) for row in ranks
    ]


def covariance_rows(study: CovarianceStudy) -> list[tuple[str, ...]]:
    """Cells of the table of covariance models."""
    return [
        (
            fit.name,
            f"{fit.parameters:,}",
            f"{100 * fit.error:.1f}",
            f"{fit.distance:.2f}",
            f"{fit.psnr:.2f}",
        )
        for fit in study.fits
    ]


# ------------------------------------------------------------------------------------- sentences


def task(images: ImageDataset, settings: Settings) -> str:
    """Say what is trained on what."""
    height, width = images.train_images.shape[1:]
    return (
        f"{images.name}: {len(images.train_labels):,} images of {height} x {width} pixels to learn "
        f"from, {len(images.test_labels):,} to be tested on. A network {height * width} - "
        f"{settings.hidden} - {settings.hidden} - {len(images.class_names)} with ReLU, Adam, "
        f"{settings.epochs} epochs, {settings.seeds} seed{'s' if settings.seeds > 1 else ''}; its "
        f"three dense layers are Laplace-kernel layers of {settings.heads} heads, low-rank layers "
        "with at least as many parameters, or ordinary dense ones. Each kind has a learning rate "
        "of its own, chosen on held-out training images."
    )


def findings(comparisons: Sequence[Comparison]) -> str:
    """Say who won, by the numbers of this run."""
    by_kind = {comparison.variant.kind: comparison for comparison in reversed(comparisons)}
    laplex, low_rank, dense = by_kind["laplex"], by_kind["low-rank"], by_kind["dense"]
    sentences = [
        _against("Laplace-kernel layers", laplex, "low-rank layers of equal size", low_rank),
        _against("Laplace-kernel layers", laplex, "dense layers", dense),
    ]
    share = laplex.runs[0].parameters / dense.runs[0].parameters
    slower = laplex.seconds / dense.seconds
    sentences.append(
        f"The kernels use {100 * share:.0f} % of the dense network's parameters. In time "
        + (
            f"dense layers win: they train {slower:.1f} times faster. Matrices this small suit a "
            "processor well; the sweep pays from some thousands of inputs on (section 2)."
            if slower > 1
            else f"they take {slower:.2f} of what dense layers do."
        )
    )
    return " ".join(sentences)


def starts_compared(by_name: dict[str, Comparison]) -> str:
    """Say what the initial anchors changed in training."""
    ours, theirs = by_name[LAPLEX.name], by_name[RANDOM_START.name]
    sentence = _against("Interlaced initial anchors", ours, "random initial anchors", theirs)
    interlaced, random = (
        sum(run.losses[0] for run in comparison.runs) / len(comparison.runs)
        for comparison in (ours, theirs)
    )
    return (
        f"{sentence} Training loss in the first epoch: {interlaced:.3f} interlaced, "
        f"{random:.3f} random."
    )


def _against(what: str, ours: Comparison, name: str, theirs: Comparison) -> str:
    (mean, spread), (other, other_spread) = ours.accuracy, theirs.accuracy
    # Two standard errors of the difference: below that, the seeds alone could explain it.
    noise = 2 * math.sqrt(spread**2 / len(ours.runs) + other_spread**2 / len(theirs.runs))
    if len(ours.runs) == 1:
        return f"{what} reach {mean:.2f} %, {name} {other:.2f} %, with one seed."
    numbers = f"({mean:.2f} % against {other:.2f} %)"
    if abs(mean - other) <= noise:
        return f"{what} and {name} are within the noise of the seeds {numbers}."
    return f"{what} do {'better' if mean > other else 'worse'} than {name} {numbers}."
