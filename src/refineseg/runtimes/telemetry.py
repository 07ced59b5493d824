"""No library reports to its makers: switched off here for all of them, before any is imported.

In: nothing. Out: settings of this process, which the processes it starts inherit.

Sources: the documentation of each library; OpenVINO's Python package has no switch, but goes on without its reporter.
"""

from __future__ import annotations

import os
import sys

_SETTINGS = {
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NNCF_CI": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",
}
_REPORTERS = ("openvino_telemetry",)


def switch_off() -> None:
    """Let OpenVINO, NNCF, MLflow, huggingface_hub, Ray and wandb report nothing; what a user has set stays."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in _REPORTERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # Python's way to say that it cannot be imported
