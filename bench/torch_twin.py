"""The twin of a network in torch, derived from its graph: no second definition of any network.

    twin = TorchTwin(graph, channels_last=True)      # graph: the forward graph, as built
    twin.load(network.state_dict())
    twin.logits(images)                              # NumPy in and out, in our layouts
    losses, gradients = twin.loss_and_gradients(images, labels)

`twin.module` is a torch.fx GraphModule (`print(twin.module.code)` shows it) from images
[N,C,H,W], as made by `twin.images`, to logits (and those of auxiliary heads). It is written as
torch is written well: ReLU in place where nobody else reads its input, and no copies for the
layout. An image is flattened where it lies: with channels_last in our order (H, W, C), otherwise
in torch's (C, H, W), and then the weights of the dense layer behind it are permuted once, when
they are loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.proxy import GraphAppendingTracer
from torch.nn import functional as F  # noqa: N812  (its name everywhere)

from ..engine.ir import Graph, Node, Value
from ..kernels import philox, registry
from ..kernels.errors import UnsupportedError
from . import torch_general, torch_ops

Flattened = tuple[int, int, int]  # H, W, C of an image that lies flattened as C, H, W


class TorchTwin:
    """A forward graph as a torch module.

    `channels_last` chooses the memory format of all activations and filters. `given_masks`
    replaces torch's dropout by masks that `draw_masks` makes from our random streams, so that
    gradients with dropout can be compared. Raises: UnsupportedError for an op without a twin.
    """

    def __init__(
        self, graph: Graph, *, channels_last: bool = True, dtype: str = "float32",
        given_masks: bool = False,
    ) -> None:  # fmt: skip
        """Build the module; all parameters are zero until `load`."""
        self.graph = graph
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self._channels_last = channels_last
        self._given_masks = given_masks
        self._attributes: dict[str, str] = {}
        self._flattened: dict[Value, Flattened] = {}
        self._dense_orders: dict[str, Flattened] = {}
        self._masks: list[Node] = []
        self._auxiliary: list[tuple[fx.Node, float]] = []
        self._users = graph.users()
        self._producers = graph.producers()
        self.smoothing = 0.0
        self.module = self._build()

    # From the graph to the module

    def _build(self) -> fx.GraphModule:
        self._root = root = torch.nn.Module()
        for parameter in self.graph.params:
            empty = torch.nn.Parameter(
                self._formatted(torch.zeros(_torch_shape(parameter.value.shape))),
                requires_grad=parameter.trainable,
            )
            root.register_parameter(self._attribute(parameter.value.name), empty)
        for state in self.graph.states:
            root.register_buffer(
                self._attribute(state.name), torch.zeros(state.shape, dtype=self.dtype)
            )
        traced = fx.Graph()
        self._tracer = GraphAppendingTracer(traced)
        self._values = {self.graph.inputs[0]: fx.Proxy(traced.placeholder("x"), self._tracer)}
        for name, constant in self.graph.constants.items():
            root.register_buffer(
                self._attribute(name), torch.tensor(constant, dtype=self.dtype), persistent=False
            )
        constants = [v for v in self.graph.inputs if v.name in self.graph.constants]
        params = [p.value for p in self.graph.params]
        for value in (*params, *self.graph.states, *constants):
            node = traced.get_attr(self._attribute(value.name))
            self._values[value] = fx.Proxy(node, self._tracer)
        for node in self.graph.nodes:
            if node.op == "softmax_cross_entropy":
                self.smoothing = node["op"].label_smoothing
                if node["grad_scale"] is not None:
                    raise UnsupportedError("torch twin: no loss scaling; build with scaled=False")
                if node["loss"] is not self.graph.outputs.get("loss"):
                    head = self._values[node["logits"]].node
                    self._auxiliary.append((head, node["op"].weight))
                continue
            self._values[node.out] = self._emit(node)
        logits = self._values[self.graph.outputs["logits"]].node
        heads = tuple(head for head, _ in self._auxiliary)
        traced.output((logits, *heads) if heads else logits)
        return fx.GraphModule(root, traced, "Twin")

    def _attribute(self, name: str) -> str:
        """The identifier of a parameter or state of that name."""
        if name not in self._attributes:
            plain = re.sub(r"\W", "_", name)
            taken = plain in self._attributes.values()
            self._attributes[name] = f"{plain}_{len(self._attributes)}" if taken else plain
        return self._attributes[name]

    def _formatted(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(self.dtype)
        return tensor.contiguous(memory_format=self.format) if tensor.ndim == 4 else tensor

    def _emit(self, node: Node) -> Any:
        """The node in torch's functions; called on proxies, they record themselves."""

        def read(argument: str) -> Any:
            return None if node[argument] is None else self._values[node[argument]]

        x, op = read("x"), node["op"]
        if node["x"] in self._flattened and node.op in ("relu", "dropout", "clip", "leaky_relu"):
            self._flattened[node.out] = self._flattened[node["x"]]
        elif node.op in (*torch_general.TWINS, "reshape") and {*node.reads} & {*self._flattened}:
            raise UnsupportedError(
                f"torch twin: {node.op} ({node.name}) of a flattened image; use channels_last"
            )
        if node.op in torch_general.TWINS:
            return torch_general.TWINS[node.op](node, read)
        match node.op:
            case "conv2d":
                return torch_ops.conv2d(x, read("w"), read("b"), op)
            case "max_pool2d":
                return torch_ops.max_pool2d(x, op, node.out.shape)
            case "avg_pool2d":
                return torch_ops.avg_pool2d(x, op, node.out.shape)
            case "global_avg_pool2d":
                return torch.mean(x, (2, 3))
            case "relu":
                return F.relu(x, inplace=self._may_overwrite(node["x"]))
            case "dense":
                if node["x"] in self._flattened:
                    self._dense_orders[node["w"].name] = self._flattened[node["x"]]
                return F.linear(x, read("w"), read("b"))
            case "batch_norm_training" | "batch_norm_inference":
                running, affine = ("running_mean", "running_var"), ("gamma", "beta")
                (mean, var), (gamma, beta) = map(read, running), map(read, affine)
                training = node.op == "batch_norm_training"
                return F.batch_norm(x, mean, var, gamma, beta, training, op.momentum, op.eps)
            case "lrn":
                return F.local_response_norm(x, op.size, op.alpha, op.beta, op.k)
            case "add":
                return torch.add(read("a"), read("b"))
            case "concat":
                xs: Any = [self._values[v] for v in node["xs"]]
                return torch.cat(xs, 1)
            case "dropout":
                return self._dropout(node, x)
            case "reshape":
                return self._flatten(node, x)
        raise UnsupportedError(
            f"torch twin: {node.op} ({node.name}) has no twin; add it in bench/torch_general.py"
        )

    def _may_overwrite(self, value: Value) -> bool:
        """Whether a ReLU may work in place: it is the only reader, and autograd keeps no copy."""
        producer = self._producers.get(value)
        keeps_none = producer is not None and producer.op in (
            "conv2d", "dense", "add", "batch_norm_training", "batch_norm_inference",
        )  # fmt: skip
        return keeps_none and len(self._users[value]) == 1

    def _dropout(self, node: Node, x: Any) -> Any:
        if not self._given_masks:
            return F.dropout(x, node["op"].p, True)
        name = self._attribute(f"{node.name}/mask")
        self._root.register_buffer(name, torch.zeros(0, dtype=self.dtype))
        self._masks.append(node)
        mask: Any = fx.Proxy(x.node.graph.get_attr(name), self._tracer)
        return torch.mul(x, mask)

    def _flatten(self, node: Node, x: Any) -> Any:
        n, *image = node["x"].shape
        if len(image) != 3 or node.out.shape != (n, math.prod(image)):
            return torch_general.reshape(node, x)
        if self._channels_last:
            x = torch.permute(x, (0, 2, 3, 1))
        else:
            self._flattened[node.out] = (image[0], image[1], image[2])
        return torch.flatten(x, 1)

    # Between our layouts and torch's

    def _to_torch(self, name: str, array: np.ndarray) -> torch.Tensor:
        if name in self._dense_orders:
            array = array.reshape(len(array), *self._dense_orders[name]).transpose(0, 3, 1, 2)
            array = array.reshape(len(array), -1)  # [K, H*W*C] → [K, C*H*W]
        elif array.ndim == 4:
            array = array.transpose(0, 3, 1, 2)  # KRSC → KCRS
        return self._formatted(torch.from_numpy(np.array(array)))

    def to_ours(self, name: str, tensor: torch.Tensor) -> np.ndarray:
        """A parameter of torch, or its gradient, in our layout."""
        array = tensor.detach().cpu().numpy()
        if name in self._dense_orders:
            h, w, c = self._dense_orders[name]
            array = array.reshape(len(array), c, h, w).transpose(0, 2, 3, 1)
            return np.ascontiguousarray(array).reshape(len(array), -1)
        return np.array(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array, order="C")

    def images(self, x: np.ndarray) -> torch.Tensor:
        """Images [N,H,W,C] as the module takes them: [N,C,H,W] in its type, format and place."""
        place = next(self.module.parameters()).device
        return self._formatted(torch.from_numpy(x).to(place).permute(0, 3, 1, 2))

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Our name → the module's parameter, in the order of the graph."""
        names = (p.value.name for p in self.graph.params)
        return {name: getattr(self.module, self._attributes[name]) for name in names}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill parameters and states from arrays in our layouts, as `Network.state_dict` gives."""
        with torch.no_grad():
            for value in (*(p.value for p in self.graph.params), *self.graph.states):
                tensor = getattr(self.module, self._attributes[value.name])
                tensor.copy_(self._to_torch(value.name, np.asarray(arrays[value.name])))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Parameters and states in our layouts."""
        values = (*(p.value for p in self.graph.params), *self.graph.states)
        attributes = {v.name: getattr(self.module, self._attributes[v.name]) for v in values}
        return {name: self.to_ours(name, tensor) for name, tensor in attributes.items()}

    def draw_masks(self, seed: int, step: int) -> None:
        """Set the dropout masks to those that our kernels draw at this step (`given_masks`)."""
        drop = registry.load("numpy").function("dropout")
        for node in self._masks:
            mask = np.ones(node.out.shape)
            key = philox.key(seed, step, self.graph.keys.index(node["key"]))
            drop(mask, mask, op=node["op"], key=key)
            if node.out in self._flattened:
                h, w, c = self._flattened[node.out]
                mask = mask.reshape(-1, h, w, c).transpose(0, 3, 1, 2).reshape(len(mask), -1)
            elif mask.ndim == 4:
                mask = mask.transpose(0, 3, 1, 2)
            attribute = self._attributes[f"{node.name}/mask"]
            setattr(self.module, attribute, self._formatted(torch.from_numpy(np.array(mask))))

    # NumPy in, NumPy out

    def logits(self, x: np.ndarray) -> np.ndarray:
        """[N, classes] for images [N,H,W,C]."""
        with torch.no_grad():
            return self.heads(self.images(x))[0].cpu().numpy()

    def heads(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The logits, then those of the auxiliary heads (training); `x` from `images`."""
        logits = self.module(x)
        return logits if self._auxiliary else (logits,)

    def losses(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Each image's weighted sum of losses, [N]; `x` from `images`, labels int64 [N]."""
        return self._losses(x, labels)[1]

    def _losses(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of the logits, [N], and the sum with those of the auxiliary heads."""
        logits, *heads = self.heads(x)
        told: dict[str, Any] = {"reduction": "none", "label_smoothing": self.smoothing}
        main = total = F.cross_entropy(logits, labels, **told)
        for head, (_, weight) in zip(heads, self._auxiliary, strict=True):
            total = total + weight * F.cross_entropy(head, labels, **told)
        return main, total

    def loss_and_gradients(
        self, x: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Losses [N] of the logits, and name → gradient in our layout, trainable ones only.

        The gradients are those of the mean loss, auxiliary heads included.
        """
        wanted = {n: p for n, p in self.parameters().items() if p.requires_grad}
        images = self.images(x)
        told = torch.from_numpy(labels.astype(np.int64)).to(images.device)
        losses, total = self._losses(images, told)
        found = torch.autograd.grad(total.mean(), list(wanted.values()))
        gradients = {
            name: self.to_ours(name, gradient)
            for name, gradient in zip(wanted, found, strict=True)
        }  # fmt: skip
        return losses.detach().cpu().numpy(), gradients


def _torch_shape(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """KRSC → KCRS; other ranks stay."""
    return (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else tuple(shape)
