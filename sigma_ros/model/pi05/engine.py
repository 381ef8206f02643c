# SPDX-License-Identifier: Apache-2.0
"""What runs the model's tensor functions faster, such as CUDA graphs, and whether what runs here is what was trained.

The graphs were written without a GPU at hand and have never run on one; the certificate compares them with the plain
model before the first chunk, and the plain model goes on where they differ.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sigma_ros.errors import MachineError
from sigma_ros.model.pi05.backbone import Backbone, Engine
from sigma_ros.model.pi05.onnx_engine import OnnxEngine, import_onnxruntime
from sigma_ros.values import EngineName

BOUND_RAD = 1e-3
"""How far an engine's chunk may be from the plain one: less than a step of the SO-101's encoders (1.5 mrad)."""

_WARM_UP = 3

Captured = tuple[Callable[[], object], list[Tensor], Any]
"""What replays, and the tensors that it reads and writes."""


class GraphEngine:
    """Captures a function once for each set of shapes and replays it; results are copied out.

    Args:
        capture: How; a CUDA graph unless a test says otherwise.

    Raises:
        MachineError: there is no CUDA device.
    """

    name = "cuda_graph"
    problem = ""

    def __init__(self, capture: "Callable[[Callable[..., Any], tuple[Tensor, ...]], Captured] | None" = None) -> None:
        if capture is None and not torch.cuda.is_available():
            raise MachineError("a CUDA graph needs a CUDA device", remedy="start with engine:=plain")
        self._capture = capture or _cuda_graph
        self._captured: dict[tuple[Any, ...], Captured] = {}

    def run(self, name: str, function: Callable[..., Any], *given: Tensor) -> Any:
        """What `function(*given)` gives; it must neither wait for the device nor depend on values in its shapes."""
        key = (name, *((each.shape, each.dtype) for each in given))
        if key not in self._captured:
            self._captured[key] = self._capture(function, given)
        replay, places, made = self._captured[key]
        for place, value in zip(places, given, strict=True):
            place.copy_(value, non_blocking=True)
        replay()
        return tree_map(lambda tensor: tensor.clone(), made)


def _cuda_graph(function: Callable[..., Any], given: tuple[Tensor, ...]) -> Captured:
    """As PyTorch's page on CUDA graphs asks: warmed up on a stream of its own, then captured."""
    places = [each.to("cuda", copy=True) for each in given]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            function(*places)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = function(*places)
    return graph.replay, places, made


def engine_named(name: EngineName) -> Callable[[nn.Module], Engine | None]:
    """What makes a loaded model's engine; None is the plain model.

    Raises:
        MachineError: this machine lacks what the engine needs; told before anything is loaded.
    """
    if name == "cuda_graph":
        graphs = GraphEngine()
        return lambda _: graphs
    if name == "onnx":
        import_onnxruntime()
        return OnnxEngine
    return lambda _: None


def lerobot_batch(
    backbone: Backbone,
    images: UInt8[Tensor, "cameras h w 3"],
    seen: Bool[Tensor, " cameras"],
    tokens: Int[Tensor, "1 tokens"],
    mask: Bool[Tensor, "1 tokens"],
) -> dict[str, Tensor]:
    """A tick as LeRobot's pre-processor hands it to `PI05Policy`; cameras that are not there are left out."""
    pictures = images.permute(0, 3, 1, 2).to(backbone.device, torch.float32) / 255.0
    if backbone.pictures is not None:
        pictures = backbone.unit_pixels(images)
    present = {key: pictures[None, i] for i, key in enumerate(backbone.camera_keys) if seen[i]}
    return {**present, "observation.language.tokens": tokens, "observation.language.attention_mask": mask}


@torch.no_grad()
def difference_from_lerobot(
    backbone: Backbone, ours: Float[Tensor, "1 horizon dof"], batch: dict[str, Tensor], noise: Float[Tensor, "1 h d"]
) -> float:
    """Largest difference of a chunk from `PI05Policy.predict_action_chunk`, in normalised numbers.

    0 only where every bit is the same, infinite where a number is not finite. Without a camera LeRobot gives no chunk,
    and there is nothing to compare with: 0.
    """
    if not any(key in batch for key in backbone.camera_keys):
        return 0.0
    theirs = backbone.policy.predict_action_chunk(batch, noise=noise.to(backbone.device))
    return largest_difference(ours[:, :, : theirs.shape[2]], theirs)


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; 0 only for the same bits, infinite where one is not finite."""
    if torch.equal(ours, theirs):
        return 0.0
    apart = float((ours.double() - theirs.double()).abs().max())
    return apart if math.isfinite(apart) else math.inf
