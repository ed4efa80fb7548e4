"""Adversarial sets: what is counted, on which pixels, and that storing one keeps it whole."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.container import PNG8, Container
from attacks.crew import Threads
from attacks.generate import Sources, bench_of, generate
from attacks.part_store import PartStore
from attacks.registry import named
from attacks.sets import Written, write_sets
from attacks.shards import MANIFEST, ShardProblem, by_digest, read
from attacks.work import attack_unit
from models.imaging.decode import decode

MODEL = "sha256:" + "0" * 64


def names(task) -> tuple[list[str], list[str]]:
    keys = [f"image-{i}" for i in range(len(task.pixels))]
    return [f"patient-{i // 2}" for i in range(len(task.pixels))], keys


def made(task, *specs, **options):
    groups, keys = names(task)
    sources = Sources(task.images, task.labels.numpy(), groups, keys, options.pop("targets", None))
    return generate(bench_of(task.model, attempts=True, **options), specs, sources)


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


def test_results_depend_on_neither_order_nor_company_nor_workers(three_classes):
    task = three_classes
    groups, keys = names(task)
    spec = named("pgd", 3.0)
    (whole,) = made(task, spec, seed=5)
    chosen = [31, 4, 17]
    some = Sources(
        [task.images[i] for i in chosen],
        task.labels.numpy()[chosen],
        [groups[i] for i in chosen],
        [keys[i] for i in chosen],
    )
    bench = bench_of(task.model, seed=5, attempts=True)
    for crew in (Threads(1), Threads(3)):
        (part,) = generate(bench, [spec], some, crew=crew)
        for i, pixels in zip(chosen, part.pixels, strict=True):
            assert np.array_equal(whole.pixels[i], pixels)
    (other,) = made(task, spec, seed=6)
    assert not all(map(np.array_equal, whole.pixels, other.pixels))


def test_a_failure_comes_back_as_it_was_unless_attempts_are_kept(three_classes):
    task = three_classes
    (kept,) = made(task, named("pgd", 4.0))
    groups, keys = names(task)
    sources = Sources(task.images, task.labels.numpy(), groups, keys)
    (given,) = generate(bench_of(task.model), [named("pgd", 4.0)], sources)
    assert given.success.tolist() == kept.success.tolist()
    assert 0 < given.success.sum() < len(given)
    for i, success in enumerate(given.success):
        if success:
            assert np.array_equal(given.pixels[i], kept.pixels[i])
        else:
            assert np.array_equal(given.pixels[i], task.images[i])
            assert given.linf[i] == 0
            assert given.predicted[i] == given.clean_predicted[i]
    assert kept.linf[~kept.success].max() == 4.0


def test_passes_are_counted_for_every_image(three_classes):
    (result,) = made(three_classes, named("bim", 2.0, {"steps": 7}))
    assert result.forwards.tolist() == [7] * len(result)
    assert result.backwards.tolist() == [7] * len(result)


def test_findings_are_attacked_against_the_models_own_answers(findings):
    groups, keys = names(findings)
    bench = bench_of(findings.model, multilabel=True, attempts=True)
    sources = Sources(findings.images, findings.labels.numpy(), groups, keys)
    (result,) = generate(bench, [named("pgd", 8.0)], sources)
    assert result.clean_correct.all()
    assert result.labels.shape == (len(result), 3)
    differs = (result.predicted != result.clean_predicted).any(axis=1)
    assert result.success.tolist() == differs.tolist()
    assert result.success_rate > 0.5


def mean_of(pixels: Tensor) -> Tensor:
    level = pixels.mean(dim=(1, 2, 3)) / 10
    return torch.stack([level, 12 - level], dim=1)


def mixed(rng: np.random.Generator):
    shapes = [(16, 20, 1), (18, 18, 3), (16, 20, 1), (18, 18, 3), (18, 18, 3)]
    images = [rng.integers(110, 136, shape, dtype=np.uint8) for shape in shapes]
    return images, [1, 0, 1, 0, 1], list("ppqqr"), list("abcde")


def sources_of(images, labels, groups, keys, targets=None) -> Sources:
    return Sources(images, np.array(labels), groups, keys, targets)


def test_sizes_may_mix_and_progress_counts_every_attack():
    mix = sources_of(*mixed(np.random.default_rng(0)))
    seen = []
    sets = generate(
        bench_of(mean_of),
        [named("fgsm", 2.0), named("bim", 2.0)],
        mix,
        progress=lambda spec, part: seen.append((spec.title, len(part.linf))),
    )
    assert [result.spec.title for result in sets] == ["fgsm-2", "bim-2"]
    for result in sets:
        assert [p.shape for p in result.pixels] == [image.shape for image in mix.images]
    assert seen == [("fgsm-2", 2), ("fgsm-2", 3), ("bim-2", 2), ("bim-2", 3)]


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
        ({"specs": [named("fgsm", 1.0)] * 2}, "share a title"),
        (
            {"specs": [named("fgsm", 1.0).model_copy(update={"targeted": True})]},
            "needs targets",
        ),
        ({"model": lambda pixels: mean_of(pixels) * float("nan")}, "logits are not finite"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    images, labels, groups, keys = mixed(np.random.default_rng(0))
    arguments = {
        "model": mean_of, "images": images, "labels": labels, "groups": groups, "keys": keys,
        "specs": [named("fgsm", 1.0)],
    }  # fmt: skip
    arguments |= change
    model, specs = arguments.pop("model"), arguments.pop("specs")
    with pytest.raises(ValueError, match=message):
        generate(bench_of(model), specs, sources_of(**arguments))


def written(out, bench, specs, sources, **options) -> list[Written]:
    done: list[Written] = []
    classes = ["first", "second", "third"]
    write_sets(bench, specs, sources, out, classes=classes, finished=done, **options)
    return done


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("container", [PNG8, Container.parse("jpeg:80"), None], ids=str)
def test_a_stored_set_comes_back_as_it_was(tmp_path, container):
    images, labels, groups, keys = mixed(np.random.default_rng(1))
    spec = named("pgd", 5.0).model_copy(update={"targeted": True})
    mix = sources_of(images, labels, groups, keys, 1 - np.array(labels))
    bench = bench_of(mean_of, digest=MODEL, container=container, seed=9)
    (result,) = generate(bench, [spec], mix)
    (item,) = written(tmp_path, bench, [spec], mix, files=True)
    again = read(item.folder, by_digest(images))
    for name in ("spec", "seed", "container", "keys", "groups", "sources", "findings"):
        assert getattr(again, name) == getattr(result, name)
    for name in ("labels", "targets", "clean_predicted", "predicted", "linf", "l2", "forwards"):
        assert np.array_equal(getattr(again, name), getattr(result, name))
    assert all(map(np.array_equal, again.pixels, result.pixels))
    if container is not None:
        files = sorted((item.folder / "files").iterdir())
        for file, pixels in zip(files, result.pixels, strict=True):
            assert np.array_equal(decode(file.read_bytes(), container.media_type).pixels, pixels)


def test_findings_survive_storing(tmp_path, findings):
    groups, keys = names(findings)
    sources = Sources(findings.images, findings.labels.numpy(), groups, keys)
    bench = bench_of(findings.model, digest=MODEL, multilabel=True)
    (item,) = written(tmp_path, bench, [named("pgd", 6.0)], sources)
    again = read(item.folder, by_digest(findings.images))
    assert again.labels.dtype == np.bool_
    assert again.success.tolist() == item.outcome.success.tolist()


def test_what_was_stopped_goes_on_and_ends_the_same(tmp_path, three_classes):
    groups, keys = names(three_classes)
    sources = Sources(three_classes.images, three_classes.labels.numpy(), groups, keys)
    bench = bench_of(three_classes.model, digest=MODEL)
    specs = [named("pgd", 2.0), named("bim", 2.0)]
    written(tmp_path / "whole", bench, specs, sources)

    class Stopped(Exception):
        pass

    made: list[str] = []

    def stop_late(spec, part) -> None:
        made.append(spec.title)
        if len(made) == 16:
            raise Stopped

    store = PartStore(tmp_path / "cache")
    with pytest.raises(Stopped):
        written(tmp_path / "out", bench, specs, sources, store=store, progress=stop_late)
    assert not (tmp_path / "out" / "bim-2" / MANIFEST).exists(), "an unfinished set has no manifest"
    stored = len(list((tmp_path / "cache").rglob("*.safetensors")))
    assert stored >= 16
    done = written(tmp_path / "out", bench, specs, sources, store=store)
    assert [item.made_before for item in done] == [True, False]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    other = bench_of(three_classes.model, digest=MODEL, seed=1)
    with pytest.raises(ShardProblem, match="made from other images"):
        written(tmp_path / "out", other, specs, sources, store=store)


def test_a_part_that_waits_for_a_slower_one_is_stored_already(tmp_path, three_classes, monkeypatch):
    groups, keys = names(three_classes)
    labels = three_classes.labels.numpy()[:1]
    one = Sources(three_classes.images[:1], labels, groups[:1], keys[:1])
    bench, store = bench_of(three_classes.model, digest=MODEL), PartStore(tmp_path)
    later_one_stored, put = Event(), PartStore.put

    def slow_first(bench, unit):
        if unit.spec.name == "pgd":
            assert later_one_stored.wait(60)
        return attack_unit(bench, unit)

    def told(self, digest, part):
        put(self, digest, part)
        later_one_stored.set()

    monkeypatch.setattr("attacks.crew.attack_unit", slow_first)
    monkeypatch.setattr(PartStore, "put", told)
    specs = [named("pgd", 2.0), named("fgsm", 2.0)]
    generate(bench, specs, one, crew=Threads(2), store=store)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_a_stored_part_that_was_cut_short_is_made_again(tmp_path, three_classes):
    groups, keys = names(three_classes)
    sources = Sources(three_classes.images, three_classes.labels.numpy(), groups, keys)
    bench, spec = bench_of(three_classes.model, digest=MODEL), named("fgsm", 3.0)
    store = PartStore(tmp_path)
    (first,) = generate(bench, [spec], sources, store=store)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-9])
    (again,) = generate(bench, [spec], sources, store=store)
    assert all(map(np.array_equal, first.pixels, again.pixels))


def test_a_stored_set_that_was_touched_is_refused(tmp_path):
    mix = sources_of(*mixed(np.random.default_rng(1)))
    (item,) = written(tmp_path, bench_of(mean_of, digest=MODEL), [named("fgsm", 5.0)], mix)
    folder, sources = item.folder, by_digest(mix.images)
    shard, manifest = folder / "perturbations-00000.safetensors", folder / MANIFEST
    data, text = shard.read_bytes(), manifest.read_text()
    with pytest.raises(ShardProblem, match="does not have"):
        read(folder, {})

    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ShardProblem, match="SHA-256"):
        read(folder, sources)
    shard.unlink()
    with pytest.raises(ShardProblem, match="copy the whole folder"):
        read(folder, sources)
    shard.write_bytes(data)

    forged = json.loads(text)
    forged["images"][0]["success"] = not forged["images"][0]["success"]
    manifest.write_text(json.dumps(forged))
    with pytest.raises(ShardProblem, match="success"):
        read(folder, sources)
    forged = json.loads(text)
    forged["images"][0]["shard"] = "../outside"
    forged["files"]["../outside"] = MODEL
    manifest.write_text(json.dumps(forged))
    with pytest.raises(ShardProblem, match="not a plain file name"):
        read(folder, sources)
    manifest.unlink()
    with pytest.raises(ShardProblem, match="finished"):
        read(folder, sources)


def test_rows_keep_everything_of_the_images_chosen(three_classes):
    (result,) = made(three_classes, named("fgsm", 4.0))
    fooled = result.rows(result.success)
    assert len(fooled) == result.success.sum()
    assert fooled.success.all()
    assert fooled.keys == tuple(k for k, s in zip(result.keys, result.success, strict=True) if s)
    assert np.array_equal(fooled.pixels[0], result.pixels[int(np.argmax(result.success))])
