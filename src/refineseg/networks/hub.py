"""Models on the Hugging Face hub, or on a hub of your own: the door to huggingface_hub.

In: an id ``OWNER/NAME``, or a folder. Out: the model file of this package under the name ``model.safetensors``, with a
page for people. The format is the one of every model file; nothing else is needed to use it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from refineseg.errors import MissingExtraError, ModelFileError, told
from refineseg.files.writing import written_beside
from refineseg.networks.model_spec import ModelSpec
from refineseg.terminal.printable import printable

HUB_FILE = "model.safetensors"
"""Name of the model file in a repository of a hub."""
_PAGE = "README.md"


@dataclass(frozen=True)
class Hub:
    """Which hub, and how it is asked.

    Args:
        token: Token of the hub; None: the one that ``hf auth login`` or ``HF_TOKEN`` left; False: none.
        revision: Branch, tag or commit; None: the main branch.
        endpoint: Address of a hub of your own; None: ``HF_ENDPOINT``, else huggingface.co.
        cache_dir: Folder for what is downloaded; None: the usual one.
        local_files_only: Take what was downloaded before, and ask nobody.
    """

    token: str | bool | None = None
    revision: str | None = None
    endpoint: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    def find(self, place: str | Path) -> Path:
        """The model file of a repository, downloaded where it is not there yet; or of a folder.

        Args:
            place: ``OWNER/NAME``, or a folder that `Segmenter.save_pretrained` wrote.

        Raises:
            ModelFileError: There is none, or the hub cannot be reached.
            MissingExtraError: huggingface_hub is not installed.
        """
        folder = Path(place)
        if folder.is_dir():
            if not (folder / HUB_FILE).is_file():
                raise ModelFileError(
                    f"expected a {HUB_FILE} in the folder {folder}, got none; name the model file itself"
                )
            return folder / HUB_FILE
        hub = _library()
        try:
            found = hub.hf_hub_download(
                str(place),
                HUB_FILE,
                revision=self.revision,
                token=self.token,
                endpoint=self.endpoint,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
            )
        except _failures(hub) as error:
            raise ModelFileError(
                f"expected OWNER/NAME of a model with {HUB_FILE} on the hub, or a folder, got {place}: {told(error)}"
            ) from error
        return Path(found)

    def push(self, folder: Path, place: str, *, private: bool | None, message: str) -> str:
        """Upload a folder that `Segmenter.save_pretrained` wrote; returns the address of the commit.

        Args:
            folder: The folder.
            place: ``OWNER/NAME``; the repository is made where there is none.
            private: Whether a new repository is private; None: what the owner has set.
            message: First line of the commit.

        Raises:
            ModelFileError: The hub refuses it, or cannot be reached.
            MissingExtraError: huggingface_hub is not installed.
        """
        hub = _library()
        api = hub.HfApi(endpoint=self.endpoint, token=self.token)
        try:
            api.create_repo(place, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=place, folder_path=folder, commit_message=message, revision=self.revision)
        except _failures(hub) as error:
            raise ModelFileError(
                f"expected a hub that takes {place}, got {told(error.__cause__ or error)}; log in with a token that "
                "may write: hf auth login"
            ) from error
        return str(done.commit_url)


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", extra="hub", purpose="load and store models on a hub") from error
    return huggingface_hub


def _failures(hub: ModuleType) -> tuple[type[Exception], ...]:
    """What the library raises: of its own, of the network library below it, for wrong names, for uploads."""
    import httpx

    return hub.errors.HfHubHTTPError, httpx.HTTPError, OSError, ValueError, RuntimeError


def page_of(spec: ModelSpec, name: str) -> str:
    """The page of a model on a hub, with the header that makes it found: what it is, how it is used, its licence."""
    info, measured, licence = spec.class_info, spec.provenance.get("metrics"), printable(spec.licence)
    names, name = ", ".join(map(printable, info.names)), printable(name)
    head = ["---", "library_name: refineseg", "pipeline_tag: image-segmentation", "tags: [semantic-segmentation]"]
    # a licence in words has no key that hubs know
    head += ["license: other", f"license_name: {json.dumps(licence[:80])}", "---"] if licence else ["---"]
    lines = [*head, f"# {name}", "", f"`{spec.variant}` for {info.num_classes} classes: {names}."]
    if isinstance(measured, dict) and isinstance(measured.get("mean_iou"), float):
        lines += [
            "",
            f"mIoU {100 * measured['mean_iou']:.1f} % on the split {measured.get('split')} of its own training.",
        ]
    lines += ["", f"Licence of the weights: {licence}"] if licence else []
    used = f'import refineseg\n\nsegmenter = refineseg.from_pretrained("{name}")\n'
    return "\n".join([*lines, "", f'```python\n{used}refineseg.Predictor(segmenter)("photo.jpg")\n```', ""])


def write_page(folder: Path, spec: ModelSpec, name: str) -> None:
    """Write the page of a model beside its file.

    Raises:
        OutputError: It cannot be written.
    """
    with written_beside(folder / _PAGE) as temporary:
        temporary.write_text(page_of(spec, name), encoding="utf-8")
