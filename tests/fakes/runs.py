"""Small training runs, without a terminal."""

from dataclasses import replace

import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from refineseg.data.crops.options import CropOptions
from refineseg.training.config import Phase, TrainingConfig
from refineseg.training.run import RunRequest, start_run

VARIANT = "refineseg_nano"


class Silent:
    """Keeps what would be shown."""

    def __init__(self):
        self.said, self.entries, self.steps = [], [], 0

    def say(self, message):
        self.said.append(message)

    def start(self, config, num_samples, *, done):
        self.done = done

    def step(self, loss, images_per_s, share):
        self.steps += 1

    def epoch_done(self, entry):
        self.entries.append(entry)

    def stop(self):
        pass

    def ended(self, message):
        self.said.append(message)


def tiny(epochs=2, **changes):
    phase = Phase(
        epochs=epochs,
        crops=CropOptions((32, 32), (0.8, 1.2)),
        batch_size=3,
        encoder_lr=1e-3,
        decoder_lr=1e-3,
        warmup_epochs=0.5,
    )
    config = TrainingConfig(recipe="test", variant=VARIANT, phases=(phase,), pretrained="no", precision="fp32")
    config = replace(config, checkpoint_every_s=0.0)
    return replace(config, **changes)


def run(root, out, config=None, **options):
    progress = Silent()
    start_run(RunRequest(config or tiny(), f"folder:{root}", device="cpu", **options), out, progress=progress)
    return progress


def tensors(path):
    return load_file(path)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Asking(TorchDispatchMode):
    """Notes the operations that hand a value, or a number of values, to the host, and tensors made of its numbers."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if (
            name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "lift_fresh")
            or "unique" in name
        ):
            self.asked.append(name)
        if name in ("index", "index_put", "index_put_"):
            self.asked += [name for index in args[1] if index is not None and index.dtype == torch.bool]
        return func(*args, **(kwargs or {}))
