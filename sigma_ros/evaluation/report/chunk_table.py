# SPDX-License-Identifier: Apache-2.0
"""`chunks.parquet`: every chunk of a replay, one row each, for whoever wants to look further.

No measured times are in it, so repeating a replay gives the same bytes.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.log import SCORED_STEPS, InferenceEntry, ReplayLog, scored
from sigma_ros.evaluation.report.document import SCHEMA
from sigma_ros.evaluation.scoring import metrics
from sigma_ros.evaluation.scoring.windows import Normalise, WindowActions, actions_of

_MATRIX = pa.list_(pa.float64())

_KEYS = ("recording", "epoch", "tick", "scale", "risk")
_ACTIONS = ("target_rad", "base_rad", "residual_rad", "commanded_rad")
_WINDOW_COLUMNS = (*_KEYS, *_ACTIONS)

GROUP_ROWS = 256
"""Rows that are put together at once: memory must not grow with the recording."""

COLUMNS = pa.schema(
    [
        pa.field("recording", pa.int64(), metadata={"meaning": "its place among the report's episodes"}),
        pa.field("episode", pa.string(), metadata={"meaning": "name of the recording"}),
        pa.field("epoch", pa.int64()),
        pa.field("tick", pa.int64(), metadata={"meaning": "ticks since the epoch's first"}),
        pa.field("stamp_ns", pa.int64(), metadata={"meaning": "bag time; step i is meant for stamp_ns + i ticks"}),
        pa.field("chunk_id", pa.int64()),
        pa.field("published", pa.bool_(), metadata={"meaning": "handed to the supervisor"}),
        pa.field("committed", pa.bool_(), metadata={"meaning": "advanced the recurrent memory"}),
        pa.field("horizon", pa.int64()),
        pa.field("base_rad", _MATRIX, metadata={"meaning": "horizon x joints, row-major"}),
        pa.field("residual_rad", _MATRIX, metadata={"meaning": "horizon x joints, row-major"}),
        pa.field("target_rad", _MATRIX, metadata={"meaning": "recorded, 16 x joints, row-major; null: not scored"}),
        pa.field("commanded_rad", _MATRIX, metadata={"meaning": "commanded at those times; NaN: nothing"}),
        pa.field("scale", pa.float64()),
        pa.field("risk", pa.float64(), metadata={"meaning": "sum of the three terms"}),
        pa.field("residual_risk", pa.float64()),
        pa.field("factor_risk", pa.float64()),
        pa.field("alignment_risk", pa.float64()),
        pa.field("tau_l2", pa.float64()),
        pa.field("sem_align", pa.float64()),
        pa.field("baseline_tau_l2", pa.float64()),
        pa.field("baseline_sem_align", pa.float64()),
        pa.field("observation_age_ns", pa.int64()),
    ]
)


def write_chunks(logs: Sequence[ReplayLog], path: Path) -> None:
    """Writes all chunks, recording by recording; joints, checkpoint and action space are in the metadata."""
    first = logs[0]
    metadata = {
        "schema": SCHEMA,
        "joint_names": ",".join(first.contract.joint_names),
        "checkpoint_hash": first.policy.checkpoint_hash,
        "action_scale": json.dumps(first.policy.action_scale.tolist()),
        "action_offset": json.dumps(first.policy.action_offset.tolist()),
    }
    with pq.ParquetWriter(path, COLUMNS.with_metadata(metadata), compression="zstd") as writer:
        for number, log in enumerate(logs):
            rows = _rows(log, number)
            while part := list(islice(rows, GROUP_ROWS)):
                writer.write_table(pa.Table.from_pylist(part, schema=COLUMNS.with_metadata(metadata)))


def read_windows(path: Path) -> tuple[WindowActions, Normalise]:
    """The scored windows of a report's `chunks.parquet`, and the map to the action space that it was scored in.

    Raises:
        SigmaError: the file cannot be read, or is of an older report that lacks a column.
    """
    try:
        schema = pq.read_schema(path)
        missing = [name for name in _WINDOW_COLUMNS if name not in schema.names]
        if missing:
            raise SigmaError(
                "the report's chunks cannot be compared",
                where=path,
                expected=f"the column {missing[0]}",
                got="a report of an older version",
                remedy="replay the recording again",
            )
        table = pq.read_table(path, columns=list(_WINDOW_COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise SigmaError("the report's chunks cannot be read", where=path, got=error) from error
    scored = table.filter(table["target_rad"].is_valid())
    scale, offset = (np.array(json.loads(schema.metadata[key])) for key in (b"action_scale", b"action_offset"))
    columns = {name: scored[name].to_numpy() for name in _KEYS}
    actions = WindowActions(**columns, **{name: _matrix(scored[name], len(scale)) for name in _ACTIONS})
    return actions, lambda rad: rad * scale + offset


def _matrix(column: pa.ChunkedArray, dof: int) -> Float64[ndarray, "windows steps dof"]:
    rows = [scored(np.asarray(row.values.to_numpy()).reshape(-1, dof)) for row in column]
    return np.array(rows, dtype=np.float64).reshape(-1, SCORED_STEPS, dof)


def _rows(log: ReplayLog, number: int) -> Iterator[dict[str, object]]:
    samples = metrics.samples_of(log)
    actions = actions_of(log, samples=samples)
    scored = dict(zip(samples.inference_index.tolist(), range(len(samples)), strict=True))
    for i, entry in enumerate(log.inferences):
        window = scored.get(i)
        yield {
            "recording": number,
            "episode": log.bag.name,
            "target_rad": None if window is None else actions.target_rad[window].ravel(),
            "commanded_rad": None if window is None else actions.commanded_rad[window].ravel(),
            **_row(entry),
        }


def _row(entry: InferenceEntry) -> dict[str, object]:
    chunk = entry.chunk
    return {
        "epoch": chunk.epoch,
        "tick": chunk.tick,
        "stamp_ns": chunk.stamp_ns,
        "chunk_id": chunk.chunk_id,
        "published": entry.published,
        "committed": entry.committed,
        "horizon": chunk.horizon,
        "base_rad": chunk.base_rad.ravel(),
        "residual_rad": chunk.residual_rad.ravel(),
        "scale": chunk.scale,
        "risk": chunk.risk.total,
        "residual_risk": chunk.risk.residual_term,
        "factor_risk": chunk.risk.factor_term,
        "alignment_risk": chunk.risk.alignment_term,
        "tau_l2": entry.tau_l2,
        "sem_align": entry.sem_align,
        "baseline_tau_l2": entry.baseline_tau_l2,
        "baseline_sem_align": entry.baseline_sem_align,
        "observation_age_ns": chunk.observation_age_ns,
    }
