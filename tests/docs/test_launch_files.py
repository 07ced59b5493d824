"""The files that start a training on a cluster: their syntax, their names for each other, and what they call."""

import shlex
import subprocess

import pytest
import yaml
from torch.distributed.run import get_args_parser

from conftest import REPOSITORY

FOLDER = REPOSITORY / "docs" / "launch"
SERVICE, JOB = yaml.safe_load_all((FOLDER / "kubernetes_train.yaml").read_text(encoding="utf-8"))
POD = JOB["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
SCRIPT = (FOLDER / "slurm_train.sh").read_text(encoding="utf-8")


def slurm_call():
    """The words of torchrun in the script, with values for its variables."""
    text = SCRIPT[SCRIPT.index("srun torchrun") :].replace("\\\n", " ")
    for name, value in {
        "$SLURM_NNODES": "2",
        "$SLURM_GPUS_ON_NODE": "4",
        "$SLURM_JOB_ID": "7",
        "$first": "n1",
        "$data": "folder:a",
        "$out": "b",
    }.items():
        assert name in text
        text = text.replace(name, value)
    assert "$" not in text
    return shlex.split(text)[1:]


@pytest.mark.parametrize("words", [slurm_call(), CONTAINER["command"]], ids=["slurm", "kubernetes"])
def test_torchrun_and_this_program_understand_the_call(words, refineseg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words[0] == "torchrun"
    options = get_args_parser().parse_args(words[1:])
    assert options.module
    assert options.training_script == "refineseg"
    assert (options.nnodes, options.nproc_per_node, options.rdzv_backend) == ("2", "4", "c10d")
    done = refineseg(*options.training_script_args)  # the options are right; the data are not here
    assert done.status == 2
    assert "which is not there" in done.err
    batch = next(word for word in shlex.split(" ".join(words).replace("=", " "))[::-1] if word.isdecimal())
    assert int(batch) % 8 == 0  # which eight processes divide


def test_the_script_is_a_script():
    assert subprocess.run(["bash", "-n", FOLDER / "slurm_train.sh"], check=False).returncode == 0
    asked = dict(line[8:].partition("=")[::2] for line in SCRIPT.splitlines() if line.startswith("#SBATCH"))
    assert asked["--ntasks-per-node"] == "1"  # torchrun starts the processes of a machine


def test_pods_find_each_other_and_their_volumes():
    name = JOB["metadata"]["name"]
    assert (SERVICE["kind"], JOB["kind"]) == ("Service", "Job")
    assert SERVICE["spec"]["clusterIP"] == "None"
    assert SERVICE["spec"]["selector"] == {"job-name": name}  # the label that Kubernetes gives the pods of a Job
    assert POD["subdomain"] == SERVICE["metadata"]["name"]
    options = dict(word.lstrip("-").partition("=")[::2] for word in CONTAINER["command"])
    host, _, port = options["rdzv-endpoint"].partition(":")
    assert host == f"{name}-0.{SERVICE['metadata']['name']}"
    assert int(port) == SERVICE["spec"]["ports"][0]["port"]
    assert JOB["spec"]["completionMode"] == "Indexed"
    assert JOB["spec"]["completions"] == JOB["spec"]["parallelism"] == int(options["nnodes"])
    assert CONTAINER["resources"]["limits"]["nvidia.com/gpu"] == options["nproc-per-node"]
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
