"""Names of the models that clients may choose.

In: what the command line says of models. Out: name -> model; nothing is loaded.
"""

from __future__ import annotations

from pathlib import Path

from refineseg.errors import ConfigError
from refineseg.predict.views.scoring_views import check_scoring


def named_models(
    models: list[str], *, device: str = "auto", precision: str = "float32", backend: str | None = None
) -> dict[str, str]:
    """Name -> model, as far as it can be checked before PyTorch is there.

    Raises:
        ConfigError: Two models of one name, or options that do not fit.
        ModelFileError: No such model.
    """
    named: dict[str, str] = {}
    for text in models:
        name, separator, file = text.partition("=")
        if not separator or not name or "/" in name:
            name, file = Path(text).stem, text
        if name in named:
            raise ConfigError(f"expected models of different names, got {name} twice; name them: --model NAME=FILE")
        check_scoring(file, device=device, precision=precision, backend=backend)
        named[name] = file
    return named
