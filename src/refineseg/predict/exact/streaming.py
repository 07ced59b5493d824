"""A graph computed in strips of rows, every row of every map once.

In: a graph and the rectangle of its output that is wanted. Out: that rectangle in strips, top to bottom. Rows of the
image are read in steps; each operation computes the rows for which its inputs are there and keeps only what later rows
still need. Memory is therefore a few rows of each map (and those that wait for the coarse levels), whatever the height,
and nothing is computed twice within the rectangle. Left and right of it each map is computed as far as it is needed.

The order of work is a function of sizes alone, so that :func:`maps_bytes` can go through it without computing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from refineseg.predict.exact.axis_rules import AxisRule, Span, needed
from refineseg.predict.exact.graph import Graph
from refineseg.predict.exact.region_ops import Chain, Operation, Pointwise, Resampling
from refineseg.predict.views.tiling import Region

_OUTPUT_PIECE_BYTES = 64 * 2**20
"""Logits at image size are large: they are made in smaller strips than all else."""


def needed_spans(graph: Graph, axis: int, span: Span) -> list[Span | None]:
    """What an interval of output rows (axis 0) or columns (1) needs of every map; None: nothing.

    Example:
        >>> import refineseg
        >>> from refineseg.predict.exact.tracing import trace
        >>> graph = trace(refineseg.build("refinenet_lw_mobilenetv2", num_classes=2), (4096, 4096))
        >>> needed_spans(graph, 0, (2048, 2080))[0]
        (1259, 2838)
    """
    spans: list[Span | None] = [None] * len(graph.maps)
    spans[graph.output] = span
    for node in reversed(graph.nodes):
        wanted = spans[node.output]
        if wanted is None:
            continue
        low, high = needed(node.operation.rule(axis), wanted)
        for index in node.inputs:
            known = spans[index]
            spans[index] = (low, high) if known is None else (min(low, known[0]), max(high, known[1]))
    return spans


@dataclass(frozen=True)
class Work:
    """The next thing to do.

    Args:
        node: Index of an operation; -1: read rows of the image.
        rows: Rows that it makes.
        needs: Rows of its inputs that it needs.
        drops: Maps, and the row before which nothing of them is needed any more.
    """

    node: int
    rows: Span
    needs: Span
    drops: tuple[tuple[int, int], ...]


class Schedule:
    """The order of work for one rectangle.

    Args:
        graph: What is computed.
        rows: Interval of output rows.
        columns: Interval of output columns.
        step: Image rows read at a time.
    """

    def __init__(self, graph: Graph, rows: Span, columns: Span, *, step: int) -> None:
        self.graph, self._step = graph, step
        self.rows, self.columns = needed_spans(graph, 0, rows), needed_spans(graph, 1, columns)
        self._rules: list[AxisRule] = [node.operation.rule(0) for node in graph.nodes]
        self._consumers = graph.consumers()
        self._done = [0 if span is None else span[0] for span in self.rows]
        self._end = [0 if span is None else span[1] for span in self.rows]
        # What grows is made when it is needed, so that the smaller map before it is what waits
        self._lazy = [
            node.output != graph.output
            and _size(graph, node.output) > sum(_size(graph, index) for index in set(node.inputs))
            for node in graph.nodes
        ]
        # Rows of each map at a time: at the end of the image all that waited for it could be computed at once. They are
        # enough for one row of the maps after it: what is made when it is needed has no rows from before
        enough = [1] * len(graph.maps)
        for node, rule, lazy in reversed(list(zip(graph.nodes, self._rules, self._lazy, strict=True))):
            count = rule.extent(enough[node.output] if lazy else 1)
            for index in node.inputs:
                enough[index] = max(enough[index], count)
        height = graph.maps[0].size_hw[0]
        usual = (step * shape.size_hw[0] // height + 2 for shape in graph.maps)
        self._most = [max(pair) for pair in zip(usual, enough, strict=True)]
        output = graph.maps[graph.output]
        strip = (columns[1] - columns[0]) * output.pixel_bytes
        self._piece = max(4, _OUTPUT_PIECE_BYTES // strip // 4 * 4)

    def works(self) -> Iterator[Work]:
        """Everything in order; can be asked once."""
        done, end, output = self._done, self._end, self.graph.output
        while done[output] < end[output]:
            targets = self._targets()
            if targets == done:
                raise AssertionError(f"expected a next row, got none after {done[output]} of {end[output]}")
            if targets[0] > done[0]:
                rows = (done[0], targets[0])
                done[0] = targets[0]
                yield Work(-1, rows, rows, ())
            for position, node in enumerate(self.graph.nodes):
                target = targets[node.output]
                while done[node.output] < target:
                    first = done[node.output]
                    last = min(target, first + self._piece) if node.output == output else target
                    done[node.output] = last
                    drops = tuple((index, self._kept_from(index)) for index in set(node.inputs))
                    yield Work(position, (first, last), needed(self._rules[position], (first, last)), drops)

    def _targets(self) -> list[int]:
        """Up to which row each map can and should be computed once the next rows of the image are there."""
        graph, done, end = self.graph, self._done, self._end
        targets = list(done)
        targets[0] = min(done[0] + self._step, end[0])
        for node, rule in zip(graph.nodes, self._rules, strict=True):
            count = min(rule.available(targets[index]) for index in node.inputs)
            most = min(end[node.output], done[node.output] + self._most[node.output])
            targets[node.output] = max(done[node.output], min(count, most))
        for position in range(len(graph.nodes) - 1, -1, -1):
            if self._lazy[position]:
                made = graph.nodes[position].output
                wanted = done[made]
                for consumer in self._consumers[made]:
                    after = graph.nodes[consumer].output
                    if targets[after] > done[after]:
                        wanted = max(wanted, self._rules[consumer].last(targets[after] - 1) + 1)
                targets[made] = min(wanted, targets[made])
        return targets

    def _kept_from(self, index: int) -> int:
        """The first row of a map that is still needed."""
        first = self._end[index]
        for consumer in self._consumers[index]:
            after = self.graph.nodes[consumer].output
            if self._done[after] < self._end[after]:
                first = min(first, self._rules[consumer].first(self._done[after]))
        return first


def _size(graph: Graph, index: int) -> int:
    """Bytes of a whole map."""
    shape = graph.maps[index]
    return shape.size_hw[0] * shape.size_hw[1] * shape.pixel_bytes


class _Strips:
    """The rows of one map that are there, as the strips in which they were made."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._strips: list[tuple[int, Tensor]] = []

    def append(self, first: int, rows: Tensor) -> None:
        self._strips.append((first, rows))

    def read(self, span: Span) -> Tensor:
        parts = []
        for first, rows in self._strips:
            low, high = max(span[0], first), min(span[1], first + rows.shape[self._axis])
            if low < high:
                parts.append(rows.narrow(self._axis, low - first, high - low))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=self._axis)

    def drop(self, before: int) -> None:
        while self._strips and self._strips[0][0] + self._strips[0][1].shape[self._axis] <= before:
            self._strips.pop(0)


def stream(
    graph: Graph, region: Region, read: Callable[[Region], Tensor], *, step: int
) -> Iterator[tuple[Region, Tensor]]:
    """Compute a rectangle of the output.

    Args:
        graph: Graph from :func:`~refineseg.predict.exact.tracing.trace`.
        region: Region of the image.
        read: Gives (1, C, h, w) uint8 pixels of a region, on the device.
        step: Image rows read at a time.

    Yields:
        Strips of the region from top to bottom: which one, and its logits (1, K, h, w).
    """
    rows, columns = (region.top, region.bottom), (region.left, region.right)
    schedule = Schedule(graph, rows, columns, step=step)
    strips = [_Strips(shape.axes[0]) for shape in graph.maps]
    source_columns = schedule.columns[0]
    assert source_columns is not None
    for work in schedule.works():
        if work.node < 0:
            strips[0].append(
                work.rows[0], read(Region(work.rows[0], source_columns[0], work.rows[1], source_columns[1]))
            )
            continue
        node = graph.nodes[work.node]
        made = schedule.columns[node.output]
        assert made is not None
        wanted = needed(node.operation.rule(1), made)
        inputs = []
        for index in node.inputs:
            there = schedule.columns[index]
            assert there is not None
            whole = strips[index].read(work.needs)
            inputs.append(whole.narrow(graph.maps[index].axes[1], wanted[0] - there[0], wanted[1] - wanted[0]))
        result = node.operation.compute(inputs, (work.needs, wanted), (work.rows, made))
        del inputs, whole
        for index, before in work.drops:
            strips[index].drop(before)
        if node.output == graph.output:
            yield Region(work.rows[0], region.left, work.rows[1], region.right), result
        else:
            strips[node.output].append(work.rows[0], result)
        del result


def maps_bytes(graph: Graph, region: Region, *, step: int) -> int:
    """The most memory :func:`stream` takes for maps at one time, weights and the caller's own memory not counted."""
    schedule = Schedule(graph, (region.top, region.bottom), (region.left, region.right), step=step)
    widths = [
        0 if span is None else (span[1] - span[0]) * shape.pixel_bytes
        for span, shape in zip(schedule.columns, graph.maps, strict=True)
    ]
    strips: list[list[Span]] = [[] for _ in graph.maps]
    kept = most = 0
    for work in schedule.works():
        height = work.rows[1] - work.rows[0]
        if work.node < 0:
            strips[0].append(work.rows)
            kept += height * widths[0]
            most = max(most, kept + height * widths[0])
            continue
        node = graph.nodes[work.node]
        read = sum((work.needs[1] - work.needs[0]) * widths[index] for index in set(node.inputs))
        most = max(most, kept + read + _passes(node.operation) * max(height * widths[node.output], 1))
        if node.output != graph.output:
            strips[node.output].append(work.rows)
            kept += height * widths[node.output]
        for index, before in work.drops:
            while strips[index] and strips[index][0][1] <= before:
                first, end = strips[index].pop(0)
                kept -= (end - first) * widths[index]
    return most


def _passes(operation: Operation) -> int:
    """How many copies of its output an operation has at one time."""
    if isinstance(operation, Chain):
        made = any(step.fresh and step.overwriting is None for step in operation.tail)
        return max(_passes(operation.head), 2 if made else 1)
    return 4 if isinstance(operation, Resampling) else 1 if isinstance(operation, Pointwise) else 2
