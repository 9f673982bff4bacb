"""Optional dependencies: import one, or name the extra of Laplex that installs it."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def installed(module: str) -> bool:
    """Whether a top-level module is installed; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # hidden by an import hook, or partly imported
        return False


def require(module: str, extra: str, *, feature: str | None = None) -> ModuleType:
    """Import an optional dependency.

    Parameters
    ----------
    module
        The name to import, for instance ``"torch"`` or ``"scipy.sparse.linalg"``.
    extra
        The extra of the ``laplex`` distribution that installs it.
    feature
        The feature that needs it, for the message. The default is ``"laplex"``.

    Raises
    ------
    ImportError
        If the package is not installed, with the message
        ``<feature> needs <package>: pip install "laplex[<extra>]"``. An ImportError *inside* an
        installed package is passed on.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise _absent(package, extra, feature) from error


def require_installed(package: str, extra: str, *, feature: str | None = None) -> None:
    """Check that a package is installed without importing it, which may take seconds.

    Raises
    ------
    ImportError
        As for `require`, if the package is not installed.
    """
    if not installed(package):
        raise _absent(package, extra, feature)


def _absent(package: str, extra: str, feature: str | None) -> ImportError:
    message = f'{feature or "laplex"} needs {package}: pip install "laplex[{extra}]"'
    return ImportError(message, name=package)
