# SPDX-License-Identifier: Apache-2.0
"""`chunks.parquet`: every chunk of a replay, one row each, for whoever wants to look further.

No measured times are in it, so repeating a replay gives the same bytes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sigma_ros.evaluation.replay_log import InferenceEntry, ReplayLog
from sigma_ros.evaluation.report_json import SCHEMA

_MATRIX = pa.list_(pa.float64())

COLUMNS = pa.schema(
    [
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
    """Writes all chunks, one row group per recording; joint names and the checkpoint are in the file's metadata."""
    metadata = {
        "schema": SCHEMA,
        "joint_names": ",".join(logs[0].contract.joint_names),
        "checkpoint_hash": logs[0].policy.checkpoint_hash,
    }
    with pq.ParquetWriter(path, COLUMNS.with_metadata(metadata), compression="zstd") as writer:
        for log in logs:
            writer.write_table(pa.Table.from_pylist(list(_rows(log)), schema=COLUMNS.with_metadata(metadata)))


def _rows(log: ReplayLog) -> Iterator[dict[str, object]]:
    for entry in log.inferences:
        yield _row(log.bag.name, entry)


def _row(episode: str, entry: InferenceEntry) -> dict[str, object]:
    chunk = entry.chunk
    return {
        "episode": episode,
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
