# SPDX-License-Identifier: Apache-2.0
"""The runtime's laws: a pure function of window, state and weights, in the robot's units."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_base import TASK, frames, save_tiny, window_at

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import CheckpointError, ContractError, SigmaError
from sigma_ros.model.checkpoint.folder import identify, save_checkpoint
from sigma_ros.model.checkpoint.manifest import Training
from sigma_ros.model.pi05.flow import flow_noise
from sigma_ros.model.runtime import Inference, SigmaRuntime
from sigma_ros.model.step import RecurrentState
from sigma_ros.values import AdapterSettings, LeftOver

CALM = AdapterSettings()


@pytest.fixture(scope="module")
def runtime(tiny_folder: Path, so101: Contract) -> SigmaRuntime:
    return SigmaRuntime.load(str(tiny_folder), contract=so101, seed=11)


@pytest.fixture(scope="module")
def stirred(tiny_folder: Path, so101: Contract) -> SigmaRuntime:
    """Heads and adapters moved away from their start, as after training."""
    made = SigmaRuntime.load(str(tiny_folder), contract=so101, seed=11)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, parameter in sorted(made.model.trained().items()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def _run(
    runtime: SigmaRuntime, ticks: list[int], *, seed: int = 0, holes: tuple[int, ...] = ()
) -> tuple[list[Inference], RecurrentState]:
    recording = frames(max(ticks) + 1, runtime.image_size_px, seed)
    state = runtime.initial_state(epoch=0, task=TASK)
    results = []
    for tick in ticks:
        window = window_at(recording, tick, holes=holes)
        result, state = runtime.step(window, state, commit=tick % 16 == 0, settings=CALM, chunk_id=tick)
        results.append(result)
    return results, state


def _same(one: Inference, other: Inference) -> bool:
    first, second = (replace(i.chunk, inference_ns=0) for i in (one, other))
    arrays = ("base_normalised", "residual_normalised")
    return (
        all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
        and np.array_equal(one.telepathy.semantic_memory, other.telepathy.semantic_memory)
        and (first.scale, first.risk, first.tau_l2) == (second.scale, second.risk, second.tau_l2)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_in_radians_is_the_policys_own_chunk_bit_for_bit(
    tiny_folder: Path, so101: Contract, dtype: str
) -> None:
    runtime = SigmaRuntime.load(str(tiny_folder), contract=so101, dtype=dtype, seed=4)
    frame = frames(4, runtime.image_size_px)[3]
    inference = _run(runtime, [3])[0][0]
    backbone = runtime.model.backbone
    policy_units = so101.to_policy(frame.positions_rad).astype(np.float32)
    tokens, mask = backbone.tokenize(TASK, runtime.normalisation.state.normalise(policy_units))
    batch = {
        camera.dataset_key: torch.from_numpy(frame.images[camera.name]).permute(2, 0, 1)[None] / 255.0
        for camera in so101.cameras
    }
    language = {"observation.language.tokens": tokens, "observation.language.attention_mask": mask}
    noise = flow_noise(seed=4, epoch=0, tick=3, horizon=backbone.horizon, max_dof=backbone.max_dof)
    theirs = backbone.policy.predict_action_chunk(batch | language, noise=noise)[0].numpy().astype(np.float64)
    assert np.array_equal(inference.base_normalised, theirs)
    assert np.array_equal(inference.chunk.base_rad, runtime.units.denormalise_chunk(theirs, np.zeros(6)))
    assert np.array_equal(inference.chunk.blended_rad(inference.chunk.scale), inference.chunk.base_rad)


def test_the_same_recording_gives_the_same_chunks(stirred: SigmaRuntime) -> None:
    ticks = [0, 8, 16, 24]
    first, state = _run(stirred, ticks)
    torch.manual_seed(99)
    second, again = _run(stirred, ticks)
    assert all(_same(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(state.memory, again.memory)
    assert float(np.abs(first[-1].residual_normalised).max()) > 1e-3


def test_a_step_leaves_the_state_it_was_given_as_it_was(stirred: SigmaRuntime) -> None:
    recording = frames(20, stirred.image_size_px)
    state = stirred.initial_state(epoch=0, task=TASK)
    first, _ = stirred.step(window_at(recording, 16), state, commit=True, settings=CALM, chunk_id=1)
    second, _ = stirred.step(window_at(recording, 16), state, commit=True, settings=CALM, chunk_id=1)
    assert _same(first, second)
    assert not state.memory.any()


def test_only_a_commit_changes_the_memory_and_the_step_uses_its_update_either_way(stirred: SigmaRuntime) -> None:
    recording = frames(20, stirred.image_size_px)
    state = stirred.initial_state(epoch=0, task=TASK)
    window = window_at(recording, 16)
    kept, committed = stirred.step(window, state, commit=True, settings=CALM, chunk_id=1)
    passed, same = stirred.step(window, state, commit=False, settings=CALM, chunk_id=1)
    assert np.array_equal(kept.telepathy.semantic_memory, passed.telepathy.semantic_memory)
    assert np.array_equal(committed.memory.numpy().astype(np.float64), kept.telepathy.semantic_memory)
    assert not same.memory.any()
    assert (kept.telepathy.committed, passed.telepathy.committed) == (True, False)


def test_looking_on_the_ticks_between_changes_nothing(stirred: SigmaRuntime) -> None:
    recording = frames(20, stirred.image_size_px)
    planned = looked = stirred.initial_state(epoch=0, task=TASK)
    for tick in range(17):
        looked = stirred.observe(window_at(recording, tick), looked)
    one, _ = stirred.step(window_at(recording, 16), planned, commit=False, settings=CALM, chunk_id=1)
    other, _ = stirred.step(window_at(recording, 16), looked, commit=False, settings=CALM, chunk_id=1)
    assert _same(one, other)


def test_a_step_encodes_only_frames_it_has_not_seen(stirred: SigmaRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = frames(33, stirred.image_size_px)
    state = stirred.initial_state(epoch=0, task=TASK)
    seen: list[int] = []
    encode = stirred.model.encode
    monkeypatch.setattr(stirred.model, "encode", lambda sight: seen.append(sight.tick) or encode(sight))
    for tick, expected in ((0, [0]), (8, list(range(1, 9))), (9, [9]), (32, list(range(17, 33)))):
        seen.clear()
        _, state = stirred.step(window_at(recording, tick), state, commit=False, settings=CALM, chunk_id=0)
        assert seen == expected


def test_pictures_of_a_masked_tick_do_not_matter(stirred: SigmaRuntime) -> None:
    one, _ = _run(stirred, [12], holes=(5, 6))
    recording = list(frames(13, stirred.image_size_px))
    other = frames(13, stirred.image_size_px, seed=8)
    recording[5:7] = other[5:7]
    state = stirred.initial_state(epoch=0, task=TASK)
    window = window_at(tuple(recording), 12, holes=(5, 6))
    two, _ = stirred.step(window, state, commit=False, settings=CALM, chunk_id=12)
    assert _same(one[0], two)


def test_noise_follows_seed_epoch_and_tick(runtime: SigmaRuntime) -> None:
    recording = frames(9, runtime.image_size_px)

    def base(*, epoch: int = 0, seed: int = 11) -> np.ndarray:
        runtime.seed = seed
        state = runtime.initial_state(epoch=epoch, task=TASK)
        window = window_at(recording, 8, epoch=epoch)
        result, _ = runtime.step(window, state, commit=False, settings=CALM, chunk_id=1)
        runtime.seed = 11
        return result.base_normalised

    assert np.array_equal(base(), base())
    assert not np.array_equal(base(), base(epoch=1))
    assert not np.array_equal(base(), base(seed=12))


def test_the_settings_bound_the_scale_and_travel_with_the_chunk(stirred: SigmaRuntime) -> None:
    recording = frames(1, stirred.image_size_px)
    for settings in (AdapterSettings(max_scale=0.0), AdapterSettings(min_scale=0.3, max_scale=0.3)):
        state = stirred.initial_state(epoch=0, task=TASK)
        result, _ = stirred.step(window_at(recording, 0), state, commit=True, settings=settings, chunk_id=7)
        assert result.chunk.scale == settings.max_scale
        assert result.chunk.settings == settings
        assert result.chunk.chunk_id == 7


def test_residual_in_radians_is_the_change_of_the_denormalised_actions(stirred: SigmaRuntime) -> None:
    result = _run(stirred, [5])[0][0]
    both = stirred.units.denormalise_chunk(result.base_normalised + result.residual_normalised, np.zeros(6))
    assert np.allclose(result.chunk.base_rad + result.chunk.residual_rad, both, atol=1e-9)


def test_normalised_actions_come_back_in_radians(runtime: SigmaRuntime, so101: Contract) -> None:
    poses = np.stack([so101.lower_rad, so101.upper_rad, np.zeros(6)])
    assert np.allclose(runtime.normalise_actions(poses)[:2], [[-1.0] * 6, [1.0] * 6])
    assert np.allclose(runtime.units.denormalise_chunk(runtime.normalise_actions(poses), np.zeros(6)), poses)


def test_a_base_that_is_not_finite_gets_scale_zero(stirred: SigmaRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    act = stirred.model.act
    monkeypatch.setattr(
        stirred.model, "act", lambda *a, **k: (action := act(*a, **k), replace(action, base=action.base * np.nan))[1]
    )
    assert _run(stirred, [0])[0][0].chunk.scale == 0.0


def test_a_window_of_another_epoch_or_task_is_refused(runtime: SigmaRuntime) -> None:
    recording = frames(1, runtime.image_size_px)
    for state in (runtime.initial_state(epoch=1, task=TASK), runtime.initial_state(epoch=0, task="other")):
        with pytest.raises(SigmaError, match=r"does not belong to the state.*epoch 0"):
            runtime.step(window_at(recording, 0), state, commit=False, settings=CALM, chunk_id=0)


def test_a_picture_of_the_wrong_size_is_refused(runtime: SigmaRuntime) -> None:
    recording = frames(1, runtime.image_size_px + 1)
    state = runtime.initial_state(epoch=0, task=TASK)
    with pytest.raises(SigmaError, match=r"where: up; expected: uint8 \(112, 112, 3\); got: uint8 \(113, 113, 3\)"):
        runtime.step(window_at(recording, 0), state, commit=False, settings=CALM, chunk_id=0)


def test_a_picture_that_is_missing_is_refused(runtime: SigmaRuntime) -> None:
    frame = frames(1, runtime.image_size_px)[0]
    blind = replace(frame, images={"up": frame.images["up"]})
    state = runtime.initial_state(epoch=0, task=TASK)
    with pytest.raises(SigmaError, match=r"where: side; expected: uint8 .* got: none"):
        runtime.step(window_at((blind,), 0), state, commit=False, settings=CALM, chunk_id=0)


def test_a_pose_far_outside_the_training_data_is_named_joint_by_joint(runtime: SigmaRuntime, so101: Contract) -> None:
    assert runtime.check_units(np.zeros(6)) == ()
    assert runtime.check_units(so101.upper_rad * 1.2) == ()
    degrees = np.degrees(np.array([0.0, -1.7, 1.6, 0.9, 0.0, 0.2]))
    problems = runtime.check_units(degrees)
    assert [text.split(":")[0] for text in problems] == ["shoulder_lift", "elbow_flex", "wrist_flex", "gripper"]
    assert problems[0].startswith("shoulder_lift: -97.403 rad is -5580.8 in the policy's units, trained on -100.0")
    assert len(runtime.check_units(np.full(6, np.nan))) == 6


def test_baseline_diagnostics_come_from_the_path_without_adapters(stirred: SigmaRuntime) -> None:
    recording = frames(1, stirred.image_size_px)
    state = stirred.initial_state(epoch=0, task=TASK)
    window = window_at(recording, 0)
    without, _ = stirred.step(window, state, commit=False, settings=CALM, chunk_id=0)
    result, _ = stirred.step(window, state, commit=False, settings=CALM, chunk_id=0, baseline_diagnostics=True)
    assert np.isnan(without.telepathy.baseline_tau_l2)
    assert np.isfinite(result.telepathy.baseline_tau_l2)
    assert result.telepathy.baseline_tau_l2 != result.telepathy.tau_l2
    assert _same(without, result)


def test_results_are_read_only(runtime: SigmaRuntime) -> None:
    result = _run(runtime, [0])[0][0]
    for array in (result.base_normalised, result.chunk.base_rad, result.chunk.residual_rad, result.telepathy.intent):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0


def test_a_sigma_checkpoint_loads_with_its_base_and_gives_the_same_chunks(
    stirred: SigmaRuntime, so101: Contract, tiny_folder: Path, tmp_path: Path
) -> None:
    digest = save_checkpoint(
        stirred.model,
        tmp_path / "sigma",
        base=identify(stirred.model, stirred.info.base),
        training=Training(trained=True, steps=1),
    )
    loaded = SigmaRuntime.load(str(tmp_path / "sigma"), contract=so101, seed=11)
    assert loaded.info.hash == digest
    assert (loaded.info.trained, loaded.info.sigma_trained) == (True, True)
    assert loaded.info.base.source == str(tiny_folder)
    for ours, theirs in zip(_run(loaded, [0, 16])[0], _run(stirred, [0, 16])[0], strict=True):
        assert _same(ours, theirs)
    assert _run(loaded, [0])[0][0].chunk.checkpoint_hash == digest


def test_a_sigma_checkpoint_refuses_another_base(stirred: SigmaRuntime, so101: Contract, tmp_path: Path) -> None:
    save_checkpoint(
        stirred.model, tmp_path / "sigma", base=identify(stirred.model, stirred.info.base), training=Training()
    )
    with pytest.raises(CheckpointError):
        SigmaRuntime.load(str(tmp_path / "sigma"), contract=so101, base="mini", allow_untrained=True)


def test_what_does_not_fit_the_contract_is_refused_with_a_remedy(tiny_folder: Path, so101: Contract) -> None:
    with pytest.raises(ContractError, match=r"top -> observation\.images\.top.*--rename top=up.*make-mini --contract"):
        SigmaRuntime.load(str(tiny_folder), contract=load_contract("cr5"))
    with pytest.raises(ContractError, match="6 joints, as in the checkpoint's statistics; got: 5"):
        SigmaRuntime.load(str(tiny_folder), contract=replace(so101, joints=so101.joints[:5]))


def test_a_policy_camera_that_the_robot_lacks_is_masked(tiny_folder: Path, so101: Contract) -> None:
    one_camera = replace(so101, cameras=so101.cameras[1:])
    runtime = SigmaRuntime.load(str(tiny_folder), contract=one_camera, seed=11)
    result, state = _run(runtime, [2])
    assert np.isfinite(result[0].base_normalised).all()
    assert state.ring.seen[-1].tolist() == [False, True]


def test_a_base_without_statistics_is_refused(damaged: Callable[[], Path], so101: Contract) -> None:
    folder = damaged()
    (folder / "normalisation.json").unlink()
    with pytest.raises(CheckpointError, match="no normalisation statistics"):
        SigmaRuntime.load(str(folder), contract=so101)


def test_the_summary_starts_with_what_a_reader_must_know(
    runtime: SigmaRuntime, tmp_path: Path, so101: Contract
) -> None:
    assert runtime.info.summary().startswith("trained: ")
    random = SigmaRuntime.load(str(save_tiny(tmp_path / "t", trained=False)), contract=so101, allow_untrained=True)
    assert random.info.summary().startswith("UNTRAINED (random weights): ")


def test_a_commit_without_a_chunk_leaves_the_state_that_a_whole_step_leaves(stirred: SigmaRuntime) -> None:
    recording = frames(33, stirred.image_size_px, 0)
    whole = alone = stirred.initial_state(epoch=0, task=TASK)
    for tick in (0, 16, 32):
        window = window_at(recording, tick)
        told, whole = stirred.step(window, whole, commit=True, settings=CALM, chunk_id=tick)
        telepathy, alone = stirred.remember(window, alone)
        assert telepathy.committed
        assert np.array_equal(telepathy.semantic_memory, told.telepathy.semantic_memory)
    assert torch.equal(whole.memory, alone.memory)
    assert torch.equal(whole.factors, alone.factors)
    assert torch.equal(whole.ring.pooled, alone.ring.pooled)


def test_a_refreshed_residual_leaves_the_bases_steps_as_they_were(stirred: SigmaRuntime) -> None:
    recording = frames(12, stirred.image_size_px, 0)
    first, state = stirred.step(
        window_at(recording, 4), stirred.initial_state(epoch=0, task=TASK), commit=False, settings=CALM, chunk_id=0
    )
    fresh, after = stirred.refresh(window_at(recording, 9), state, first.chunk, settings=CALM, chunk_id=1)
    np.testing.assert_array_equal(fresh.chunk.base_rad, first.chunk.base_rad[5:])
    assert fresh.chunk.residual_rad.shape == fresh.chunk.base_rad.shape
    assert not np.array_equal(fresh.chunk.residual_rad, first.chunk.residual_rad[5:])
    assert (fresh.chunk.tick, fresh.chunk.stamp_ns) == (9, window_at(recording, 9).stamp_ns)
    assert torch.equal(after.memory, state.memory)


def test_the_spread_is_how_far_chunks_of_other_noise_differ(stirred: SigmaRuntime, so101: Contract) -> None:
    recording, state = frames(1, stirred.image_size_px, 0), stirred.initial_state(epoch=0, task=TASK)
    window = window_at(recording, 0)
    _, after = stirred.step(window, state, commit=True, settings=CALM, chunk_id=0)
    model, ring = stirred.model, after.ring
    for samples in (2, 3):
        wanted = []
        for draw in range(1, samples + 1):
            other = SigmaRuntime(
                model, contract=so101, normalisation=stirred.normalisation, info=stirred.info, seed=11 + 7919 * draw
            )
            found, _ = other.step(window, after, commit=False, settings=CALM, chunk_id=0)
            wanted.append(found.base_normalised[:16] + found.residual_normalised[:16])
        std = float(np.sqrt(np.var(wanted, axis=0, ddof=1).mean()))
        assert stirred.spread(window, after, samples=samples) == pytest.approx(std, rel=1e-4)
    assert torch.equal(after.ring.patches, ring.patches)


def test_a_left_over_draws_the_base_towards_the_chunk_before_and_its_absence_changes_no_bit(
    tiny_folder: Path, so101: Contract
) -> None:
    runtime = SigmaRuntime.load(str(tiny_folder), contract=so101, seed=11)
    recording = frames(9, runtime.image_size_px, 0)
    start = runtime.initial_state(epoch=0, task=TASK)
    first, state = runtime.step(window_at(recording, 0), start, commit=True, settings=CALM, chunk_id=0)
    left = LeftOver(base_rad=first.chunk.base_rad[8:], delay_steps=4)
    window = window_at(recording, 8)
    free, _ = runtime.step(window, state, commit=False, settings=CALM, chunk_id=1)
    led, _ = runtime.step(window, state, commit=False, settings=CALM, chunk_id=1, left_over=left)
    again, _ = runtime.step(window, state, commit=False, settings=CALM, chunk_id=1)
    kept = runtime.normalise_actions(left.base_rad)[:4]
    assert np.abs(led.base_normalised[:4] - kept).max() < 0.5 * np.abs(free.base_normalised[:4] - kept).max()
    assert _same(free, again)


def test_a_saved_memory_begins_an_epoch_with_an_empty_window(stirred: SigmaRuntime, tmp_path: Path) -> None:
    _, state = _run(stirred, [0, 16])
    file = tmp_path / "memory.safetensors"
    stirred.save(state, file)
    fresh = stirred.initial_state(epoch=5, task=TASK)
    restored = stirred.restore(file, fresh)
    assert (restored.epoch, restored.commits) == (5, 2)
    assert torch.equal(restored.memory, state.memory)
    assert torch.equal(restored.ring.valid, fresh.ring.valid)
    with pytest.raises(SigmaError, match="another task"):
        stirred.restore(file, stirred.initial_state(epoch=5, task="fold the towel"))
