"""Weights under the names of the PyTorch port of Light-Weight RefineNet."""

from collections.abc import Mapping

from torch import Tensor


def port_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our MobileNet-v2 names -> the port's, written apart from the package's rules."""
    parts = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2.0", "bn3": "2.1"}
    fusions = {(0, 0): 8, (0, 1): 7, (1, 1): 6, (1, 2): 5, (2, 1): 4, (3, 1): 3}
    named = {}
    for name, tensor in state.items():
        words = name.split(".")
        if words[:2] == ["encoder", "conv_stem"]:
            key = f"layer1.0.{words[2]}"
        elif words[:2] == ["encoder", "bn1"]:
            key = f"layer1.1.{words[2]}"
        elif words[0] == "encoder":
            key = f"layer{int(words[2]) + 2}.{words[3]}.output.{parts[words[4]]}.{words[5]}"
        elif words[1] == "classifier":
            key = f"segm.{words[2]}"
        elif words[3] == "pooling":
            key = f"crp{4 - int(words[2])}.0.{int(words[5]) + 1}_outvar_dimred.{words[6]}"
        else:
            block, index = int(words[2]), int(words[5])
            layer = f"conv_adapt{5 - block}" if block and not index else f"conv{fusions[block, index]}"
            key = f"{layer}.{words[6]}"
        named[key] = tensor
    return named
