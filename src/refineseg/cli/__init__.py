"""The command line: one function per verb, wiring only; heavy imports are inside them.

Exit status 0: done; 1: some inputs failed, each named; 2: the call is wrong, with one message.
"""

from __future__ import annotations

import sys

from refineseg.cli.app import app
from refineseg.errors import RefinesegError

# The verbs register themselves; help shows them in this order.
# isort: off
from refineseg.cli import predict
from refineseg.cli import prediction
from refineseg.cli import training
from refineseg.cli import reproduction
from refineseg.cli import models
from refineseg.cli import export
from refineseg.cli import doctor
from refineseg.cli import shards
# isort: on

__all__ = ["app", "doctor", "export", "main", "models", "predict", "prediction", "reproduction", "shards", "training"]


def main() -> None:
    """Run the command line; deliberate errors become one message and exit status 2."""
    try:
        app()
    except RefinesegError as error:
        print(f"refineseg: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("refineseg: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
