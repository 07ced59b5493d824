"""What a model file says of where its weights come from, for comparisons with other numbers.

In: the data of a run and what its weights started from. Out: the entry ``protocol`` of a model's provenance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from refineseg.data.samples.sample import Dataset
from refineseg.data.samples.sample_facts import facts_of_files
from refineseg.evaluate.protocol import VOID_LEFT_OUT, Learned, MeasurementProtocol
from refineseg.training.config import TrainingConfig


def run_protocol(
    config: TrainingConfig,
    names: tuple[str, ...],
    training: tuple[Dataset, ...],
    val: Dataset | None,
    *,
    started_from: str,
    earlier: Learned | None = None,
    teacher: Learned | None = None,
) -> dict[str, Any]:
    """The protocol of a run: what it learned from, and the split it is measured on while it trains.

    Args:
        config: Configuration of the run.
        names: Names of its data sets; the first is measured.
        training: The training samples of each phase.
        val: The measured samples; None: none.
        started_from: ``scratch``, or where the first weights come from.
        earlier: What the model it went on from had learned from.
        teacher: What its teacher had learned from, whose knowledge it takes over.

    Returns:
        A :class:`~refineseg.evaluate.protocol.MeasurementProtocol` as plain values (its split is empty where none is
        measured), with a list ``training_images`` of the phases: how many, their size, their compression.
    """
    parts = [
        part for phase in config.phases for part in (phase.data or [f"{name}:{config.train_split}" for name in names])
    ]
    learned = Learned.from_run(parts, started_from if earlier is None else "scratch")
    if earlier is not None:
        learned = earlier + learned
    if teacher is not None:
        learned = learned + teacher
    protocol = MeasurementProtocol(
        names[0],
        config.val_split or "" if val is not None else "",
        num_classes=training[0].class_info.num_classes,
        void=VOID_LEFT_OUT,
        trained_on=learned.trained_on,
        other_data=learned.other_data,
        scales=(1.0,),
        flip=False,
        crf=False,
    )
    if val is not None:
        facts = facts_of_files(val)
        protocol = replace(
            protocol,
            num_images=len(val),
            image_size=facts.image_size,
            compression=facts.compression,
            mean="over the classes in the truth",
        )
    different = {id(dataset): dataset for dataset in training}
    return {**protocol.to_json(), "training_images": [_images(dataset) for dataset in different.values()]}


def _images(dataset: Dataset) -> dict[str, Any]:
    facts = facts_of_files(dataset)
    return {"num_images": len(dataset), "image_size": facts.image_size, "compression": facts.compression}


def learned_before(value: object) -> Learned | None:
    """From the entry ``earlier`` of a run's description; None where the weights are new."""
    if not isinstance(value, Mapping):
        return None
    return Learned.from_provenance({"protocol": value})
