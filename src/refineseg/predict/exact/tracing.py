"""A segmenter as a list of operations that can be computed on parts of their maps.

In: a segmenter and an image size. Out: a :class:`Graph`. The segmenter's own ``forward`` runs once on torch's ``meta``
device, which knows shapes only, at the size of the whole image; every operation it calls is recorded, whatever modules,
hooks or branches call it. What depends on weights alone is computed at once. An operation that sees the whole image, or
that is not known, ends the recording with the name of its module.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from refineseg.errors import ConfigError
from refineseg.predict.exact.graph import Graph, Map, Node
from refineseg.predict.exact.graph_rules import find_operation, operation_name
from refineseg.predict.exact.region_ops import Chain, Operation, Pointwise
from refineseg.predict.exact.spatial_rules import NotLocalError
from refineseg.segmenter import Segmenter


class _Recorder(TorchFunctionMode):
    """Sees every call of a torch function while a segmenter runs on shapes alone."""

    def __init__(self, weights: Mapping[int, Tensor], image: Tensor, device: torch.device, where: list[str]) -> None:
        super().__init__()
        self.constants = dict(weights)  # id of a tensor without values -> the same with values
        self.maps = [Map(tuple(image.shape), (2, 3), image.dtype)]
        self.places = {id(image): 0}  # id of a tensor without values -> index of a map
        self.nodes: list[Node] = []
        self._kept: list[Any] = [image]  # ids stay unique as long as their tensors live
        self._device, self._where = device, where

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's interface
        """Run it and write down what it was."""
        kwargs = kwargs or {}
        tensors = list(_tensors((args, kwargs)))
        if not any(id(tensor) in self.places for tensor in tensors):
            result = func(*args, **kwargs)
            if isinstance(result, Tensor) and result.device.type == "meta":
                self._keep_constant(func, args, kwargs, result)
            return result
        name = operation_name(func, resolve_name(func))
        try:
            shapes = {id(tensor): self.maps[self.places[id(tensor)]] for tensor in tensors if id(tensor) in self.places}
            result, steps = find_operation(func, name, args, kwargs, shapes, self._real)
        except NotLocalError as error:
            raise ConfigError(
                f"expected convolutions, windows and single pixels for exact tiles, got {error} in "
                f"{self._where[-1] if self._where else 'the segmenter'}; add --tile-mode blend (in Python: "
                'TilingOptions(mode="blend")) for overlapping tiles, which any network can have'
            ) from error
        for output, chain in steps:
            self._add(output, chain, tensors)
        self._kept.append(result)
        return result

    def _add(self, output: Tensor, chain: Sequence[tuple[Operation, Map]], tensors: Sequence[Tensor]) -> None:
        inputs = tuple(self.places[id(tensor)] for tensor in tensors if id(tensor) in self.places)
        if not chain:  # the same map
            self.places[id(output)] = inputs[0]
            return
        for operation, shape in chain:
            self.maps.append(shape)
            self.nodes.append(Node(operation, inputs, len(self.maps) - 1))
            inputs = (len(self.maps) - 1,)
        self.places[id(output)] = inputs[0]

    def _real(self, value: Any) -> Any:  # noqa: ANN401 - an argument of any torch function
        """An argument with values in place of shapes."""
        if isinstance(value, Tensor):
            return self.constants[id(value)] if value.device.type == "meta" else value
        if isinstance(value, torch.device) and value.type == "meta":
            return self._device
        if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
            return type(value)(self._real(item) for item in value)
        return value

    def _keep_constant(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor
    ) -> None:
        self._kept.append(result)
        self.constants[id(result)] = func(
            *(self._real(value) for value in args), **{key: self._real(value) for key, value in kwargs.items()}
        )


def _tensors(value: Any) -> Iterator[Tensor]:  # noqa: ANN401 - arguments of any torch function
    """All tensors in nested arguments, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _without_values(segmenter: Segmenter) -> tuple[Segmenter, dict[int, Tensor]]:
    """A copy that knows shapes only, and the values by the ids of its tensors.

    A copy, because others may compute with the segmenter at the same moment.
    """
    tensors = [*segmenter.parameters(), *segmenter.buffers()]
    copies = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    weights = {id(copies[id(tensor)]): tensor.detach() for tensor in tensors}
    return copy.deepcopy(segmenter, copies), weights


def _follow(model: nn.Module) -> list[str]:
    """The modules that are being run, outermost first, as the list stands at any moment."""
    stack: list[str] = []

    for name, module in model.named_modules():
        if name:
            told = f"{name} ({type(module).__name__})"
            module.register_forward_pre_hook(lambda *_, told=told: stack.append(told))
            module.register_forward_hook(lambda *_: stack.pop() and None)  # a result would replace the module's
    return stack


@torch.no_grad()
def trace(segmenter: Segmenter, size_hw: tuple[int, int]) -> Graph:
    """The operations of a segmenter on an image of one size; takes a fraction of a second and no memory.

    Args:
        segmenter: Model in evaluation mode, on the device where it is to be computed; its weights are not copied.
        size_hw: Height and width of the whole image.

    Raises:
        ConfigError: A part of the network sees the whole image at once (squeeze-and-excitation, attention, global
            normalisation), or does something that is not known; the message names it.
    """
    copied, weights = _without_values(segmenter)
    device = next(segmenter.parameters()).device
    image = torch.empty(1, segmenter.spec.preprocessing.in_channels, *size_hw, dtype=torch.uint8, device="meta")
    where = _follow(copied)
    recorder = _Recorder(weights, image, device, where)
    try:
        with recorder:
            logits = copied(image)
    except ConfigError:
        raise
    except Exception as error:  # backbones fail on shapes alone with any kind
        raise ConfigError(
            f"expected a network that runs on shapes alone, got {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''} in {where[-1] if where else 'the segmenter'}; "
            "add --tile-mode blend"
        ) from error
    return _chained(recorder.maps, recorder.nodes, recorder.places[id(logits)])


def _chained(maps: Sequence[Map], nodes: Sequence[Node], output: int) -> Graph:
    """Without what does not lead to the output, and with functions of single pixels tied to what is before them."""
    wanted = {output}
    alive: list[Node] = []
    for node in reversed(nodes):
        if node.output in wanted:
            wanted.update(node.inputs)
            alive.insert(0, node)
    uses = Counter(index for node in alive for index in node.inputs)
    made: dict[int, Node] = {}
    for node in alive:
        before = made.get(node.inputs[0])
        if isinstance(node.operation, Pointwise) and len(node.inputs) == 1 and before and uses[node.inputs[0]] == 1:
            head = before.operation
            chain = Chain(head.head, (*head.tail, node.operation)) if isinstance(head, Chain) else None
            operation = chain or Chain(head, (node.operation,))
            del made[node.inputs[0]]
            made[node.output] = replace(before, operation=operation, output=node.output)
        else:
            made[node.output] = node
    order = {node.output: position for position, node in enumerate(alive)}
    return Graph(tuple(maps), tuple(sorted(made.values(), key=lambda node: order[node.output])), output)
