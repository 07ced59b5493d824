"""A student learns from a teacher beside the masks; the teacher stays as it is, and the student's file names it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_objective import COUNTS, batch, config

from fakes.runs import run, same, tensors, tiny
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ModelFileError
from refineseg.networks.model_spec import ModelSpec
from refineseg.segmenter import Segmenter, build, load_spec
from refineseg.training.config import LossOptions
from refineseg.training.distillation import check_teacher, load_teacher
from refineseg.training.losses import SegmentationLoss
from refineseg.training.objective import Objective

VARIANT = "refineseg_nano"
CPU = torch.device("cpu")


@pytest.fixture
def teacher_file(tmp_path):
    torch.manual_seed(5)
    segmenter = build(VARIANT, class_info=ClassInfo(("ground", "sky", "square")))
    segmenter.with_provenance({"recipe": "big", "seed": 5, "hardware": "a laptop"})
    segmenter.save(tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def divergence_by_hand(student, teacher, temperature):
    p, q = (np.exp(x.double().numpy() / temperature) for x in (teacher, student))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return temperature**2 * (p * np.log(p / q)).sum(1).mean((1, 2))


@pytest.mark.parametrize("where", ["image", "output"])
def test_the_objective_adds_the_divergence_of_every_image(teacher_file, where):
    torch.manual_seed(0)
    student = build(VARIANT, num_classes=3).eval()
    teacher = load_teacher(str(teacher_file), ClassInfo(("ground", "sky", "square")), device=CPU)
    images, masks = batch(2)
    wanted = config(loss=LossOptions(loss_resolution=where), teacher_weight=0.5, teacher_temperature=2.0)
    with torch.no_grad():
        scores = [m(images) if where == "image" else m.output_logits(images) for m in (student, teacher)]
        value = Objective(student, wanted, COUNTS, teacher=teacher)(images, masks)
        alone = Objective(student, wanted, COUNTS)(images, masks)
        loss = SegmentationLoss(255, options=LossOptions(loss_resolution=where))
        labelled = np.array([float(loss.sums(scores[0][i : i + 1], masks[i : i + 1]).weight) for i in range(2)])
    each = divergence_by_hand(*scores, 2.0)
    expected = float(alone.mean) + 0.5 * (each * labelled).sum() / labelled.sum()
    assert float(value.mean) == pytest.approx(expected, rel=1e-4)
    assert float(value.weight) == float(alone.weight)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_it(teacher_file):
    info = ClassInfo(("ground", "sky", "square"))
    teacher = load_teacher(str(teacher_file), info, device=CPU)
    images, masks = batch(2)
    student = load_teacher(str(teacher_file), info, device=CPU)
    with torch.no_grad():
        values = [Objective(student, config(), COUNTS, teacher=t)(images, masks).mean for t in (teacher, None)]
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-5)


def test_only_the_student_gets_a_gradient_and_the_teacher_keeps_its_statistics(teacher_file):
    teacher = load_teacher(str(teacher_file), ClassInfo(("ground", "sky", "square")), device=CPU)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = build(VARIANT, num_classes=3).train()
    images, masks = batch(2)
    Objective(student, config(), COUNTS, teacher=teacher)(images, masks).mean.backward()
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(p.grad is not None for p in student.parameters())


def test_a_teacher_of_a_larger_input_is_brought_to_the_students_output(tmp_path):
    torch.manual_seed(1)
    student = build(VARIANT, num_classes=3).eval()
    spec = student.spec
    enlarging = Segmenter(ModelSpec(VARIANT, spec.class_info, replace(spec.preprocessing, input_scale=1.5))).eval()
    images, masks = batch(1)
    with torch.no_grad():
        assert enlarging.output_logits(images).shape != student.output_logits(images).shape
        wanted = config(loss=LossOptions(loss_resolution="output"))
        value = Objective(student, wanted, COUNTS, teacher=enlarging)(images, masks).mean
    assert torch.isfinite(value)


def test_pieces_of_a_batch_add_up_with_a_teacher(teacher_file):
    teacher = load_teacher(str(teacher_file), ClassInfo(("ground", "sky", "square")), device=CPU)
    torch.manual_seed(0)
    student = build(VARIANT, num_classes=3).eval()
    images, masks = batch(3)
    objective = Objective(
        student,
        config(loss=LossOptions(lovasz=0.5, border_weight=1.0, class_weight_power=0.5)),
        COUNTS,
        teacher=teacher,
    )
    with torch.no_grad():
        whole = objective(images, masks).mean
        parts = [objective(images[part], masks[part]) for part in (slice(0, 2), slice(2, 3))]
    assert float(sum(p.total for p in parts) / sum(p.weight for p in parts)) == pytest.approx(float(whole), rel=1e-4)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ground", "square", "sky"), "the same in another order"),
        (("ground", "sky", "tree"), r"not \['tree'\], but \['square'\]"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(teacher_file, names, message):
    with pytest.raises(ConfigError, match=f"expected a teacher of the classes {', '.join(names)}, got .*{message}"):
        check_teacher(str(teacher_file), ClassInfo(names))


def test_a_run_names_its_teacher_and_learns_from_it(folder_root, tmp_path, teacher_file):
    (folder_root / "classes.json").write_text(
        json.dumps({"classes": [{"id": i, "name": name} for i, name in enumerate(("ground", "sky", "square"))]})
    )
    progress = run(folder_root, tmp_path / "taught", tiny(1, teacher=str(teacher_file), teacher_temperature=2.0))
    run(folder_root, tmp_path / "alone", tiny(1))
    assert f"learning from {teacher_file} ({VARIANT}) beside the masks" in progress.said
    told = load_spec(tmp_path / "taught" / "last.safetensors").provenance["teacher"]
    assert told == {"model": str(teacher_file), "variant": VARIANT, "recipe": "big", "seed": 5}
    assert "teacher" not in load_spec(tmp_path / "alone" / "last.safetensors").provenance
    assert not same(*(tensors(tmp_path / name / "last.safetensors") for name in ("taught", "alone")))


def test_a_teacher_that_does_not_fit_stops_a_run_before_anything_is_written(folder_root, tmp_path, teacher_file):
    (folder_root / "classes.txt").write_text("ground\nsky\nhouse\n")
    with pytest.raises(ConfigError, match=r"not \['house'\], but \['square'\]"):
        run(folder_root, tmp_path / "run", tiny(1, teacher=str(teacher_file)))
    with pytest.raises(ModelFileError, match="neither"):
        run(folder_root, tmp_path / "run", tiny(1, teacher="nowhere"))
    assert not (tmp_path / "run").exists()
