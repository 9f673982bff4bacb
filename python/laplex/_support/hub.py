"""Models in folders and on the Hugging Face hub: three methods for every class that is saved."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from laplex import _core

from .complete_files import replacing
from .model_cards import CARD, Card, card_text, is_ours
from .model_files import CONFIG, TENSORS, local_path, model_folder, read_config
from .optional import require

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on


class Pretrained:
    """A model that can be saved to a folder, shared on the hub, and loaded from either.

    A subclass defines `_write`, `_read` and `_card`.
    """

    #: The name of the class in files, and what its objects are called in messages.
    _saved_as: ClassVar[str]
    _saved_kind: ClassVar[str]

    def _write(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into a folder."""
        raise NotImplementedError

    @classmethod
    def _read(cls, folder: Path, **parts: Any) -> Self:
        """Read what `_write` wrote. The files are anybody's: see `model_files`."""
        raise NotImplementedError

    def _card(self, results: Sequence[Any]) -> Card:
        """Return what the model card says of the model."""
        raise NotImplementedError

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        results: Sequence[Any] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the model and its card into a folder, from which `from_pretrained` loads it.

        The folder gets ``config.json``, ``model.safetensors`` and, unless it has one that somebody
        else wrote, ``README.md``, the model card.

        Parameters
        ----------
        save_directory : str or path
            The folder, which is made if needed.
        results : sequence of results
            Results of Laplex whose tables the card shows, such as evaluations.
        metadata : mapping of str, optional
            Metadata of the card, such as ``{"license": "mit", "datasets": ["mnist"]}``, as in
            ``huggingface_hub.ModelCardData``.

        Raises
        ------
        ImportError
            If safetensors or huggingface_hub is not installed.
        FileExistsError
            If ``save_directory`` is a file.
        TypeError, ValueError
            If the model cannot be saved, or ``results`` or ``metadata`` cannot be shown.
        """
        folder = model_folder(save_directory)
        text = card_text(self._described(results), folder.absolute().name, results, metadata)
        self._write(folder)
        if is_ours(folder / CARD):
            _write_text(folder / CARD, text)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        results: Sequence[Any] = (),
        metadata: Mapping[str, Any] | None = None,
        replace_card: bool = False,
    ) -> str:
        """Upload the model and its card to the Hugging Face hub, in one commit.

        The repository is made if needed. Files in it other than the three of `save_pretrained`
        stay, and so does a model card that somebody else wrote.

        Parameters
        ----------
        repo_id : str
            The repository, such as ``"name/model"``; without an owner it is one of your own.
        commit_message : str, optional
            The message of the commit.
        private : bool, optional
            Whether a new repository is private; by default as the owner has set it.
        token : str or bool, optional
            The access token; by default that of ``hf auth login``.
        revision : str, optional
            The branch to commit to, which is made if needed; by default the main one.
        create_pr : bool
            Open a pull request instead of committing to the branch.
        results, metadata
            As in `save_pretrained`.
        replace_card : bool
            Replace a model card of the repository that somebody else wrote.

        Returns
        -------
        str
            The address of the commit, or of the pull request.

        Raises
        ------
        ImportError
            If safetensors or huggingface_hub is not installed.
        TypeError, ValueError
            As in `save_pretrained`, or if ``repo_id`` is not the name of a repository.
        OSError
            If the hub cannot be reached, or refuses the upload.
        """
        hub = require("huggingface_hub", "hub", feature="push_to_hub")
        api = hub.HfApi(token=token, library_name="laplex", library_version=_core.info()["version"])
        with TemporaryDirectory() as made, _clear_errors(repo_id, revision):
            folder = Path(made)
            hub.utils.validate_repo_id(repo_id)
            card = self._described(results)
            card_text(card, repo_id, results, metadata)  # before a repository is made
            self._write(folder)
            name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None and not create_pr:
                api.create_branch(name, branch=revision, exist_ok=True)
            files = [CONFIG, TENSORS]
            if replace_card or _has_no_other_card(api, name, revision, folder / "hub"):
                _write_text(folder / CARD, card_text(card, name, results, metadata))
                files.append(CARD)
            done = api.upload_folder(
                repo_id=name,
                folder_path=folder,
                allow_patterns=files,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                revision=revision,
                create_pr=create_pr,
            )
        return str(done.pr_url or done.commit_url)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Load a model from a folder or from the Hugging Face hub.

        Only ``config.json`` and ``model.safetensors`` are downloaded and read. Nothing in them is
        run, unpickled or imported, and they are checked before a model is made of them.

        Parameters
        ----------
        name_or_path : str or path
            A folder that `save_pretrained` wrote, or a repository of the hub, such as
            ``"name/model"``.
        revision : str, optional
            The branch, tag or commit of the repository; by default the main branch.
        token : str or bool, optional
            The access token for a private repository; by default that of ``hf auth login``.
        cache_dir : str or path, optional
            The folder for downloaded files; by default that of huggingface_hub.
        local_files_only : bool
            Use files that have been downloaded before, without the network.
        force_download : bool
            Download the files even if they are there.

        Returns
        -------
        object of this class
            The model, on the CPU; a module is in evaluation mode.

        Raises
        ------
        ImportError
            If safetensors or, for a repository, huggingface_hub is not installed.
        FileNotFoundError
            If there is no such folder, repository or revision, or no model in it.
        NotADirectoryError
            If ``name_or_path`` is a file.
        ValueError
            If the files are damaged, of another class, or newer than this version of Laplex.
        OSError
            If the hub cannot be reached or refuses the download.
        """
        folder = cls._located(
            name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        return cls._read(folder)

    def _described(self, results: Sequence[Any]) -> Card:
        if not isinstance(results, Sequence) or isinstance(results, str):
            raise TypeError(
                f"results must be a list of results, got a {type(results).__name__}: pass a single "
                "one as [result]"
            )
        return self._card(results)

    @classmethod
    def _located(
        cls, name_or_path: str | os.PathLike[str], *, revision: str | None, **options: Any
    ) -> Path:
        """Return the folder of the files; for a repository, download the two by their names.

        So no other file ever is, such as a pickle or a script.
        """
        folder, name = local_path(name_or_path, "name_or_path"), os.fspath(name_or_path)
        if folder.is_dir():
            return folder
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file: pass its folder, {folder.parent}")
        hub = require("huggingface_hub", "hub", feature=f"loading {name!r} from the hub")
        try:
            hub.utils.validate_repo_id(name)
        except ValueError as error:
            raise FileNotFoundError(
                f"there is no folder {name!r}, and a repository has a name such as 'owner/model'"
            ) from error
        with _clear_errors(name, revision):
            folder = Path(hub.hf_hub_download(name, CONFIG, revision=revision, **options)).parent
            read_config(
                folder, cls._saved_as, cls._saved_kind
            )  # before a large download of something else
            # The folder has the name of the commit, so that both files are of one.
            hub.hf_hub_download(name, TENSORS, revision=folder.name, **options)
        return folder


@contextmanager
def _clear_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Say of the errors of huggingface_hub what to do about them."""
    errors = require("huggingface_hub.errors", "hub")
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{repo_id} asks for an agreement first: accept it on its page, and pass token=..."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no folder {repo_id!r}, and the hub shows no such repository: check the "
            "name; if it is private, pass token=..."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} has no revision {revision!r}: pass a branch, a tag or a commit of it"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} has not been downloaded completely, is no folder here either, and the hub "
            "is not reached: check the network, and that neither local_files_only=True nor "
            "HF_HUB_OFFLINE forbids its use"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} holds no model of Laplex: it has no {CONFIG} or no {TENSORS}"
        ) from error
    except errors.HTTPError as error:  # of the library underneath: no connection, or a refusal
        raise OSError(f"the hub did not do what was asked for {repo_id}: {error}") from error
    except ValueError as error:  # of a forced download; the errors of our files have other causes
        if isinstance(error.__cause__, (errors.HTTPError, OSError)):
            raise OSError(
                f"the hub did not do what was asked for {repo_id}: {error.__cause__}"
            ) from error
        raise


def _has_no_other_card(api: Any, name: str, revision: str | None, cache: Path) -> bool:
    errors = require("huggingface_hub.errors", "hub")
    try:
        found = api.hf_hub_download(name, CARD, revision=revision, cache_dir=cache)
    except errors.EntryNotFoundError:
        return True
    return is_ours(Path(found))


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
