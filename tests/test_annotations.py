"""evaluate.py list and check: other data sets' lists, by exact lines of small made-up files and by
the counts of real ones (skipped where ../shared is absent), and what check says of videos."""

import json
from pathlib import Path

import pytest
from conftest import command
from PIL import Image

import common
import evaluate
from common import UserError
from evaluate import CheckArgs, ListArgs

ANNOTATIONS = Path(__file__).resolve().parents[2] / "shared" / "assets" / "annotations"
real = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="no real annotation files here")


@pytest.fixture
def write(tmp_path):
    """write("name", text, or what is to be JSON) -> its path in tmp_path"""

    def write(name, content=""):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, str):
            content = json.dumps(content)
        file.write_bytes(content.encode())
        return str(file)

    return write


@pytest.fixture
def listed(capsys):
    """listed(file, flags) -> the lines of the plain list, what is said on stderr"""

    def listed(file, **flags):
        evaluate.list_videos(ListArgs(file=str(file), **flags))
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1
        return printed.out.splitlines(), printed.err.strip().removeprefix(f"{file}: ")

    return listed


def refused(file, **flags):
    """-> what list says of a file that it does not take, less the file's name"""
    with pytest.raises(UserError) as caught:
        evaluate.list_videos(ListArgs(file=str(file), **flags))
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(file))


BY_NAMES = "labels by the sorted names in it (for all lists of a data set: --labels FILE)"

# ---- Kinetics ------------------------------------------------------------------------------------
KINETICS = (
    "label,youtube_id,time_start,time_end,split,is_cc\n"
    "zumba,-wR5jVB-WPk,417,427,val,0\n"
    '"arm wrestling",_x,8,18,val,1\n'
)


def test_kinetics(write, listed):
    lines, said = listed(write("val.csv", "\ufeff" + KINETICS.replace("\n", "\r\n")))
    assert lines == [
        "zumba/-wR5jVB-WPk_000417_000427.mp4 1",
        "arm wrestling/_x_000008_000018.mp4 0",
    ]
    assert said == f"Kinetics' CSV, 2 videos of 2 of 2 classes, {BY_NAMES}"


@pytest.mark.parametrize(
    "names",
    [
        "abseiling\narm_wrestling\nzumba\n",
        "0 abseiling\n1 Arm Wrestling\n2 zumba\n",
        "1 abseiling\n2 arm wrestling\n3 zumba\n",
        "zumba,2\nabseiling,0\narm wrestling,1\n",
        ["abseiling", "arm wrestling", "zumba"],
        {"zumba": "2", "arm wrestling": "1", "abseiling": "0"},
        {"zumba": 2, "arm wrestling": 1, "abseiling": 0},
    ],
)
def test_files_of_class_names(write, listed, names):
    labels = write("names", names)
    lines, said = listed(write("val.csv", KINETICS), labels=labels)
    assert [line[-1] for line in lines] == ["2", "1"]
    assert said == f"Kinetics' CSV, 2 videos of 2 of 3 classes, labels of {labels}"


@pytest.mark.parametrize("names", ["", {"a": 0, "b": 2}, {"a": [1]}, "0 a\n0 b\n2 c\n"])
def test_bad_files_of_class_names(write, names):
    labels = write("names", names)
    with pytest.raises(UserError, match="its labels are not 0, 1, 2, ..., each with a name"):
        evaluate.list_videos(ListArgs(file=write("val.csv", KINETICS), labels=labels))


def test_kinetics_as_it_lies_on_disk(write, listed, tmp_path):
    file = write("val.csv", KINETICS + "zumba,gone,0,10,val,0\narm wrestling,flat,0,10,val,0\n")
    write("videos/zumba/-wR5jVB-WPk_000417_000427.webm")
    write("videos/arm_wrestling/_x_000008_000018/img_1.jpg")
    write("videos/flat_000000_000010.mp4")
    lines, said = listed(file, root=str(tmp_path / "videos"))
    assert lines == [
        "zumba/-wR5jVB-WPk_000417_000427.webm 1",
        "arm_wrestling/_x_000008_000018 0",
        "zumba/gone_000000_000010.mp4 1",
        "flat_000000_000010.mp4 0",
    ]
    assert said.endswith(
        f"; listed all the same: 1 that are not in {tmp_path}/videos: zumba/gone_000000_000010.mp4"
    )
    with pytest.raises(UserError, match="no such folder"):
        evaluate.list_videos(ListArgs(file=file, root=str(tmp_path / "elsewhere")))


@pytest.mark.parametrize(
    "line", ["zumba,x,ten,20,val,0", "zumba,x,10,20", "zumba, again,x,10,20,val,0", ",x,1,2,val,0"]
)
def test_a_malformed_line_is_named(write, line):
    said = refused(write("val.csv", KINETICS + line + "\n"))
    assert said.startswith(":4: no video or no class as Kinetics' CSV has it")
    assert said.endswith(f"mend or remove it: {line!r}")


def test_a_test_list_and_an_unknown_class(write):
    test_list = write("test.csv", "youtube_id,time_start,time_end,split\n-x,17,27,test\n")
    assert "lists of test videos have none" in refused(test_list)
    said = refused(write("val.csv", KINETICS), labels=write("names", "zumba\n"))
    assert said.startswith(":3: 'arm wrestling' is no class of ") and "--labels FILE" in said


# ---- Something-Something v2, Diving48, Jester, FineGym, Moments in Time --------------------------
SOMETHING = [
    {"id": "7", "label": "tissue up", "template": "Moving [something] up", "placeholders": ["t"]},
    {"id": "12", "label": "a", "template": "[Something] up", "placeholders": ["a"]},
]


def test_something(write, listed, tmp_path):
    labels = write("labels.json", {"Something up": "0", "Moving something up": "1"})
    lines, said = listed(write("train.json", SOMETHING), labels=labels)
    assert lines == ["7.webm 1", "12.webm 0"]
    assert said == (
        f"Something-Something v2's JSON, 2 videos of 2 of 2 classes, labels of {labels}"
    )
    write("videos/7.mp4")
    write("videos/12.webm")
    lines, _ = listed(tmp_path / "train.json", labels=labels, root=str(tmp_path / "videos"))
    assert lines == ["7.mp4 1", "12.webm 0"]


def test_something_that_lacks_what_is_needed(write):
    assert "--labels FILE" in refused(write("train.json", SOMETHING))
    labels = write("labels.json", {"Something up": "0"})
    said = refused(write("train.json", SOMETHING), labels=labels)
    assert said.startswith(": record 0: 'Moving something up' is no class of ")
    said = refused(write("test.json", [{"id": "1420"}]))
    assert said.startswith(": record 0: no video or no class as Something-Something v2's JSON")


def test_diving48(write, listed):
    dives = [{"vid_name": "a_1", "label": 2, "start_frame": 0, "end_frame": 90}]
    dives += [{"vid_name": "a_2", "label": 0, "start_frame": 0, "end_frame": 88}]
    file = write("train.json", dives)
    assert listed(file) == (
        ["a_1.mp4 2", "a_2.mp4 0"],
        "Diving48's JSON, 2 videos of 2 classes, labels as in the file",
    )
    vocabulary = [["Back", "15som", "FREE"], ["Back", "25som", "PIKE"]]
    said = refused(file, labels=write("vocab.json", vocabulary))
    assert said == ": record 0: label 2 is outside the 2 classes, 0 to 1"
    for label in (-1, 1.5, None):
        dives[1]["label"] = label
        assert refused(write("train.json", dives)).startswith(": record 1: ")


def test_jester(write, listed, tmp_path):
    file = write("validation.csv", "9223;Thumb Up\r\n107;Swiping Left\r\n")
    labels = write("labels.csv", "Swiping Left\nThumb Up\n")
    write("videos/9223/00001.jpg")
    write("videos/107/00001.jpg")
    lines, said = listed(file, labels=labels, root=str(tmp_path / "videos"))
    assert lines == ["9223 1", "107 0"]
    assert said == f"Jester's CSV, 2 videos of 2 of 2 classes, labels of {labels}"
    assert "--labels FILE" in refused(file)
    assert "in a known form" in refused(write("test.csv", "109621\n145149\n"))


def test_finegym(write, listed):
    clip = "A0xAXXysHUo_E_002184_002237_A_0035_0036"
    lines, said = listed(write("train.txt", f"{clip} 93\r\n-{clip} 0\r\n"))
    assert lines == [f"{clip}.mp4 93", f"-{clip}.mp4 0"]
    assert said == "FineGym's list, 2 videos of 2 classes, labels as in the file"
    # The same as a plain list.
    assert listed(write("plain.txt", f"{clip}.mp4 93\n"))[0] == [f"{clip}.mp4 93"]
    assert refused(write("train.txt", f"{clip} 93\n{clip} x\n")).startswith(":2: 'x' is no class")


@pytest.mark.parametrize(
    "text",
    [
        "singing/yt-a_2.mp4,singing,4,0\nadult+female+singing/b.mp4,adult+female+singing,3,1\n",
        "yt-a_2,singing,90\r\nb,adult+female+singing,75\r\n",
    ],
    ids=["official", "derived"],
)
def test_moments_in_time(write, listed, text):
    lines, said = listed(write("validation.csv", text))
    assert lines == ["singing/yt-a_2.mp4 1", "adult+female+singing/b.mp4 0"]
    assert said == f"Moments in Time's CSV, 2 videos of 2 of 2 classes, {BY_NAMES}"


def test_csv_of_files(write, listed):
    text = "filename,actual_label,label\nblowing/a.mp4,blowing,inflating\nb/b.mp4,b,b\n"
    lines, said = listed(write("validation.csv", text))
    assert lines == ["blowing/a.mp4 1", "b/b.mp4 0"]


# ---- ActivityNet and 3D-ResNets ------------------------------------------------------------------
def segments(*actions):
    return [{"segment": [1.0, 2.5], "label": action} for action in actions]


def test_activitynet(write, listed, tmp_path):
    videos = {
        "v_a": {"annotations": segments("Ballet", "Ballet")},
        "v_b": {"annotations": segments("Ballet", "Surfing")},
        "v_c": {"annotations": []},
        "v_-d": {"annotations": segments("Archery")},
    }
    lines, said = listed(write("bmn.json", videos))
    assert lines == ["v_a.mp4 1", "v_-d.mp4 0"]
    assert said == (
        f"ActivityNet's JSON, 2 videos of 2 of 2 classes, {BY_NAMES}; left out: 1 of several "
        "classes; left out: 1 without annotations, as test sets"
    )
    # The file of names has a header.
    names = write("action_name.csv", "action\nSurfing\nBallet\nArchery\n")
    assert listed(tmp_path / "bmn.json", labels=names)[0] == ["v_a.mp4 1", "v_-d.mp4 2"]
    del videos["v_-d"]["annotations"]
    assert refused(write("bmn.json", videos)).startswith(": 'v_-d': no video or no class")


def test_activitynet_official(write, listed, tmp_path):
    database = {
        "a": {"subset": "training", "annotations": segments("Ballet")},
        "b": {"subset": "training", "annotations": segments("Archery", "Archery")},
        "c": {"subset": "testing", "annotations": []},
    }
    file = write("v1-3.json", {"version": "1.3", "taxonomy": [], "database": database})
    assert refused(file) == ": name one of its subsets with --subset: training (2), testing (1)"
    assert "training (2)" in refused(file, subset="validation")
    assert refused(file, subset="testing") == ": no video in it has a class"
    write("videos/v_a.mkv")
    write("videos/b.mp4")
    lines, said = listed(file, subset="training", root=str(tmp_path / "videos"))
    assert lines == ["v_a.mkv 1", "b.mp4 0"]
    assert said.endswith("; left out: 1 of other subsets")


def test_3d_resnets(write, listed, tmp_path):
    database = {
        "v_Ham_g01_c01": {"subset": "training", "annotations": {"label": "HammerThrow"}},
        "v_HAM_g02_c01": {
            "subset": "validation",
            "annotations": {"label": "Hammering", "segment": [1, 122]},
        },
        "#20_[x]; y_": {"subset": "validation", "annotations": {"label": "HammerThrow"}},
    }
    # UCF101's order, which is not that of sorted().
    content = {"labels": ["Hammering", "HammerThrow"], "database": database}
    file = write("ucf.json", content)
    assert "training (1), validation (2)" in refused(file)
    assert listed(file, subset="training")[0] == ["HammerThrow/v_Ham_g01_c01.avi 1"]
    write("videos/Hammering/v_HAM_g02_c01.mp4")
    lines, said = listed(file, subset="validation", root=str(tmp_path / "videos"))
    assert lines == ["Hammering/v_HAM_g02_c01.mp4 0", "HammerThrow/#20_[x]; y_.avi 1"]
    assert said.startswith("3D-ResNets' JSON, 2 videos of 2 of 2 classes, labels as in the file;")
    content["labels"] = ["Hammering"]
    said = refused(write("ucf.json", content), subset="training")
    assert said.startswith(": 'v_Ham_g01_c01': 'HammerThrow' is no class of ")


# ---- Lists that the scripts take, and files that are none ----------------------------------------
def test_plain_lists(write, listed, tmp_path):
    file = write("list.txt", "./a b/c.mp4 1\nd 7.mp4 0\n")
    assert listed(file) == (["a b/c.mp4 1", "d 7.mp4 0"], "plain list, 2 videos of 2 classes")
    assert "label 1 is outside the 1 classes" in refused(file, labels=write("names", "x\n"))
    assert "a list has none" in refused(file, subset="train")
    (tmp_path / "v x").mkdir()
    assert listed(write("frames.txt", "v x 119 3\n"), root=str(tmp_path))[0] == ["v x 3"]


def test_lists_of_ucf101_and_hmdb51(write, listed, tmp_path):
    file = write("testlist01.txt", "Hammering/v_H_g01_c01.avi\r\nHammerThrow/v_H_g02_c01.avi\r\n")
    assert "--labels FILE" in refused(file)
    names = write("names.txt", "1 Hammering\n2 HammerThrow\n")
    lines = ["Hammering/v_H_g01_c01.avi 0", "HammerThrow/v_H_g02_c01.avi 1"]
    assert listed(file, labels=names)[0] == lines
    write("classInd.txt", "1 Hammering\r\n2 HammerThrow\r\n")
    assert listed(file) == (lines, "UCF101 list, 2 videos of 2 classes")
    write("splits/climb_test_split2.txt", "c.avi 2 \nd e.avi 1 \n")
    assert listed(tmp_path / "splits", split=2)[0] == ["climb/d e.avi 0"]
    assert listed(tmp_path / "splits", split=2, subset="test")[0] == ["climb/c.avi 0"]


def test_a_list_of_class_folders(write, listed):
    names = write("names.txt", "kick\nkick_ball\n")
    lines, _ = listed(write("all.txt", "kick_ball/a;b\nhmdb/kick/c.mp4\n"), labels=names)
    assert lines == ["kick_ball/a;b.avi 1", "hmdb/kick/c.mp4 0"]


@pytest.mark.parametrize(
    "content",
    [
        {"action": ["run", "jump"]},
        {"version": "1.3", "results": {"a": [{"score": 1.0, "label": "x"}]}},
        {},
        [["Back", "15som"], ["Back", "25som"]],
        [{"video_dir": "x", "label": 1}],
        "Tag,Category\nrun,action\n",
        "clapping\ndropping\n",
        "Abuse028.mp4  Abuse  165  240  -1  -1  \n",
    ],
)
def test_files_that_are_no_lists(write, content):
    assert refused(write("file", content)).startswith(": no list of videos and their classes")


def test_broken_files(write, tmp_path):
    assert refused(write("cut.json", '[{"id": "7", "temp')).startswith(": it begins as JSON and is")
    assert refused(write("empty.txt")) == ": empty list"
    assert "No such file" in refused(tmp_path / "gone.csv")
    with pytest.raises(UserError, match="name a list"):
        evaluate.list_videos(ListArgs())


# ---- The real files ------------------------------------------------------------------------------
MAPS = "mmaction2_label_maps"
FEWSHOT = "something-something-v2/something_else_fewshot"
REAL = [
    # file, flags, videos, classes among them
    ("kinetics/kinetics-400_val.csv", {}, 19906, 400),
    (
        "kinetics/kinetics-400_val.csv",
        {"labels": f"{MAPS}/kinetics/label_map_k400.txt"},
        19906,
        400,
    ),
    (
        "kinetics/kinetics-600_val_GesRec_variant_first2000.csv",
        {"labels": f"{MAPS}/kinetics/label_map_k600.txt"},
        2000,
        41,
    ),
    (
        f"{FEWSHOT}/base_validation_set_first2000.json",
        {"labels": f"{FEWSHOT}/base_labels.json"},
        2000,
        87,
    ),
    (
        f"{FEWSHOT}/finetune_5shot_training.json",
        {"labels": f"{FEWSHOT}/finetune_labels.json"},
        430,
        86,
    ),
    ("jester/jester-v1-validation.csv", {"labels": "jester/jester-v1-labels.csv"}, 14787, 27),
    ("jester/jester-v1-train_first2000.csv", {"labels": "jester/jester-v1-labels.csv"}, 2000, 27),
    ("finegym/gym99_val_element.txt", {"labels": f"{MAPS}/gym/label_map.txt"}, 8521, 99),
    ("finegym/gym99_train_element_v1.1.txt", {}, 26320, 99),
    # Of 2000, 484 without annotations and 2 of two classes.
    (
        "activitynet/anet_anno_action_first2000.json",
        {"labels": "activitynet/action_name.csv"},
        1514,
        200,
    ),
    (
        "moments_in_time/btsnet_validation_first2000.csv",
        {"labels": f"{MAPS}/mit/label_map.txt"},
        2000,
        20,
    ),
    ("moments_in_time/AVMIT_validation.csv", {}, 736, 16),
    ("thumos14/thumos14.json", {"subset": "validation"}, 173, 19),
    ("hmdb51/hmdb_videos_list.txt", {"labels": f"{MAPS}/hmdb51/label_map.txt"}, 6766, 51),
    ("jhmdb/all_928_clips.txt", {"labels": f"{MAPS}/hmdb51/label_map.txt"}, 928, 21),
    ("jhmdb/DERIVED_hmdb_split1_projection.csv", {"subset": "train"}, 665, 21),
    ("aras/aras_test_balance.txt", {}, 1038, 104),
    ("kinetics/paddlevideo_lists/train_small_videos.list", {}, 32256, 2),
    ("kinetics/paddlevideo_lists/val_small_videos.list", {}, 128, 2),
    ("kinetics/paddlevideo_lists/train_small_frames_first2000.list", {}, 2000, 2),
    ("kinetics/paddlevideo_lists/val_small_frames.list", {}, 200, 2),
    ("kinetics/kinetics400_tiny_lists/kinetics_tiny_train_video.txt", {}, 74, 2),
    ("kinetics/kinetics400_tiny_lists/kinetics_tiny_val_video.txt", {}, 20, 2),
    ("ucf101/rawframe_lists/train_rgb_split1.txt", {}, 9537, 101),
    ("ucf101/rawframe_lists/val_rgb_split1.txt", {}, 3783, 101),
    ("ucf101/ucfTrainTestlist/trainlist02.txt", {}, 9586, 101),
    ("ucf101/ucfTrainTestlist/testlist03.txt", {}, 3696, 101),
    ("hmdb51/testTrainMulti_7030_splits", {"split": 3}, 3570, 51),
    ("hmdb51/testTrainMulti_7030_splits", {"subset": "test"}, 1530, 51),
]
UCF101 = "ucf101/{}/ucf101_01.json"
HMDB51 = "hmdb51/3dresnets_json/hmdb51_{}.json"
REAL += [
    (UCF101.format("3dresnets_json"), {"subset": "validation"}, 3783, 101),
    (UCF101.format("3dresnets_json_with_segment"), {"subset": "training"}, 9537, 101),
    (HMDB51.format(1), {"subset": "training"}, 3570, 51),
    (HMDB51.format(2), {"subset": "validation"}, 1530, 51),
    (HMDB51.format(3), {"subset": "validation"}, 1530, 51),
]


@real
@pytest.mark.parametrize("name, flags, videos, classes", REAL)
def test_real_counts(write, listed, name, flags, videos, classes):
    if "labels" in flags:
        flags = flags | {"labels": str(ANNOTATIONS / flags["labels"])}
    lines, _ = listed(ANNOTATIONS / name, **flags)
    assert len(lines) == videos
    pairs = [tuple(line.rsplit(" ", 1)) for line in lines]
    assert len({label for _, label in pairs}) == classes
    # What is printed is the list that the scripts read.
    again = common.read_list(write("plain/train.txt", "\n".join(lines)))
    assert again.kind == "plain"
    assert pairs == [(p, str(k)) for p, k in zip(again.paths, again.labels, strict=True)]


def label_map(name):
    return (ANNOTATIONS / MAPS / name).read_text().splitlines()


@real
def test_real_labels_are_the_official_ones(listed):
    kinetics = listed(ANNOTATIONS / "kinetics/kinetics-400_val.csv")[0]
    names = label_map("kinetics/label_map_k400.txt")
    assert all(line.split("/")[0] == names[int(line.rsplit(" ", 1)[1])] for line in kinetics)
    file = ANNOTATIONS / "ucf101/3dresnets_json/ucf101_01.json"
    resnets = listed(file, subset="training")[0]
    official = listed(ANNOTATIONS / "ucf101/ucfTrainTestlist/trainlist01.txt")[0]
    assert sorted(resnets) == sorted(official)
    resnets = listed(ANNOTATIONS / HMDB51.format(2), subset="validation")[0]
    folder = ANNOTATIONS / "hmdb51/testTrainMulti_7030_splits"
    assert sorted(resnets) == sorted(listed(folder, split=2, subset="test")[0])
    # ActivityNet's own order, which is not that of sorted().
    labels = str(ANNOTATIONS / "activitynet/action_name.csv")
    lines = listed(ANNOTATIONS / "activitynet/anet_anno_action_first2000.json", labels=labels)[0]
    ballet = label_map("activitynet/label_map.txt").index("Ballet")
    assert lines[0] == f"v_QOlSCBRmfWY.mp4 {ballet}"
    # Something-Something's official id, of its one clip here.
    names = str(
        ANNOTATIONS / "something-something-v2/something-something-v2-labels_RECONSTRUCTED.json"
    )
    assert evaluate.read_names(names)[57] == "Poking something so that it falls over"


@pytest.mark.parametrize("line", ["{label} {name}", "{label}\t{name}", "{name},{label}", "{name}"])
def test_names_of_classes(tmp_path, line):
    names = ["brush hair", "cartwheel", "catch"]
    lines = [line.format(label=label, name=name) for label, name in enumerate(names)]
    (tmp_path / "names").write_text("\n".join(lines))
    assert evaluate.read_names(tmp_path / "names") == names


@real
def test_real_list_of_class_folders(write, listed):
    file = ANNOTATIONS / "ucf_crime/Anomaly_Train.txt"
    folders = sorted({line.split("/")[0] for line in file.read_text().split()})
    lines, _ = listed(file, labels=write("names.txt", folders))
    assert len(lines) == 1610
    assert lines[0] == f"Abuse/Abuse001_x264.mp4 {folders.index('Abuse')}"


@real
def test_real_lists_without_labels():
    for name in (
        "kinetics/kinetics-400_test.csv",
        "kinetics/mini-kinetics-200/val_ytid_list.txt",
        "jester/jester-v1-test.csv",
        "activitynet/video_info_new.csv",
        "activitynet/sample_detection_prediction.json",
        "hvu/label_map.json",
        "diving48/Diving48_vocab_RECONSTRUCTED.json",
    ):
        assert refused(ANNOTATIONS / name)
    assert (
        len(evaluate.read_names(ANNOTATIONS / "diving48/Diving48_vocab_RECONSTRUCTED.json")) == 48
    )


# ---- check ---------------------------------------------------------------------------------------
def add_frames(folder, n):
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (8, 8)).save(folder / f"{i}.png")


@pytest.mark.parametrize("workers", [0, 1])
def test_check(write, tmp_path, capsys, workers):
    for name, frames in {"run/a": 16, "run/b": 20, "jump/c": 15}.items():
        add_frames(tmp_path / "videos" / name, frames)
    write("videos/jump/bad.mp4", "no video")
    write("classes.txt", "jump\nrun\nwave\n")
    text = "run/a 1\nrun/b 1\njump/c 0\njump/bad.mp4 0\nwave/gone.mp4 2\nrun/a 1\n"
    file = write("list.txt", text)
    root = tmp_path / "videos"
    evaluate.check(CheckArgs(file=file, root=str(root), workers=workers))
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: plain list, 5 videos in {root}",
        "3 readable, of 2 of 3 classes",
        "largest class: run (2); smallest: jump (1)",
        "1 missing: wave/gone.mp4",
        f"1 unreadable: cannot read {root}/jump/bad.mp4: Invalid data found when processing input; "
        "replace it, or leave it out of the list",
        "1 shorter than 16 frames, which would loop: jump/c (15)",
        "1 classes without a readable video: wave",
    ]
    evaluate.check(CheckArgs(file=file, root=str(root), workers=0, frames=8))
    assert "shorter" not in capsys.readouterr().out


def test_check_of_both_parts_of_hmdb51(write, tmp_path, capsys):
    write("splits/climb_test_split1.txt", "a 1 \nb 2 \nc 0 \n")
    write("splits/wave_test_split1.txt", "d 2 \n")
    for name in ("climb/a", "climb/b", "wave/d"):
        add_frames(tmp_path / "videos" / name, 2)
    root = str(tmp_path / "videos")
    evaluate.check(CheckArgs(file=str(tmp_path / "splits"), root=root, workers=0, frames=2))
    assert capsys.readouterr().out.splitlines()[1:] == [
        "3 readable, of 2 of 2 classes",
        "largest class: climb (2); smallest: wave (1)",
    ]


@pytest.mark.parametrize("text, readable", [("a 0\nb 0\ngone 1\n", 2), ("gone 0\ngone2 1\n", 0)])
def test_check_ends_with_1_where_training_is_pointless(write, tmp_path, capsys, text, readable):
    add_frames(tmp_path / "a", 2)
    add_frames(tmp_path / "b", 2)
    with pytest.raises(SystemExit) as stopped:
        command("evaluate.py", ["check", write("list.txt", text), "--workers", 0])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert f"\n{readable} readable, of " in printed
    assert printed.endswith("fewer than two classes have a readable video.\n")


def test_the_commands(write, capsys):
    file = write("val.csv", KINETICS)
    command("evaluate.py", ["list", file])
    assert capsys.readouterr().out.startswith("zumba/-wR5jVB-WPk_000417_000427.mp4 1\n")
    for words in (["list", file, "--subset", "train"], ["check", file], ["list"], ["check"]):
        with pytest.raises(SystemExit) as stopped:
            command("evaluate.py", words)
        assert stopped.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
