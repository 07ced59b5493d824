"""A network as operations on maps, in the order in which they are computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from refineseg.predict.exact.region_ops import Operation


@dataclass(frozen=True)
class Map:
    """A whole map.

    Args:
        shape: Shape of the tensor, with a batch of one.
        axes: Dimensions that are rows and columns.
        dtype: Type of its values.
    """

    shape: tuple[int, ...]
    axes: tuple[int, int]
    dtype: torch.dtype

    @property
    def size_hw(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.shape[self.axes[0]], self.shape[self.axes[1]]

    @property
    def pixel_bytes(self) -> int:
        """Of all channels of a pixel."""
        return math.prod(self.shape) // math.prod(self.size_hw) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of a graph.

    Args:
        operation: What is computed.
        inputs: Indices of maps.
        output: Index of a map.
    """

    operation: Operation
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True, eq=False)
class Graph:
    """Operations in the order in which they are computed.

    Args:
        maps: All maps; the first one is the image (uint8).
        nodes: Operations; each one's inputs come before it.
        output: Index of the map of logits.
    """

    maps: tuple[Map, ...]
    nodes: tuple[Node, ...]
    output: int

    def consumers(self) -> dict[int, list[int]]:
        """Map -> nodes that need it."""
        found: dict[int, list[int]] = {index: [] for index in range(len(self.maps))}
        for position, node in enumerate(self.nodes):
            for index in dict.fromkeys(node.inputs):
                found[index].append(position)
        return found

    def multiply_adds(self) -> int:
        """Of the whole image."""
        return sum(
            node.operation.multiply_adds * self.maps[node.output].size_hw[0] * self.maps[node.output].size_hw[1]
            for node in self.nodes
        )
