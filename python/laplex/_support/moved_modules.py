"""Modules that have moved: the import by their old names works for one release, with a warning.

The old names will be removed in the release after 0.1.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "laplex.command_errors": "laplex._support.command_errors",
    "laplex.commands": "laplex.cli.commands",
    "laplex.complete_files": "laplex._support.complete_files",
    "laplex.cuda_execution": "laplex.torch.cuda",
    "laplex.data_uris": "laplex._support.html_pages",
    "laplex.derivatives": "laplex.torch.derivatives",
    "laplex.execution": "laplex.torch.execution",
    "laplex.functional": "laplex.torch.functional",
    "laplex.gpytorch": "laplex.torch.linear_operator",
    "laplex.lazy_packages": "laplex._support.lazy_packages",
    "laplex.operator": "laplex.torch.operator",
    "laplex.optional": "laplex._support.optional",
    "laplex.plan": "laplex.numpy.plan",
    "laplex.progress": "laplex._support.progress",
    "laplex.scipy_operator": "laplex.numpy.scipy_operator",
    "laplex.signature": "laplex.torch.call",
    "laplex.torch_ops": "laplex.torch.autograd",
    "laplex.validation": "laplex.numpy.checks",
    "laplex.cedar.commands": "laplex.cli.cedar",
    "laplex.demo.datasets": "laplex._support.image_datasets",
    "laplex.early_exit.command_line": "laplex.early_exit.runs",
    "laplex.early_exit.command_line.backbones": "laplex.early_exit.runs.backbones",
    "laplex.early_exit.command_line.command_choices": "laplex.cli.exits",
    "laplex.early_exit.command_line.commands": "laplex.cli.exits",
    "laplex.early_exit.command_line.datasets": "laplex.early_exit.runs.datasets",
    "laplex.early_exit.command_line.exit_rules": "laplex.early_exit.runs.results",
    "laplex.early_exit.command_line.run_analysis": "laplex.early_exit.runs.results",
    "laplex.early_exit.command_line.run_evaluation": "laplex.early_exit.runs.results",
    "laplex.early_exit.command_line.run_folder": "laplex.early_exit.runs.settings",
    "laplex.early_exit.command_line.run_settings": "laplex.early_exit.runs.settings",
    "laplex.early_exit.command_line.runs": "laplex.early_exit.runs.run",
    "laplex.early_exit.command_line.setting_values": "laplex._support.settings_files",
    "laplex.early_exit.command_line.study": "laplex.early_exit.runs.study",
    "laplex.cedar.encoders.pretrained": "laplex.cedar.encoders.encoder",
    "laplex.early_exit.dynamics.batches": "laplex.early_exit.batches",
    "laplex.early_exit.dynamics.matrices": "laplex.early_exit.dynamics.centring",
    "laplex.early_exit.training.checked_numbers": "laplex._support.arguments",
    "laplex.early_exit.training.manners": "laplex.early_exit.training.quiet_lightning",
    "laplex.early_exit.evaluation.plan": "laplex.early_exit.evaluation.arguments",
    "laplex.early_exit.html_report.dynamics_section": "laplex.early_exit.html_report.page",
    "laplex.early_exit.html_report.pieces": "laplex.early_exit.html_report.number_formats",
    "laplex.early_exit.plain_json": "laplex._support.results",
    "laplex.early_exit.whole": "laplex._support.arguments",
    "laplex.gram.cuda_factor": "laplex.gram.cuda",
}


class _Finder(MetaPathFinder, Loader):
    """Finds old names. It must come first: other finders would import moved modules twice."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=name in PACKAGES) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, MOVED[module.__name__]
        warnings.warn(
            f"{old} has moved to {new}: the old name will be removed in the next release",
            DeprecationWarning,
            stacklevel=2,  # frames of the import system do not count
        )
        sys.modules[old] = import_module(new)


#: Old names of packages.
PACKAGES = {name for name in MOVED if any(other.startswith(f"{name}.") for other in MOVED)}


def keep_old_names() -> None:
    """Make the old names importable."""
    sys.meta_path.insert(0, _Finder())
