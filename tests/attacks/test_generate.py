"""Adversarial sets: what is counted, on which pixels, and that storing one keeps it whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from attacks.deliver import Container, as_delivered, norms, to_grid
from attacks.generate import generate
from attacks.registry import named
from attacks.shards import MANIFEST, ShardProblem, read, read_manifest, write

MODEL = "sha256:" + "0" * 64
GRAY_OR_RGB = st.tuples(st.integers(16, 20), st.integers(16, 20), st.sampled_from([1, 3]))


def names(task) -> tuple[list[str], list[str]]:
    keys = [f"image-{i}" for i in range(len(task.pixels))]
    return [f"patient-{i // 2}" for i in range(len(task.pixels))], keys


def made(task, *specs, **options):
    groups, keys = names(task)
    return generate(task.model, task.images, task.labels.numpy(), groups, keys, specs, **options)


@settings(max_examples=30, deadline=None)
@given(st.data(), GRAY_OR_RGB, st.floats(0, 255, width=32))
def test_delivery_stays_in_the_ball_on_the_grid_and_survives_the_file(data, shape, epsilon):
    source = data.draw(hnp.arrays("uint8", shape))
    noise = data.draw(hnp.arrays("float32", shape, elements=st.floats(-1, 1, width=32)))
    floats = np.clip(source + noise * np.float32(epsilon), 0, 255).astype(np.float32)
    grid = to_grid(floats, source, epsilon)
    assert norms(grid, source).linf <= epsilon
    if float(epsilon).is_integer():
        assert np.array_equal(grid, np.rint(floats))
    assert np.array_equal(as_delivered(grid, Container.PNG8), grid)


def test_norms_by_hand():
    source = np.full((2, 2, 1), 10, dtype=np.uint8)
    moved = np.array([13, 10, 6, 10], dtype=np.uint8).reshape(2, 2, 1)
    size = norms(moved, source)
    assert (size.linf, size.l2, size.mean_abs) == (4.0, 5.0, 1.75)


def test_success_counts_on_the_decoded_file_and_only_where_the_model_was_right(three_classes):
    task = three_classes
    (result,) = made(task, named("pgd", 4.0))
    stored = torch.from_numpy(np.stack(result.pixels)).float()
    clean = task.model(task.pixels).argmax(1)
    after = task.model(stored).argmax(1)
    right = clean == task.labels
    assert result.success.tolist() == (right & (after != task.labels)).tolist()
    assert 0 < result.success.sum() < right.sum() < len(result), "the test must see all cases"
    change = (stored - task.pixels).abs().flatten(1)
    assert result.linf.tolist() == change.amax(1).tolist()
    assert result.linf.max() == 4.0


def test_half_a_grey_level_reaches_no_other_file_but_counts_in_float(three_classes):
    (file,) = made(three_classes, named("bim", 0.5))
    (floats,) = made(three_classes, named("bim", 0.5), container=None)
    assert file.linf.max() == 0.0
    assert not file.success.any()
    assert floats.linf.max() == 0.5
    assert floats.success.any()
    assert floats.pixels[0].dtype == np.float32


def test_results_do_not_depend_on_batch_order_or_company(three_classes):
    task = three_classes
    groups, keys = names(task)
    spec = named("pgd", 3.0)
    (whole,) = made(task, spec, seed=5)
    chosen = [31, 4, 17]
    (part,) = generate(
        task.model,
        [task.images[i] for i in chosen],
        task.labels.numpy()[chosen],
        [groups[i] for i in chosen],
        [keys[i] for i in chosen],
        [spec],
        seed=5,
        batch=2,
    )
    for i, pixels in zip(chosen, part.pixels, strict=True):
        assert np.array_equal(whole.pixels[i], pixels)
    (other,) = made(task, spec, seed=6)
    assert not all(map(np.array_equal, whole.pixels, other.pixels))


def mean_of(pixels: Tensor) -> Tensor:
    level = pixels.mean(dim=(1, 2, 3)) / 10
    return torch.stack([level, 12 - level], dim=1)


def mixed(rng: np.random.Generator):
    shapes = [(16, 20, 1), (18, 18, 3), (16, 20, 1), (18, 18, 3), (18, 18, 3)]
    images = [rng.integers(110, 136, shape, dtype=np.uint8) for shape in shapes]
    return images, [1, 0, 1, 0, 1], list("ppqqr"), list("abcde")


def test_sizes_may_mix_and_progress_counts_every_attack():
    images, labels, groups, keys = mixed(np.random.default_rng(0))
    seen = []
    sets = generate(
        mean_of, images, labels, groups, keys, [named("fgsm", 2.0), named("bim", 2.0)],
        batch=2, progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert [result.spec.title for result in sets] == ["fgsm-2", "bim-2"]
    for result in sets:
        assert [p.shape for p in result.pixels] == [image.shape for image in images]
    assert seen[-1] == (10, 10)
    assert seen == sorted(seen)


def test_a_targeted_set_counts_the_target_alone(three_classes):
    task = three_classes
    targets = (task.labels.numpy() + 1) % 3
    spec = named("cw_linf", 12.0).model_copy(update={"targeted": True})
    (result,) = made(task, spec, targets=targets)
    reached = result.predicted == targets
    assert result.success.tolist() == (result.clean_correct & reached).tolist()
    assert result.success_rate > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0]}, "1 labels for 5 images"),
        ({"keys": list("aacde")}, "keys repeat"),
        ({"specs": [named("fgsm", 1.0)] * 2}, "share a name"),
        (
            {"specs": [named("fgsm", 1.0).model_copy(update={"targeted": True})]},
            "needs targets",
        ),
        ({"model": lambda pixels: mean_of(pixels) * float("nan")}, "a: the model's logits"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    images, labels, groups, keys = mixed(np.random.default_rng(0))
    arguments = {
        "model": mean_of, "images": images, "labels": labels, "groups": groups, "keys": keys,
        "specs": [named("fgsm", 1.0)],
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        generate(**{**arguments, **change})


@pytest.mark.parametrize("container", [Container.PNG8, None])
def test_a_stored_set_comes_back_as_it_was(tmp_path, container):
    images, labels, groups, keys = mixed(np.random.default_rng(1))
    spec = named("pgd", 5.0).model_copy(update={"targeted": True})
    targets = 1 - np.array(labels)
    (result,) = generate(
        mean_of, images, labels, groups, keys, [spec], targets=targets, container=container, seed=9
    )
    digest = write(tmp_path / "set", result, MODEL, shard_bytes=900)
    assert len(list((tmp_path / "set").glob("*.safetensors"))) > 1
    again = read(tmp_path / "set")
    for name in ("spec", "seed", "container", "keys", "groups", "sources", "findings"):
        assert getattr(again, name) == getattr(result, name)
    for name in ("labels", "targets", "clean_predicted", "predicted", "linf", "l2", "mean_abs"):
        assert np.array_equal(getattr(again, name), getattr(result, name))
    assert all(map(np.array_equal, again.pixels, result.pixels))
    assert read_manifest(tmp_path / "set").model == MODEL
    assert write(tmp_path / "twin", again, MODEL, shard_bytes=900) == digest
    with pytest.raises(ShardProblem, match="holds a set already"):
        write(tmp_path / "set", result, MODEL)


def test_a_stored_set_that_was_touched_is_refused(tmp_path):
    images, labels, groups, keys = mixed(np.random.default_rng(1))
    (result,) = generate(mean_of, images, labels, groups, keys, [named("fgsm", 5.0)])
    write(tmp_path, result, MODEL)
    shard, manifest = tmp_path / "pixels-00000.safetensors", tmp_path / MANIFEST
    data, text = shard.read_bytes(), manifest.read_text()

    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ShardProblem, match="SHA-256"):
        read(tmp_path)
    shard.unlink()
    with pytest.raises(ShardProblem, match="copy the whole folder"):
        read(tmp_path)
    shard.write_bytes(data)

    forged = json.loads(text)
    forged["images"][0]["success"] = not forged["images"][0]["success"]
    manifest.write_text(json.dumps(forged))
    with pytest.raises(ShardProblem, match="success"):
        read(tmp_path)
    forged = json.loads(text)
    forged["files"]["../outside"] = MODEL
    manifest.write_text(json.dumps(forged))
    with pytest.raises(ShardProblem, match="not a plain file name"):
        read(tmp_path)
    manifest.unlink()
    with pytest.raises(ShardProblem, match="finished"):
        read(tmp_path)


def test_rows_keep_everything_of_the_images_chosen(three_classes):
    (result,) = made(three_classes, named("fgsm", 4.0))
    fooled = result.rows(result.success)
    assert len(fooled) == result.success.sum()
    assert fooled.success.all()
    assert fooled.keys == tuple(k for k, s in zip(result.keys, result.success, strict=True) if s)
    assert np.array_equal(fooled.pixels[0], result.pixels[int(np.argmax(result.success))])
