"""What processes do together: sums, decisions, errors; each in small processes of its own."""

import pytest
import torch
from torch import nn

import refineseg
from fakes.launched import in_processes
from fakes.runs import tiny
from refineseg.data.crops.loading import Share, epoch_order
from refineseg.data.datasets import open_dataset
from refineseg.data.samples.views import Subset
from refineseg.errors import ConfigError
from refineseg.training import ranks
from refineseg.training.optim import freeze_statistics


def test_alone_everything_gives_back_what_it_gets():
    tensor = torch.ones(2)
    assert (ranks.rank(), ranks.size(), ranks.is_first()) == (0, 1, True)
    assert ranks.summed(tensor) is tensor
    assert (ranks.agreed("a"), ranks.gathered("a"), ranks.most(3), ranks.least(3)) == ("a", ["a"], 3, 3)
    assert ranks.of_first(lambda: 5) == ranks.of_all(lambda: 5) == 5
    assert ranks.share_of(7) == range(7)


def facts(rank):
    layer = nn.BatchNorm2d(2)
    layer.running_mean.fill_(float(rank))
    layer.weight.data.fill_(float(rank))
    ranks.make_same(layer, buffers_only=True)
    mixed = layer.running_mean.tolist(), layer.weight.tolist()
    ranks.make_same(layer)
    return {
        "agreed": ranks.agreed(f"of {rank}"),
        "gathered": ranks.gathered(rank),
        "most": (ranks.most(10 * rank), ranks.least(10 * rank)),
        "summed": ranks.summed(torch.tensor([1.0, rank])).tolist(),
        "of_first": ranks.of_first(lambda: f"by {rank}"),
        "mixed": mixed,
        "same": layer.weight.tolist(),
        "part": list(ranks.share_of(5)),
    }


def test_three_processes_agree(tmp_path):
    found = in_processes(facts, 3, tmp_path)
    for rank, one in enumerate(found):
        assert one["agreed"] == "of 0"
        assert one["of_first"] == "by 0"
        assert one["gathered"] == [0, 1, 2]
        assert one["most"] == (20, 0)
        assert one["summed"] == [3.0, 3.0]
        assert one["mixed"] == ([0.0, 0.0], [float(rank)] * 2)
        assert one["same"] == [0.0, 0.0]
    assert [one["part"] for one in found] == [[0, 1], [2, 3], [4]]  # each once, and the first ones in the first


def wrong_in(*wrong):
    def check(rank):
        def fail():
            if rank in wrong:
                raise ConfigError(f"no room{'' if len(wrong) == 3 else f' in {rank}'}")
            return "well"

        return ranks.of_all(fail)

    return check


def test_errors_are_told_by_the_first_process_with_where_they_belong(tmp_path):
    (tmp_path / "one").mkdir()
    first, *others = in_processes(wrong_in(1), 3, tmp_path / "one")
    assert first == "ProcessError: in process 1 of 3: no room in 1"
    assert others == ["ProcessError: "] * 2
    (tmp_path / "all").mkdir()
    assert in_processes(wrong_in(0, 1, 2), 3, tmp_path / "all") == ["ConfigError: no room", *["ProcessError: "] * 2]


def first_fails(rank):
    def fail():
        assert rank == 0
        raise OSError("a full disk")

    return ranks.of_first(fail)


def test_what_fails_in_the_first_process_ends_the_others_silently(tmp_path):
    assert in_processes(first_fails, 2, tmp_path) == ["OSError: a full disk", "ProcessError: "]


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("steps", [None, 5])
def test_shares_of_an_epoch_are_what_one_process_draws_each_sample_once(size, steps):
    whole = epoch_order(20, batch_size=6, seed=3, epoch=2, steps=steps)
    shares = [Share(rank, size).of(whole) for rank in range(size)]
    assert {len(batch) for share in shares for batch in share} == {6 // size}
    assert [[index for part in parts for index in part] for parts in zip(*shares, strict=True)] == whole
    if steps is None:
        assert len({index for batch in whole for index in batch}) == 18  # two are left out, others in another epoch
        assert {i for epoch in range(9) for b in epoch_order(20, batch_size=6, seed=3, epoch=epoch) for i in b} == {
            *range(20)
        }


def test_batches_that_processes_do_not_divide_are_refused():
    ranks.check_batch(8, 4)
    with pytest.raises(ConfigError, match="a batch that 3 processes divide, got 8: .*give --batch-size 6"):
        ranks.check_batch(8, 3)
    with pytest.raises(ConfigError, match=r"got 5 \(batch_size 8, 5 training images\).*give --batch-size 4"):
        ranks.check_batch(8, 4, samples=5)
    with pytest.raises(ConfigError, match="a batch that 8 processes divide, got 2: .*give --batch-size 8"):
        ranks.check_batch(2, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"compile": "default"}, "compile=off or auto for 3"), ({"sync_norm": True}, "GPUs for sync_norm with 3 proc")],
)
def test_settings_that_need_one_process_or_gpus_are_refused(changes, message):
    config = tiny(**changes)
    ranks.check_config(config, processes=1, device="cpu")
    with pytest.raises(ConfigError, match=message):
        ranks.check_config(config, processes=3, device="cpu")


def test_synchronised_normalisation_keeps_the_names_and_can_be_frozen():
    segmenter = refineseg.build("refineseg_nano", num_classes=3)
    names = segmenter.state_dict().keys()
    nn.SyncBatchNorm.convert_sync_batchnorm(segmenter)
    assert segmenter.state_dict().keys() == names
    segmenter.train()
    freeze_statistics(segmenter)
    norms = [part for part in segmenter.modules() if isinstance(part, nn.SyncBatchNorm)]
    assert norms
    assert not any(part.training for part in norms)


def test_a_part_of_a_data_set_has_its_samples_and_no_other(folder_root):
    whole = open_dataset("folder", folder_root, split="train")
    part = Subset(whole, range(2, 4))
    assert [sample.name for sample in part] == [part.name(0), part.name(1)] == [whole.name(2), whole.name(3)]
    assert (part.read_mask(1) == whole.read_mask(3)).all()
    assert (part.class_info, part.notes) == (whole.class_info, whole.notes)
    with pytest.raises(IndexError):
        part[2]
    assert list(Subset(whole, range(6, 6))) == []
