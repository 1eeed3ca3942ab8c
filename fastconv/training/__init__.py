"""Training: settings, schedules, the loop, checkpoints, progress and logs.

```python
from fastconv import training

trainer = training.start(training.Settings(model="digits_convnet", epochs=5))
trainer.fit()
```
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Metrics": "evaluate",
    "ProcessLost": "distributed",
    "Settings": "settings",
    "SettingsError": "settings",
    "Trainer": "engine",
    "TrainingDiverged": "diagnosis",
    "World": "distributed",
    "evaluate": "evaluate",
    "join": "distributed",
    "resolve": "settings",
    "resume": "setup",
    "start": "setup",
    "stop_on_signals": "interrupt",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # On demand: the command line's help needs only the settings, and must not wait for the rest.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
