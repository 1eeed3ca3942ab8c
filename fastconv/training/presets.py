"""Settings from YAML: the package's presets, by name, and files of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastconv.training.settings import SettingsError

FOLDER = Path(__file__).resolve().parent.parent / "presets"


def preset_names() -> list[str]:
    """The presets of the package, sorted: papers' recipes, each line with its source."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read_config(name: str) -> dict[str, Any]:
    """The settings of a preset, or in a YAML file.

    Args:
        name: of a preset, or a file's path (``./alexnet2012`` is a file in any case).

    Raises:
        FileNotFoundError: neither; the message has the presets.
        SettingsError: not YAML, or not a mapping; unknown keys are `resolve`'s to refuse.
        ImportError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise ImportError('--config needs PyYAML: pip install "fastconv[train]"') from None
    path = FOLDER / f"{name}.yaml" if name in preset_names() else Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"--config: no such file: {name}, and no such preset ({', '.join(preset_names())})"
        )
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise SettingsError(f"{path}: must hold lines of name: value")
    return config
