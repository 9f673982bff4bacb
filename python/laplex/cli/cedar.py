"""The commands of ``laplex cedar``. Importing this needs typer and rich, and nothing slow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laplex._support.command_errors import (
    caution,
    check_folder,
    result_folder,
    sentences,
    shows_progress,
    stoppable,
    usable_device,
)
from laplex._support.complete_files import check_writable, replacing
from laplex._support.options import with_options

from ..cedar.files import check_model, find_files, list_pictures, read_lines
from ..cedar.settings import Settings

if TYPE_CHECKING:
    from ..cedar.estimator import CEDAR
    from ..cedar.naming import AxisNames
    from ..cedar.rows import Rows

app = typer.Typer(
    name="cedar",
    help="Sparse codes for embeddings: learn a change of basis, name its axes, report on it.",
    no_args_is_help=True,
)

_EMBEDDINGS = (
    "Embeddings, one per row: .npy, .npz, .safetensors, .parquet, .h5, .zarr or .tar files, a "
    "folder of them, or a pattern such as 'shards/*.npy'. They are read in batches."
)


EmbeddingFiles = Annotated[
    list[Path], typer.Argument(metavar="EMBEDDINGS...", help=_EMBEDDINGS, show_default=False)
]
Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Folder of a model that `laplex cedar fit` wrote.")
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name of the tensor, array or column of lists to read, if there are several.",
    ),
]
Words = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Text file with the words that name the axes, one per line."),
]
TextEmbeddings = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File of the embeddings of the words, in the space of the model, one per row.",
    ),
]


@app.command()
@with_options(Settings, {"n_init": 3})
def fit(
    embeddings: EmbeddingFiles,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the model to.")],
    k: Annotated[
        list[int] | None,
        typer.Option(
            "-k",
            "--k",
            min=1,
            help="Number of nonzero entries of a code. Give several (-k 8 -k 32) to learn one "
            "basis for all of them. Default: 32.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the random starts.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="Device to compute on, such as cuda. Default: the CPU.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to save the state of the fit to as it runs."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint if the file exists.")
    ] = False,
    max_rows: Annotated[
        int | None,
        typer.Option(
            min=2, help="Largest number of rows, drawn at random, to learn from. Default: all."
        ),
    ] = None,
    key: Key = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show a progress bar.")] = False,
    **given: Any,
) -> None:
    """Learn a change of basis from embeddings."""
    with _sentences("fit"):
        files = find_files(embeddings)
        _distinct("--checkpoint", checkpoint, files)
        if resume and checkpoint is None:
            raise ValueError("--resume needs a file to continue from: add --checkpoint FILE")
        check_folder(out)

        from ..cedar.estimator import CEDAR

        rows = _rows(files, key)
        ks = sorted(set(k or [32]))
        if ks[-1] > rows.dim:
            raise ValueError(
                f"-k {ks[-1]} is more than the {rows.dim} columns of {_label(files)}: pass at most "
                "that number, and a much smaller one for a sparse code"
            )
        model = CEDAR(
            k=ks[0] if len(ks) == 1 else ks,
            random_state=seed,
            device=usable_device(device),
            **given,
        )
        with result_folder(out), _about(_label(files)), stoppable(lambda: _going_on(checkpoint)):
            model.fit(
                rows,
                progress=shows_progress(quiet),
                checkpoint=checkpoint,
                resume=resume,
                max_rows=max_rows,
            )
            model.set_params(device=None)  # the model may be used elsewhere
            model.save(out)
            summary = _summary(model, rows, out)
        typer.echo(summary)


@app.command()
def transform(
    model: Model,
    embeddings: EmbeddingFiles,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="File to write the codes to: .parquet (lists of axes and values), .npz (a sparse "
            "CSR matrix of SciPy) or .npy (a dense array with all the zeros).",
        ),
    ],
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--k",
            min=1,
            help="Number of nonzero entries of a code. Default: that of the fit.",
        ),
    ] = None,
    key: Key = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show a progress bar.")] = False,
) -> None:
    """Write the signed sparse codes of embeddings.

    Memory does not grow with the number of rows, but for the entries of a .npz file.
    """
    with _sentences("transform"):
        if out.suffix.lower() not in (".parquet", ".npz", ".npy"):
            raise ValueError(
                f"--out {out} must end in .parquet or .npz (sparse) or .npy (dense, with all zeros)"
            )
        files = find_files(embeddings)
        _distinct("--out", out, files)
        check_model(model)
        check_writable(out)

        from ..cedar.code_files import write_codes

        cedar = _load(model)
        rows = _rows(files, key, "embeddings")
        if k is not None and k > cedar.n_features_in_:
            raise ValueError(
                f"-k {k} is more than the {cedar.n_features_in_} axes of the model: pass less"
            )
        with _about(_label(files)):
            count = write_codes(cedar, rows, out, k, progress=shows_progress(quiet))
        typer.echo(f"{count:,} codes with at most {k or cedar.k_} nonzero entries: {out}")


@app.command()
def name(
    model: Model,
    words: Annotated[
        Path, typer.Option(metavar="FILE", help="Text file with the words, one per line.")
    ],
    text_embeddings: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="File of the embeddings of the words, in the space of the model, one per row.",
        ),
    ],
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Smallest cosine that a name needs. Default: the cosine that 99 % of random "
            "directions do not reach with their best word."
        ),
    ] = None,
    all_axes: Annotated[
        bool,
        typer.Option("--all-axes", help="Also name the axes that other rows do not confirm."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file to write all names and scores to."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of axes to print.")] = 20,
    key: Key = None,
) -> None:
    """Name both ends of each axis by the nearest words."""
    with _sentences("name"):
        check_model(model)
        find_files(text_embeddings)
        listed = read_lines(words)
        if out is not None:
            check_writable(out)

        cedar = _load(model)
        names = _names(
            cedar, words, listed, text_embeddings, key=key, threshold=threshold, all_axes=all_axes
        )
        if out is not None:
            with replacing(out) as part:
                part.write_text(names.to_json() + "\n", encoding="utf-8")
        typer.echo(names.table(top))


@app.command()
def report(
    model: Model,
    embeddings: EmbeddingFiles,
    out: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write.")] = Path(
        "cedar-report.html"
    ),
    words: Words = None,
    text_embeddings: TextEmbeddings = None,
    items: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Text file that describes the embeddings, one line per row."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of pictures, one for each row, in the order of their names.",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Fit baselines to compare with; this takes one or more minutes.")
    ] = True,
    max_axes: Annotated[int, typer.Option(min=1, help="Number of axes to show.")] = 24,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "CEDAR report",
    key: Key = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show a progress bar.")] = False,
) -> None:
    """Write a report on a model as one HTML file."""
    with _sentences("report", "matplotlib"):
        if (words is None) != (text_embeddings is None):
            raise ValueError("--words and --text-embeddings go together: pass both or neither")
        check_model(model)
        files = find_files(embeddings)
        if text_embeddings is not None:
            find_files(text_embeddings)
        listed = None if words is None else read_lines(words)
        texts = None if items is None else read_lines(items)
        pictures = None if images is None else list_pictures(images)
        check_writable(out)

        from ..cedar.html_report import report as write_report

        cedar = _load(model)
        rows = _rows(files, key, "embeddings")
        for what, path, found in (("--items", items, texts), ("--images", images, pictures)):
            if found is not None and rows.count not in (None, len(found)):
                raise ValueError(
                    f"{what} {path} has {len(found)} entries, but {_label(files)} has "
                    f"{rows.count} rows: there must be one for each row, in the same order"
                )
        names = None
        if words is not None and listed is not None and text_embeddings is not None:
            names = _names(cedar, words, listed, text_embeddings)
        with _about(_label(files)):
            write_report(
                cedar,
                rows,
                out=out,
                names=names,
                items=texts,
                thumbnails=pictures,
                compare=compare,
                max_axes=max_axes,
                title=title,
                progress=shows_progress(quiet),
            )
        typer.echo(f"report: {out}")


# --- inside ---------------------------------------------------------------------------------------


def _sentences(command: str, *more: str) -> AbstractContextManager[None]:
    needs = ("numpy", "torch", "sklearn", "scipy", "safetensors", *more)
    return sentences(f"laplex cedar {command}", extra="cedar", needs=needs)


def _rows(files: list[Path], key: str | None, name: str = "X") -> Rows:
    from ..cedar.rows import Embeddings, as_rows

    return as_rows(Embeddings(files, key), name=name)


def _label(files: list[Path]) -> str:
    return str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")


@contextmanager
def _about(path: str) -> Iterator[None]:
    """Put the name of a file in front of messages about its contents."""
    try:
        yield
    except ValueError as error:
        if re.search(r"\b(X|embeddings|text_embeddings)\b", str(error)) is None:
            raise
        raise ValueError(f"{path}: {error}") from error


def _distinct(option: str, path: Path | None, embeddings: list[Path]) -> None:
    """Raise an error if an output would replace the input."""
    if path is not None and path.resolve() in [one.resolve() for one in embeddings]:
        raise ValueError(f"{option} {path} would replace the embeddings: pass another name")


def _going_on(checkpoint: Path | None) -> str:
    """Return what to print after Ctrl-C."""
    if checkpoint is not None and checkpoint.exists():
        return f"continue with the same options and --checkpoint {checkpoint} --resume"
    return "nothing was written; with --checkpoint FILE you can continue a fit later"


def _load(folder: Path) -> CEDAR:
    from ..cedar.estimator import CEDAR

    return CEDAR.load(folder)


def _names(
    cedar: CEDAR,
    words: Path,
    listed: list[str],
    text_embeddings: Path,
    *,
    key: str | None = None,
    threshold: float | None = None,
    all_axes: bool = False,
) -> AxisNames:
    from ..cedar.confirmation import MIN_STARTS
    from ..cedar.naming import name_axes

    texts = _rows([text_embeddings], key, "text_embeddings")
    _check_words(listed, words, texts, text_embeddings)
    unknown = cedar.confirmation_ is None
    if unknown and not all_axes:
        caution(
            "names are unconfirmed: it is unknown which axes other rows confirm; fit with "
            f"--n-init {MIN_STARTS} or more"
        )
    with _about(str(text_embeddings)):
        return name_axes(
            cedar,
            texts,
            listed,
            threshold="chance" if threshold is None else threshold,
            # The caution above takes the place of the warning.
            confirmed=None if unknown or all_axes else "auto",
        )


def _check_words(words: list[str], path: Path, texts: Rows, texts_path: Path) -> None:
    if texts.count not in (None, len(words)):
        raise ValueError(
            f"--words {path} has {len(words)} lines, but --text-embeddings {texts_path} has "
            f"{texts.count} rows: there must be one for each word, in the same order"
        )


def _summary(cedar: CEDAR, rows: Rows, out: Path) -> str:
    from ..cedar.coding import measured

    ks = (cedar.k,) if isinstance(cedar.k, int) else tuple(cedar.k)
    if len(ks) == 1:
        explained = {ks[0]: 1 - cedar.loss_curve_[-1]}
    else:  # the loss is the mean over all k
        fitted = cedar.fitted_
        placed = rows.placed(cedar.device, fitted.dtype)
        explained = {k: one.compute().fve for k, one in measured(fitted, placed, ks).items()}
    lines = [
        f"fraction of variance explained by {k} of {cedar.fitted_.axes} axes: {share:.4f} "
        "(training rows)"
        for k, share in explained.items()
    ]
    if cedar.confirmation_ is not None:
        lines.append(repr(cedar.confirmation_))
    elif len(cedar.bases_) == 1:
        lines.append(
            "one start: its axes may be accidents of the rows; --n-init 3 shows which of them "
            "other rows confirm"
        )
    return "\n".join([*lines, f"model: {out}"])
