# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime for the tick of a small model on the CPU: each tensor function is exported once, and kept on the disk.

Rows of a batch go through in groups of few sizes; a row's last bits depend on its group's. Only what the certificate
finds near enough to the plain model runs.
"""

import hashlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigma_ros import __version__
from sigma_ros.border import one_line, whole
from sigma_ros.errors import MachineError, UsageError

_LOG = logging.getLogger(__name__)
_OPSET = 20
_GROUPS = (16, 4, 1)
"""Rows that go through together, largest first: each size is a graph of its own. A robot has one row alone."""
_TELLS = "_jit_onnx_log"
"""By this the exporter prints a function that it cannot export, all of it, wherever torch's own logging goes."""
_MOST_BYTES = 2**31 - 1
"""A model in ONNX's format is one message of at most so many bytes."""


def import_onnxruntime() -> Any:
    """ONNX Runtime, an optional extra.

    Raises:
        MachineError: it, or what torch writes its format with, is not installed.
    """
    try:
        import onnx  # noqa: F401, PLC0415 - torch's exporter needs it
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise MachineError(
            "the engine onnx needs packages that are not installed",
            expected="onnxruntime and onnx",
            got=error,
            remedy='pip install "sigma_ros[onnx]"; or take the engine plain',
        ) from error
    return onnxruntime


def cache_folder() -> Path:
    """Where exported functions are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sigma_ros" / "onnx"


class OnnxEngine:
    """Runs tensor functions of one model by ONNX Runtime, on as many threads as torch has.

    What cannot be exported runs plainly from then on, and `problem` says why. Neither weights nor settings of the
    model may change afterwards.

    Args:
        model: Holds every parameter of the functions; float32 on the CPU.
        folder: Where exported functions are kept; what cannot be kept is exported by each process anew.

    Raises:
        MachineError: a package is not installed.
        UsageError: the model is on another device, of another number type, or too large.
    """

    name = "onnx"

    def __init__(self, model: nn.Module, folder: Path | None = None) -> None:
        self._onnxruntime = import_onnxruntime()
        _refuse_unfit(model)
        self.problem = ""
        self._model = model
        self._folder = folder or cache_folder()
        self._content = _content(model, self._onnxruntime.__version__)
        self._sessions: dict[tuple[Any, ...], Any] = {}

    def run(self, name: str, function: Callable[..., Any], *given: Tensor) -> Any:
        """What `function(*given)` gives: a tensor or a tuple of them; the first axis of all is the batch's."""
        rows, first, count = [], 0, len(given[0])
        while first < count:
            size = next(size for size in _GROUPS if size <= count - first)
            group = [each[first : first + size] for each in given]
            session = self._session(name, function, group)
            if session is None:
                return function(*given)
            wanted = {each.name for each in session.get_inputs()}
            fed = {f"given_{i}": each.numpy() for i, each in enumerate(group) if f"given_{i}" in wanted}
            rows.append(session.run(None, fed))
            first += size
        made = tuple(torch.from_numpy(np.concatenate(column)) for column in zip(*rows, strict=True))
        return made if len(made) > 1 else made[0]

    def _session(self, name: str, function: Callable[..., Any], group: list[Tensor]) -> Any:
        """The session of a function and its shapes; None where there is none."""
        key = (name, *((tuple(each.shape), each.dtype) for each in group))
        if key not in self._sessions and not self.problem:
            try:
                self._sessions[key] = self._opened(repr(key), function, group)
            except Exception as error:  # whatever the exporter or the runtime raises
                self.problem = one_line(f"{name} could not be exported: {type(error).__name__}: {error}")
        return None if self.problem else self._sessions[key]

    def _opened(self, key: str, function: Callable[..., Any], group: list[Tensor]) -> Any:
        kept = self._folder / f"{hashlib.sha256(f'{self._content} {key}'.encode()).hexdigest()}.onnx"
        with suppress(Exception):  # not there, or damaged
            return self._start(kept.read_bytes())
        exported = _exported(self._model, function, group)
        session = self._start(exported)
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            with whole(kept) as new:
                new.write_bytes(exported)
        return session

    def _start(self, exported: bytes) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 4  # what fails is raised
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are the robot's too
        return self._onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])


class _Traced(nn.Module):
    """A function as a module that owns the parameters that it reads."""

    def __init__(self, owner: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.owner = owner
        self.function = function

    def forward(self, *given: Tensor) -> Any:
        return self.function(*given)


@torch.no_grad()
def _exported(model: nn.Module, function: Callable[..., Any], given: list[Tensor]) -> bytes:
    """A function in ONNX's format, by torch's tracing exporter: the newer one cannot follow the cache of flow steps."""
    exporter: Any = torch.onnx
    known = exporter.symbolic_helper.parse_args("v", "is", "v", "f")(_rms_norm)
    exporter.register_custom_op_symbolic("aten::rms_norm", known, _OPSET)
    names, written = [f"given_{i}" for i in range(len(given))], io.BytesIO()
    with warnings.catch_warnings(), ExitStack() as undo:
        warnings.simplefilter("ignore")  # of tracing, of the exporter's age
        core = sys.modules["torch._C"]
        undo.callback(setattr, core, _TELLS, getattr(core, _TELLS))
        setattr(core, _TELLS, lambda *told: _LOG.debug(" ".join(map(str, told))))
        exporter.export(
            _Traced(model, function).eval(),
            tuple(given),
            written,
            input_names=names,
            opset_version=_OPSET,
            dynamo=False,
        )
    return written.getvalue()


def _rms_norm(graph: Any, hidden: Any, shape: list[int], weight: Any, epsilon: float | None) -> Any:
    """`nn.RMSNorm` over the last axis, which the exporter does not know."""
    least = torch.finfo(torch.float32).eps if epsilon is None else epsilon
    axes = graph.op("Constant", value_t=torch.tensor([-axis - 1 for axis in range(len(shape))]))
    squares = graph.op("ReduceMean", graph.op("Mul", hidden, hidden), axes, keepdims_i=1)
    floor = graph.op("Constant", value_t=torch.tensor(least))
    normed = graph.op("Div", hidden, graph.op("Sqrt", graph.op("Add", squares, floor)))
    return graph.op("Mul", normed, weight)


def _refuse_unfit(model: nn.Module) -> None:
    tensors = list(model.parameters())
    kinds = {f"{each.dtype} on {each.device.type}".removeprefix("torch.") for each in tensors}
    if kinds != {"float32 on cpu"}:
        raise UsageError(
            "the engine onnx is for models in float32 on the CPU",
            got=" and ".join(sorted(kinds)),
            remedy="load it so (device cpu, dtype float32), or take the engine plain",
        )
    size = sum(each.nbytes for each in tensors)
    if size > _MOST_BYTES:
        raise UsageError(
            "the model is too large for the engine onnx",
            expected=f"at most {_MOST_BYTES / 1e9:.1f} GB",
            got=f"{size / 1e9:.1f} GB",
            remedy="take the engine plain",
        )


def _content(model: nn.Module, *versions: str) -> str:
    """Names everything that an exported function is made from: weights, settings, the code's versions."""
    settings = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}
    told = (__version__, torch.__version__, *versions, *settings.values())
    found = hashlib.sha256(repr(told).encode())
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.update(name.encode())
        found.update(np.ascontiguousarray(tensor.detach().numpy()).data)
    return found.hexdigest()
