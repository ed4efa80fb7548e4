"""A traced network rewritten for attacks: the same function in fewer passes over memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional

from models.frozen_chain import FrozenChain, Link
from models.thin_convolution import ThinConvolution

_RELUS = (functional.relu, torch.relu, "relu")
_SUMS = (operator.add, operator.iadd, torch.add)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)


def chained(network: nn.Module) -> fx.GraphModule:
    """``network``, in evaluation mode, with runs of convolutions as ``FrozenChain``.

    Raises whatever ``torch.fx`` raises for networks that it cannot trace.
    """
    network = fx.symbolic_trace(network)
    _drop_nothings(network)
    _pool_first(network)
    numbers = {node: i for i, node in enumerate(network.graph.nodes)}
    blocks = {block.last: block for block in _blocks(network, numbers)}
    inner = {node for block in blocks.values() for node in block.nodes} - set(blocks)
    run: list[_Block] = []
    number = 0
    for node in [*network.graph.nodes]:
        if node in inner:
            continue
        if node in blocks:
            run.append(blocks[node])
            continue
        for part in _closed(run):
            _replace(network, part, f"chain_{number}")
            number += 1
        run = []
    network.delete_all_unused_submodules()
    network.graph.lint()
    network.recompile()
    return network


@dataclass(frozen=True)
class _Block:
    """A convolution, the sum and the ReLU that it takes over."""

    module: nn.Conv2d
    convolution: fx.Node
    sum: fx.Node | None
    relu: fx.Node | None

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        return tuple(n for n in (self.convolution, self.sum, self.relu) if n is not None)

    @property
    def last(self) -> fx.Node:
        return self.nodes[-1]

    @property
    def x(self) -> fx.Node:
        return _node(self.convolution.args[0])

    @property
    def addend(self) -> fx.Node | None:
        if self.sum is None:
            return None
        left, right = self.sum.args
        return _node(right if left is self.convolution else left)


def _blocks(network: fx.GraphModule, numbers: dict[fx.Node, int]) -> Iterator[_Block]:
    nodes = list(network.graph.nodes)
    taken: set[fx.Node] = set()

    def joins(first: fx.Node, user: fx.Node | None) -> bool:
        """Whether ``first`` can be computed where ``user`` is: nothing in between could change
        its input."""
        return user is not None and all(
            node in taken or _is_sum(node) or _convolution(network, node) is not None
            for node in nodes[numbers[first] + 1 : numbers[user]]
        )

    # the last convolution before a sum takes it, so that the other one's output is there
    for node in reversed(nodes):
        module = _convolution(network, node)
        if module is None or len(node.args) != 1 or node.kwargs:
            continue
        total, user = None, _only_user(node)
        if user is not None and user not in taken and joins(node, user) and _takes(user, node):
            total, user = user, _only_user(user)
        relu = user if _is_relu(network, user) and joins(node, user) else None
        block = _Block(module, node, total, relu)
        taken.update(block.nodes)
        yield block


def _takes(user: fx.Node, node: fx.Node) -> bool:
    """Whether ``user`` is a sum that can be computed with ``node``."""
    if not _is_sum(user):
        return False
    left, right = user.args
    other = _node(right if left is node else left)
    # a value that is changed in its place and read elsewhere
    changed = user.target is operator.iadd and left is other and len(other.users) > 1
    return other is not node and not changed


def _closed(run: Sequence[_Block]) -> Iterator[Sequence[_Block]]:
    """``run`` in parts, each as long as possible, of which only the last value is used outside."""
    while run:
        for end in range(len(run), 0, -1):
            nodes = {node for block in run[:end] for node in block.nodes}
            if all(set(block.last.users) <= nodes for block in run[: end - 1]):
                break
        yield run[:end]
        run = run[end:]


def _replace(network: fx.GraphModule, blocks: Sequence[_Block], name: str) -> None:
    own = {block.last for block in blocks}
    read = [node for block in blocks for node in (block.x, block.addend) if node is not None]
    inputs = [node for node in dict.fromkeys(read) if node not in own]
    places = {node: i for i, node in enumerate([*inputs, *(block.last for block in blocks)])}
    links = [
        Link(
            places[block.x],
            None if block.addend is None else places[block.addend],
            bool(block.relu),
        )
        for block in blocks
    ]
    chain = FrozenChain([block.module for block in blocks], links, len(inputs))
    network.add_submodule(name, chain)
    last = blocks[-1].last
    with network.graph.inserting_before(last):
        made = network.graph.call_module(name, tuple(inputs))
    last.replace_all_uses_with(made)
    for node in reversed([node for block in blocks for node in block.nodes]):
        network.graph.erase_node(node)


def _drop_nothings(network: fx.GraphModule) -> None:
    for node in list(network.graph.nodes):
        if type(_module(network, node)) in _NOTHING and len(node.args) == 1:
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)


def _pool_first(network: fx.GraphModule) -> None:
    """``relu(max_pool(x))`` for ``max_pool(relu(x))``: the same numbers from fewer."""
    for node in list(network.graph.nodes):
        pool = _only_user(node)
        if pool is None or not _is_relu(network, node):
            continue
        x = _node(node.args[0])
        if type(_module(network, pool)) is not nn.MaxPool2d or len(x.users) > 1:
            continue
        pool.replace_input_with(node, x)
        pool.replace_all_uses_with(node)
        node.replace_input_with(x, pool)
        pool.append(node)


def _module(network: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    if node is None or node.op != "call_module":
        return None
    return network.get_submodule(str(node.target))


def _convolution(network: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    module = _module(network, node)
    if module is None or not FrozenChain.fits(module) or ThinConvolution.fits(module):
        return None
    assert isinstance(module, nn.Conv2d)
    return module


def _node(argument: object) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument


def _is_relu(network: fx.GraphModule, node: fx.Node | None) -> bool:
    if node is None:
        return False
    called = node.op in ("call_function", "call_method") and node.target in _RELUS
    return called or type(_module(network, node)) is nn.ReLU


def _is_sum(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and node.target in _SUMS
        and not node.kwargs
        and len(node.args) == 2
        and all(isinstance(part, fx.Node) for part in node.args)
    )


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
