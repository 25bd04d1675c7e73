"""What used to go wrong without a word: each fault as one meets it, and the line that tells."""

import errno
import json
import os
import resource
import signal
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import albar
import common
import evaluate
import omnidebias
import sdn
import smad
from common import UserError, num_frames, read_clip, read_list
from conftest import argv, ended, fails, python


# ---- What is read --------------------------------------------------------------------------------
def write_video(path, greys):
    """An MP4 of frames of one grey each."""
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for grey in greys:
            image = np.full((32, 32, 3), grey, np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        video.mux(stream.encode())
    return path


def write_cover(path):
    """A sound file whose only picture is its cover, as an MP4 that a music shop sells."""
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("mjpeg", rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 200, np.uint8), "rgb24")
        file.mux(stream.encode(image.reformat(format="yuvj420p")))
        file.mux(stream.encode())
    return path


def test_a_cover_is_no_video(tmp_path):
    path = write_cover(tmp_path / "song.mp4")
    with pytest.raises(UserError, match="song.mp4: it has no video stream"):
        num_frames(path)


def test_of_two_streams_the_default_one_is_read(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as video:
        streams = [video.add_stream("libx264", rate=8) for _ in range(2)]
        for stream in streams:
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
        streams[0].disposition = av.stream.Disposition.comment
        streams[1].disposition = av.stream.Disposition.default
        for stream, greys in zip(streams, ([0, 0], [200, 200, 200]), strict=True):
            for grey in greys:
                image = np.full((32, 32, 3), grey, np.uint8)
                video.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            video.mux(stream.encode())
    assert num_frames(path) == 3
    assert read_clip(path, [0])[0, 16, 16, 0] == pytest.approx(200, abs=3)


def test_max_bad_alone_decides_how_many_in_a_row_may_be_broken(tmp_path):
    paths = [f"{i}.png" for i in range(30)]
    for path in paths[:20]:
        (tmp_path / path).write_bytes(b"half downloaded")
    for path in paths[20:]:
        Image.new("RGB", (8, 8)).save(tmp_path / path)
    videos = common.VideoList(paths, [0] * 20 + [1] * 10, ["a", "b"], tmp_path, "", "")
    transform = common.test_transform(8, 8)
    item = common.Videos(videos, partial(common.evenly, frames=1), transform, max_bad=0.7)[0]
    assert (item["index"], item["video"], item["label"], item["bad"]) == (0, 20, 1, 1)
    with pytest.raises(UserError, match=r"16 of 30 videos cannot be read \(--max-bad 0.5\)"):
        common.Videos(videos, partial(common.evenly, frames=1), transform, max_bad=0.5)[0]


def frames_in(folder, names):
    folder.mkdir()
    for grey, name in enumerate(names):
        Image.new("RGB", (8, 8), (10 * grey,) * 3).save(folder / name)
    return folder


def test_the_rgb_series_of_a_folder_is_read(tmp_path):
    names = ["img_00002.jpg", "img_00010.jpg", "flow_x_00001.jpg", "flow_y_00001.jpg"]
    folder = frames_in(tmp_path / "v", names)
    (folder / "._img_00001.jpg").write_bytes(b"what macOS leaves")
    assert num_frames(folder) == 2
    assert read_clip(folder, [0, 1])[:, 0, 0, 0].tolist() == pytest.approx([0, 10], abs=2)
    plain = frames_in(tmp_path / "w", ["flow_x_1.png", "2.png", "1.png"])
    assert read_clip(plain, [0, 1])[:, 0, 0, 0].tolist() == [20, 10]
    odd = frames_in(tmp_path / "x", ["left_1.png", "right_1.png"])
    with pytest.raises(UserError, match=r"2 series \((left|right)_1.png, (left|right)_1.png\)"):
        num_frames(odd)


@pytest.mark.parametrize(
    "row", ["v.mp4 3 1", "v 0 3 1", "v.mp4 0 3 1"], ids=["two labels", "offset", "both"]
)
def test_almost_raw_frames(tmp_path, row):
    (tmp_path / "v.mp4").write_bytes(b"")
    (tmp_path / "v").mkdir()
    (tmp_path / "list.txt").write_text(f"{row}\n")
    with pytest.raises(UserError, match="list.txt:1: expected `path label`, or `folder frames"):
        read_list(tmp_path / "list.txt")


def test_rows_of_mixed_length(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "list.txt").write_text("v 3 1\nw 0\n")
    with pytest.raises(UserError, match="list.txt:2: expected `folder frames label` as in other"):
        read_list(tmp_path / "list.txt")


def test_another_number_of_frames_than_the_list_says(tmp_path, capsys):
    for name, count in (("a", 3), ("b", 3), ("c", 9)):
        frames_in(tmp_path / name, [f"{i}.png" for i in range(count)])
    (tmp_path / "list.txt").write_text("a 3 0\nb 4 0\nc 3 0\n")
    read_list(tmp_path / "list.txt")
    assert "1 of 3 folders hold another number of frames than the list says: c" in (
        capsys.readouterr().err
    )


def test_a_test_list_with_swapped_labels(tmp_path):
    (tmp_path / "list.txt").write_text("run/a.mp4 0\njump/b.mp4 1\n")
    with pytest.raises(UserError, match="label 0 is 'jump', and the folder is that of class 1"):
        read_list(tmp_path / "list.txt", part="test", classes=["jump", "run"])
    assert read_list(tmp_path / "list.txt", part="test", classes=["run", "jump"]).labels == [0, 1]


def test_odd_files_are_no_videos(tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    with pytest.raises(UserError, match="fifo.mp4: it is no regular file"):
        num_frames(tmp_path / "fifo.mp4")
    with pytest.raises(UserError, match="/dev/null: it is no regular file"):
        num_frames("/dev/null")
    with pytest.raises(UserError, match="no file has such a name"):
        num_frames("a\0b.mp4")


def test_a_codec_that_nobody_knows(tmp_path):
    path = write_video(tmp_path / "v.mp4", [0, 100])
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(UserError, match="v.mp4: no decoder knows its codec"):
        num_frames(path)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no /proc here")
def test_a_failing_disk_is_not_the_video_s_fault(tmp_path):
    (tmp_path / "v.mp4").symlink_to("/proc/self/mem")  # whose beginning cannot be read
    with pytest.raises(OSError) as caught:
        num_frames(tmp_path / "v.mp4")
    assert caught.value.errno == errno.EIO and not isinstance(caught.value, UserError)


def test_no_more_open_files_is_not_the_video_s_fault(tmp_path):
    path = write_video(tmp_path / "v.mp4", [0, 100])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.dup(0)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
    try:
        with pytest.raises(OSError) as caught:
            num_frames(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    assert num_frames(path) == 2


def test_the_cache_is_bounded_by_bytes(monkeypatch):
    monkeypatch.setattr(common, "CACHE_BYTES", 5000)
    read = []

    @common._remembered
    def index(path):
        read.append(path)
        return common.Index(np.zeros(100, np.int32), np.zeros(100, np.int32), {})

    for path in "aabbccaa":
        assert index(path).nbytes == 1800
    assert read == ["a", "b", "c", "a"]


# ---- Labels from 1, split, trained-on videos -----------------------------------------------------
def test_classes_without_a_training_video_are_named(flags, world, capsys):
    common.warn.cache_clear()
    lines = (world / "train.txt").read_text().splitlines()
    file = Path(flags["out"] + ".txt")
    file.write_text("".join(f"{line}\n" for line in lines if not line.endswith(" 0")))
    (file.parent / "classes.txt").write_text((world / "classes.txt").read_text())
    common.read_lists(albar.Args(**flags | dict(train=str(file), root=str(world))))
    names = (world / "classes.txt").read_text().split("\n")
    said = capsys.readouterr().err
    assert f"1 of 8 classes have no training video (labels count from 0): {names[0]}" in said


def test_the_combination_shows_its_adversary():
    args = omnidebias.Args(**omnidebias.TOY | dict(smad=True, aspect=("scene=x",)))
    net = omnidebias.build_model(args, 8, {"scene": 24, "object": 5})
    assert net.scene_head is net.adversaries["scene"]
    assert omnidebias.build_model(args, 8, {"object": 5}).scene_head is None


def test_saar_is_not_lost_to_compile_after_another_network():
    clip = torch.rand(1, 3, 8, 32, 32)
    plain = albar.build_model(albar.Args(**albar.TOY), 8)
    torch.compile(plain, backend="eager")(clip)
    net = smad.build_model(smad.Args(**smad.TOY), 8).eval()
    compiled = torch.compile(net, backend="eager")
    before = compiled(clip)
    nn.init.normal_(net.saar.score.weight)
    after = compiled(clip)
    torch.testing.assert_close(after, net(clip))
    assert not torch.allclose(after, before)


def test_validation_on_training_videos(flags, capsys):
    line = fails(capsys, argv(flags | dict(val=flags["train"])))
    assert "--val: 80 of its videos are in --train too: train/0000.mp4" in line and len(line) < 410


def test_evaluation_on_training_videos(flags, world, tmp_path, capsys):
    albar.train(albar.Args(**flags | dict(epochs=0)))
    words = [str(flags["out"]), "--test", f"{world}/train.txt"]
    with pytest.raises(SystemExit):
        common.cli(evaluate.Args, evaluate.evaluate, argv=words)
    said = capsys.readouterr().err
    assert "was trained on 80 of its 80 videos: train/0000.mp4" in said
    assert "or --allow-trained" in said
    common.cli(evaluate.Args, evaluate.evaluate, argv=[*words, "--allow-trained", "--shuffles=0"])
    assert "80 of 80 videos used" in " ".join(capsys.readouterr().out.split())
    # Other files of the same names, in another folder.
    (tmp_path / "other").mkdir()
    for path in sorted((world / "test").iterdir())[:4]:
        (tmp_path / "other" / "train").mkdir(exist_ok=True)
        (tmp_path / "other" / "train" / path.name).symlink_to(path)
    run = evaluate.load_run(flags["out"])
    videos = common.VideoList(["train/0000.mp4"], [0], run.classes, tmp_path / "other", "", "")
    assert evaluate.find_trained(run, videos) == []
    assert evaluate.find_trained(run, common.replace(videos, root=world)) == ["train/0000.mp4"]


# ---- Weights -------------------------------------------------------------------------------------
def tiny():
    torch.manual_seed(3)
    return common.Network(common.Tiny(8), 8)


@pytest.mark.parametrize("key", [*common.CONTAINERS, ""])
@pytest.mark.parametrize("prefix", ["_orig_mod.module.", "module._orig_mod.", ""])
def test_containers_and_prefixes(tmp_path, key, prefix):
    state = {f"{prefix}{k}": v for k, v in tiny().state_dict().items()}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "w.pt")
    torch.manual_seed(4)
    net = common.Network(common.Tiny(8), 8)
    common.load_weights(net, str(tmp_path / "w.pt"), "tiny")
    assert torch.equal(net.head.weight, tiny().head.weight)


def test_two_state_dicts_or_none(tmp_path):
    state = tiny().state_dict()
    torch.save({"model": state, "ema": state}, tmp_path / "two.pt")
    with pytest.raises(UserError, match="two.pt: 2 of its keys hold .*: model, ema"):
        common.read_weights(str(tmp_path / "two.pt"), "tiny")
    torch.save({"weights": state, "epoch": 1}, tmp_path / "none.pt")
    with pytest.raises(UserError, match="none.pt: 0 of its keys hold .*: weights, epoch"):
        common.read_weights(str(tmp_path / "none.pt"), "tiny")


def test_a_backbone_without_a_head_gets_a_new_one(tmp_path):
    state = {k: v for k, v in tiny().state_dict().items() if not k.startswith("head.")}
    torch.save(state, tmp_path / "w.pt")
    note = common.load_weights(tiny(), str(tmp_path / "w.pt"), "tiny")
    assert "new head of 8 classes for one of none" in note


def test_nan_and_safetensors(tmp_path):
    state = tiny().state_dict()
    state["head.bias"][2] = torch.nan
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match="w.pt: NaN or infinite numbers in head.bias"):
        common.read_weights(str(tmp_path / "w.pt"), "tiny")
    (tmp_path / "w.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="convert it once"):
        common.read_weights(str(tmp_path / "w.safetensors"), "tiny")


def test_places365_s_wide_resnet_is_built_without_the_max_pool():
    net = nn.Module()
    net.maxpool = nn.MaxPool2d(2)
    args = sdn.ScenesArgs(model="resnet18", weights="wideresnet18_places365.pth.tar")
    sdn.check_arch(net, "wideresnet18", args)
    assert isinstance(net.maxpool, nn.Identity)
    with pytest.raises(UserError, match="is of resnet50, not of --model resnet18"):
        sdn.check_arch(net, "resnet50", args)


def test_normalisation_that_weights_expect(tmp_path):
    saved = dict(list_sha1="0", classes=["a"], model=tiny().state_dict())
    saved["args"] = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    torch.save(saved, tmp_path / "w.pt")
    ours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    note = common.load_weights(tiny(), str(tmp_path / "w.pt"), "tiny", normalisation=ours)
    assert "it expects --mean 0.5 0.5 0.5 --std 0.2 0.2 0.2, and this run has others" in note
    theirs = ((0.5,) * 3, (0.2,) * 3)
    note = common.load_weights(tiny(), str(tmp_path / "w.pt"), "tiny", normalisation=theirs)
    assert "expects" not in note


# ---- Runs ----------------------------------------------------------------------------------------
def test_resume_after_files_came_back(flags, tmp_path, world, capsys):
    own = tmp_path / "own"
    for part in ("train", "val"):
        (own / part).mkdir(parents=True)
        for video in (world / part).iterdir():
            (own / part / video.name).symlink_to(video)
    gone = own / "train" / "0003.mp4"
    gone.rename(own / "0003.mp4")
    flags = flags | dict(root=str(own), max_bad=0.5, epochs=1)
    albar.train(albar.Args(**flags))
    (own / "0003.mp4").rename(gone)
    line = fails(capsys, [*argv(flags), "--resume"])
    assert "made with other training videos (are some missing, or back?)" in line
    gone.unlink()
    albar.train(albar.Args(**flags | dict(resume=True)))


def test_two_runs_in_one_folder(flags):
    flags["out"] = str(Path(flags["out"]).absolute())
    Path(flags["out"]).mkdir()
    holder = python(
        "-c",
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)",
        f"{flags['out']}/.lock",
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another run is at work there"):
            albar.train(albar.Args(**flags))
    finally:
        holder.kill()
        holder.wait()
    albar.train(albar.Args(**flags | dict(epochs=0)))


def test_a_full_disk(tmp_path):
    """A limit on the size of files stands for it."""
    common.save_checkpoint(tmp_path / "last.pt", step=1)
    before = (tmp_path / "last.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="last.pt: cannot be written, is the disk full?"):
            common.save_checkpoint(tmp_path / "last.pt", step=2, model=torch.zeros(10**6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert (tmp_path / "last.pt").read_bytes() == before


def test_later_lines_and_a_half_one_leave_the_log(tmp_path):
    lines = ['{"step": 1}\n', '{"step": 3}\n', '{"step": 5}\n', '{"st']
    (tmp_path / "log.jsonl").write_text("".join(lines))
    common.Log(tmp_path / "log.jsonl", 0, 3)(step=4)
    kept = (tmp_path / "log.jsonl").read_text()
    assert kept == '{"step": 1}\n{"step": 3}\n{"step": 4}\n'


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(classes=list("abcdefgh")), "other class names"),
        (dict(labels_sha1="x"), "other labels of the videos"),
    ],
    ids=str,
)
def test_a_checkpoint_that_cannot_be_resumed(flags, capsys, change, message):
    flags = flags | dict(epochs=1)
    albar.train(albar.Args(**flags | dict(epochs=0)))
    last = Path(flags["out"]) / "last.pt"
    saved = torch.load(last, weights_only=True)
    saved["args"]["epochs"] = 1
    torch.save(saved | change, last)
    assert message in fails(capsys, [*argv(flags), "--resume"])


def test_two_processes_share_the_videos_and_give_the_figures_of_one(flags, world, tmp_path):
    albar.train(albar.Args(**flags | dict(epochs=0)))
    words = ["evaluate.py", flags["out"], "--test", f"{world}/val.txt", "--batch-size", 7]
    words += ["--scuba", f"photo={world}/scuba-photo.txt"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    with ended(python(*words, "--out", tmp_path / "one", OMP_NUM_THREADS=1)) as (out, err):
        assert out.count("| **accuracy**") == 1, err
    two = [*torchrun, *words, "--out", tmp_path / "two"]
    with ended(python(*two, OMP_NUM_THREADS=1)) as (out, err):
        assert out.count("| **accuracy**") == 1, err
    with np.load(tmp_path / "one/evaluate.npz") as one, np.load(tmp_path / "two/evaluate.npz") as b:
        assert len(one["test/paths"]) % 14 > 0  # they do not divide
        assert {"scufo-photo/order", "shuffled-2/logits"} <= set(one) == set(b)
        for name in one:
            assert np.array_equal(one[name], b[name]), name
    reports = []
    for name in ("one", "two"):
        reports.append(json.loads((tmp_path / name / "evaluate.json").read_text())["checkpoint"])
    assert reports[0] == reports[1]


def test_long_messages_are_cut():
    text = common.one_line(UserError("begin " + "x " * 1000 + "the end"))
    assert len(text) == 400 and text.startswith("begin") and text.endswith("the end")
    assert common.shortened(range(9), 3) == "0, 1, 2 and 6 more"


def test_a_killed_loader_ends_with_one_line(flags, capsys, monkeypatch):
    def die(self, key):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(common.Videos, "__getitem__", die)
    line = fails(capsys, argv(flags | dict(workers=1, cache=False)))
    assert "DataLoader worker" in line and "lower --workers" in line
