"""read_list: every published format in small made-up files, every error by its message, and the real
annotation files (skipped where ../shared is absent) by the counts that their data sets state."""

import codecs
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from common import UserError, read_list

SHARED = Path(__file__).resolve().parents[2] / "shared"
REAL = SHARED / "assets" / "annotations"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotation files are not here")

CLASS_IND = "1 ApplyLipstick\r\n2 Hammering\r\n3 HammerThrow\r\n"  # the official order: not that of sorted()
UCF_TRAIN = (
    "HammerThrow/v_HammerThrow_g08_c01.avi 3\r\n"
    "ApplyLipstick/v_ApplyLipstick_g09_c02.avi 1\r\n"
    "Hammering/v_Hammering_g10_c03.avi 2\r\n"
)
UCF_TEST = "Hammering/v_hammering_g01_c01.avi\r\nHammerThrow/v_HammerThrow_g01_c01.avi\r\n"


@pytest.fixture
def write(tmp_path):
    """write("name", text or bytes) -> its path in tmp_path."""

    def write(name, content):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


def refused(message, *args, **kwargs):
    """read_list refuses with exactly this message, on one line."""
    with pytest.raises(UserError) as caught:
        read_list(*args, **kwargs)
    assert str(caught.value) == message and "\n" not in message


# ---- plain lists


def test_plain(write, tmp_path):
    file = write("list.txt", "run/a.mp4 1\njump/b.mp4 0\nrun/c.mp4 1\n")
    videos = read_list(file)
    assert videos.kind == "plain" and len(videos) == 3
    assert videos.paths == ["run/a.mp4", "jump/b.mp4", "run/c.mp4"] and videos.labels == [1, 0, 1]
    assert videos.classes == ["jump", "run"]
    assert videos.root == tmp_path and videos.full(1) == tmp_path / "jump/b.mp4"
    assert videos.sha1 == hashlib.sha1(file.read_bytes()).hexdigest()
    assert read_list(str(file), root="/data").full(0) == Path("/data/run/a.mp4")


def test_absolute_paths_stay(write):
    assert read_list(write("list.txt", "/a/b.mp4 0\n"), root="/data").full(0) == Path("/a/b.mp4")


@pytest.mark.parametrize(
    "content",
    [
        b"a b/my clip.mp4 1\nc/#20 (x)&[y].avi 0\n",
        b"a b/my clip.mp4 1\r\nc/#20 (x)&[y].avi 0\r\n",
        b"a b/my clip.mp4 1\nc/#20 (x)&[y].avi 0",
        codecs.BOM_UTF8 + b"a b/my clip.mp4 1\r\nc/#20 (x)&[y].avi 0",
        b"\n  \r\na b/my clip.mp4   1  \n\n\tc/#20 (x)&[y].avi\t0\n\n",
    ],
    ids=["lf", "crlf", "no-newline-at-end", "bom", "blanks-and-tabs"],
)
def test_line_ends_spaces_and_marks(write, content):
    videos = read_list(write("list.txt", content))
    assert videos.paths == ["a b/my clip.mp4", "c/#20 (x)&[y].avi"] and videos.labels == [1, 0]


def test_only_newlines_end_lines(write):
    assert read_list(write("list.txt", "a\u2028b.mp4 0\nJürgen läuft.mp4 1\n")).paths[1] == "Jürgen läuft.mp4"


def test_same_video_twice_with_one_label_is_kept(write):
    assert read_list(write("list.txt", "a.mp4 0\nb.mp4 1\na.mp4 0\n")).labels == [0, 1, 0]  # ARAS has such


# ---- names of the classes


def test_names_from_classes_txt(write):
    write("classes.txt", "ice skating\r\nclap\r\n\r\nrun\r\n")
    assert read_list(write("list.txt", "x/a.mp4 0\ny/b.mp4 1\n")).classes == ["ice skating", "clap", "run"]


@pytest.mark.parametrize(
    "text,names",
    [
        ("v/run/a.mp4 2\nw/jump/b.mp4 0\n", ["jump", "1", "run"]),  # one folder a label; no label 1
        ("run/a.mp4 1\njump/b.mp4 1\nclap/c.mp4 0\n", ["0", "1"]),  # two folders, one label
        ("run/a.mp4 1\nrun/b.mp4 0\n", ["0", "1"]),  # one folder, two labels
        ("a.mp4 1\nb.mp4 0\n", ["0", "1"]),
        ("a.mp4 0\n", ["0"]),
    ],
)
def test_names_from_folders_or_labels(write, text, names):
    assert read_list(write("list.txt", text)).classes == names


def test_names_of_the_training_run(write):
    file = write("list.txt", "x/a.mp4 0\ny/b.mp4 2\n")
    assert read_list(file, classes=["p", "q", "r", "s"]).classes == ["p", "q", "r", "s"]
    refused(f"{file}:2: label 2 is outside the 2 classes, 0 to 1", file, classes=["p", "q"])
    write("classes.txt", "air_drumming\nclap\nRun\n")
    assert read_list(file, classes=["air drumming", "clap", "run"]).classes[0] == "air drumming"
    assert read_list(file, classes=["0", "1", "2"]).classes == ["0", "1", "2"]  # a run that knew no names
    other = f"{file}: its classes are not the training run's, or in another order"
    refused(other, file, classes=["clap", "air drumming", "run"])
    refused(other, file, classes=["air drumming", "clap"])


def test_fewer_names_than_labels(write):
    write("classes.txt", "p\nq\n")
    file = write("list.txt", "a.mp4 0\nb.mp4 2\n")
    refused(f"{file}:2: label 2 is outside the 2 classes, 0 to 1", file)


# ---- UCF101


def test_ucf101_train(write):
    write("classInd.txt", CLASS_IND)
    videos = read_list(write("trainlist01.txt", UCF_TRAIN))
    assert videos.kind == "UCF101" and videos.labels == [2, 0, 1]
    assert videos.sha1 == hashlib.sha1(UCF_TRAIN.encode()).hexdigest()
    assert videos.classes == ["ApplyLipstick", "Hammering", "HammerThrow"]
    assert videos.paths[0] == "HammerThrow/v_HammerThrow_g08_c01.avi"


def test_ucf101_test_has_labels_from_the_folder(write):
    write("classInd.txt", CLASS_IND)
    file = write("testlist01.txt", UCF_TEST)  # it says v_hammering, its folder Hammering
    videos = read_list(file, classes=["ApplyLipstick", "Hammering", "HammerThrow"])
    assert videos.kind == "UCF101" and videos.labels == [1, 2]


def test_ucf101_with_labels_from_0(write):
    text = "ApplyLipstick/v_ApplyLipstick_g09_c02.mp4 0\nHammerThrow/v_HammerThrow_g08_c01.mp4 2\n"
    file = write("list.txt", text)  # mmaction2's form
    assert (read_list(file).kind, read_list(file).labels) == ("plain", [0, 2])
    write("classInd.txt", CLASS_IND)
    assert (read_list(file).kind, read_list(file).labels) == ("UCF101", [0, 2])


def test_ucf101_names_under_another_folder_are_plain(write):
    write("classes.txt", "Archery\nSurfing\n")
    assert read_list(write("a.txt", "videos/Surfing/v_Surfing_g01_c01.mp4 1\n")).kind == "plain"
    assert read_list(write("b.txt", "Surfing/v_Surfing_g01_c01.mp4 1\n")).labels == [1]


@pytest.mark.parametrize("text", [UCF_TRAIN, UCF_TEST], ids=["ids", "no-ids"])
def test_ucf101_without_class_ind(write, text):
    file = write("list.txt", text)
    refused(f"{file}: UCF101's ids from 1, or none: put its classInd.txt beside the list", file)


@pytest.mark.parametrize("line", ["Hammring/v_X_g01_c01.avi", "Hammering/v_Hammering_g01_c01.avi 3"])
def test_ucf101_unknown_folder_or_wrong_id(write, line):
    write("classInd.txt", CLASS_IND)
    file = write("trainlist01.txt", UCF_TRAIN + line + "\r\n")
    refused(f"{file}:4: class folder or id does not agree with classInd.txt: {line!r}", file)


# ---- HMDB51


@pytest.fixture
def hmdb(write, tmp_path):
    """A folder in the official form: each line ends in a space; names as odd as the real ones."""
    write("splits/climb_stairs_test_split1.txt", "#20_Rhythm!_(x)_[y].avi 1 \nb+c;d.avi 2 \nunused.avi 0 \n")
    write("splits/climb_test_split1.txt", "a b~@.avi 2 \nc.avi 1 \nd.avi 1 \n")
    write("splits/climb_test_split2.txt", "c.avi 2 \n")
    write("splits/._climb_test_split1.txt", b"\x00\x05\x16\x07")  # what macOS leaves in archives
    return tmp_path / "splits"


def test_hmdb51(hmdb):
    train, test = read_list(hmdb), read_list(hmdb, root="/videos", part="test")
    assert train.kind == "HMDB51" and train.classes == test.classes == ["climb", "climb_stairs"]
    assert train.paths == ["climb/c.avi", "climb/d.avi", "climb_stairs/#20_Rhythm!_(x)_[y].avi"]
    assert train.labels == [0, 0, 1] and train.root == hmdb
    assert test.paths == ["climb/a b~@.avi", "climb_stairs/b+c;d.avi"] and test.labels == [0, 1]
    assert test.full(0) == Path("/videos/climb/a b~@.avi")
    assert train.sha1 != test.sha1 and train.sha1 == read_list(hmdb).sha1
    assert read_list(hmdb, part="test", split=2).paths == ["climb/c.avi"]


def test_hmdb51_classes_in_another_order(hmdb):
    assert read_list(hmdb, classes=["climb", "climb stairs"]).classes == ["climb", "climb stairs"]
    message = f"{hmdb}: its classes are not the training run's, or in another order"
    refused(message, hmdb, classes=["climb_stairs", "climb"])  # as in TSN's class list


def test_hmdb51_errors(hmdb, write, tmp_path):
    refused(f"{hmdb}: no train videos in *_test_split3.txt", hmdb, split=3)
    refused(f"{hmdb}: no train videos in *_test_split2.txt", hmdb, split=2)
    bad = write("splits/kick_test_split1.txt", "a.avi 1 \nb.avi 3 \n")
    refused(f"{bad}:2: expected `path label`, label >= 0 (HMDB51 flag 0-2): 'kick/b.avi 3'", hmdb)


# ---- ARAS


ARAS = "aras_clips/ice_skating/0_0.mp4 0\r\naras_clips/zumba/x.mp4 2\r\naras_clips/ice_skating/0_0.mp4 0\r\n"


def test_aras(write):
    file = write("aras.txt", ARAS)
    videos = read_list(file)
    assert videos.kind == "ARAS" and videos.labels == [0, 2, 0]
    assert videos.classes == ["ice_skating", "1", "zumba"]
    assert read_list(file, classes=["a", "b", "c", "d"]).classes == ["a", "b", "c", "d"]
    write("k400_actions.txt", "ice skating\nclapping\nzumba\nyoga\n")
    assert read_list(file).classes == ["ice skating", "clapping", "zumba", "yoga"]
    plain = write("plain.txt", "zumba/x_1.mp4 2\n")  # k400_actions.txt is not for it
    assert read_list(plain).classes == ["0", "1", "zumba"]


# ---- OmniSource's raw videos


RAW = "some/D32 66 10 0 1 2\nsome/-G-5 254 5 3 4\nsome/T4h1 33 1 0\n"


def test_omnisource_raw_videos(write):
    """Each positive clip is an item; in the released JSON too. A video without one is left out."""
    entries = [dict(video_dir=line.split()[0], label=int(line.split()[1]), num_clips=int(line.split()[2]),
                    positive_clip_inds=[int(i) for i in line.split()[3:]]) for line in RAW.splitlines()]
    for name, content in (("raw.txt", RAW), ("raw.json", json.dumps(entries))):
        videos = read_list(write(name, content))
        assert videos.kind == "plain" and videos.labels == [66] * 3 + [254] * 2 + [33]
        assert videos.paths == [f"some/{clip}.mp4" for clip in (
            "D32/part_0", "D32/part_1", "D32/part_2", "-G-5/part_3", "-G-5/part_4", "T4h1/part_0")]
    entries[2]["positive_clip_inds"] = []
    assert len(read_list(write("raw.json", json.dumps(entries)))) == 5


@pytest.mark.parametrize("line, kind", [
    ("a 5 3 0 3", "plain"), ("a 66 10 1 1", "raw frames"), ("a 66 10 2", "raw frames"), ("a 66 10 0 0", "plain")])
def test_what_is_no_list_of_raw_videos(write, line, kind):
    """A clip beyond the last, a clip twice, one clip of each video alone: numbers at the end mean what they did."""
    assert read_list(write("list.txt", line + "\n")).kind == kind


@pytest.mark.parametrize("content", ["{}", "[1]", "[{\"video_dir\": \"a\"}]", "[", json.dumps(
    [dict(video_dir="a", label=1, num_clips=2, positive_clip_inds=[2])])])
def test_json_that_is_no_list_of_raw_videos(write, content):
    file = write("raw.json", content)
    with pytest.raises(UserError, match="raw.json: (expected OmniSource's|empty list)"):
        read_list(file)


# ---- raw frames, and plain paths that look like them


def test_raw_frames(write):
    file = write("scuba.txt", "v X/my clip_3 119 0\nv Y/z 60 2\nv X/my clip_3 119 0\n")
    videos = read_list(file)
    assert videos.kind == "raw frames" and videos.labels == [0, 2, 0]
    assert videos.paths == ["v X/my clip_3", "v Y/z", "v X/my clip_3"]


@pytest.mark.parametrize(
    "text,paths",
    [
        ("clip 1 0\nclip 2 1\n", ["clip 1", "clip 2"]),  # a folder cannot have 1 frame and 2
        ("take 7 0\ndance.mp4 1\n", ["take 7", "dance.mp4"]),  # one line alone has three fields
        ("take 7.mp4 0\ntake 8.mp4 1\n", ["take 7.mp4", "take 8.mp4"]),
        ("take 0 0\nscene 3 1\n", ["take 0", "scene 3"]),  # no folder has 0 frames
        ("my 3 takes/a 0\nmy 3 takes/b 1\n", ["my 3 takes/a", "my 3 takes/b"]),
    ],
)
def test_plain_paths_with_numbers(write, text, paths):
    videos = read_list(write("list.txt", text))
    assert videos.kind == "plain" and videos.paths == paths


# ---- errors


@pytest.mark.parametrize(
    "line",
    ["b.mp4", "7", "b.mp4 -1", "b.mp4 1.5", "b.mp4 x", "b.mp4,1", "b.mp4 1_0", "b.mp4 ²", "b " + "9" * 5000],
    ids=["no-label", "no-path", "negative", "fraction", "word", "comma", "underscore", "superscript", "huge"],
)
def test_malformed_line(write, line):
    file = write("list.txt", f"a.mp4 0\n\n{line}\nc.mp4 1\n")
    refused(f"{file}:3: expected `path label`, label >= 0 (HMDB51 flag 0-2): {line[:70]!r}", file)


@pytest.mark.parametrize("text", ["", "\n \r\n", "\ufeff"])
def test_empty_list(write, text):
    file = write("list.txt", text)
    refused(f"{file}: empty list", file)


def test_unreadable_list(write, tmp_path):
    refused(f"{tmp_path / 'none.txt'}: cannot read it: No such file or directory", tmp_path / "none.txt")
    file = write("list.txt", b"\x00\xff\xfe")
    refused(f"{file}: cannot read it: not UTF-8 text", file)
    refused(f"{tmp_path}: no train videos in *_test_split1.txt", tmp_path)


def test_two_labels_for_one_video(write):
    file = write("list.txt", "a.mp4 0\nb.mp4 1\na.mp4 1\n")
    refused(f"{file}:3: 'a.mp4' has label 1 here and 0 at {file}:1", file)


def test_a_label_beyond_all_reason(write):
    file = write("list.txt", "a.mp4 0\nb.mp4 20240131\n")
    refused(f"{file}:2: label 20240131 is outside the 1000000 classes, 0 to 999999", file)


# ---- the real files


@real
@pytest.mark.parametrize("split,train,test", [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_real_ucf101(split, train, test):
    folder = REAL / "ucf101" / "ucfTrainTestlist"
    lists = [read_list(folder / f"{part}list0{split}.txt") for part in ("train", "test")]
    assert [len(videos) for videos in lists] == [train, test]
    assert not set(lists[0].paths) & set(lists[1].paths)
    for videos in lists:
        assert videos.kind == "UCF101" and len(videos.classes) == len(set(videos.labels)) == 101
        assert videos.classes[34:36] == ["Hammering", "HammerThrow"]
        assert videos.classes[46:48] == ["JumpingJack", "JumpRope"]
        assert [path.split("/")[0] for path in videos.paths] == [videos.classes[y] for y in videos.labels]
    assert read_list(folder / f"testlist0{split}.txt", classes=lists[0].classes).labels == lists[1].labels


@real
@pytest.mark.parametrize("split", [1, 2, 3])
def test_real_hmdb51(split):
    folder = REAL / "hmdb51" / "testTrainMulti_7030_splits"
    train, test = (read_list(folder, part=part, split=split) for part in ("train", "test"))
    assert (len(train), len(test)) == (3570, 1530)
    assert set(Counter(train.labels).values()) == {70} and set(Counter(test.labels).values()) == {30}
    everything = set((REAL / "hmdb51" / "hmdb_videos_list.txt").read_text().split("\n"))
    for videos in (train, test):
        assert videos.kind == "HMDB51" and len(videos.classes) == 51
        assert videos.classes == sorted(videos.classes)
        assert {path.removesuffix(".avi") for path in videos.paths} <= everything
    assert sum(bool(re.search(r"[!#&()+;@\[\]~]", path)) for path in train.paths) > 100
    names = (REAL / "hmdb51" / "tsn_class_list.txt").read_text().split()
    assert sorted(names) == train.classes
    with pytest.raises(UserError, match="in another order"):
        read_list(folder, classes=names)  # kick and kick_ball change places in TSN's list


@real
def test_real_aras():
    videos = read_list(REAL / "aras" / "aras_test_balance.txt")
    assert videos.kind == "ARAS" and len(videos) == 1038 and len(set(videos.labels)) == 104
    assert len(videos.classes) == 400 and videos.classes[:2] == ["abseiling", "air drumming"]
    for path, label in zip(videos.paths, videos.labels, strict=True):
        assert path.split("/")[1].replace("_", " ") == videos.classes[label]
    assert sorted(Counter(videos.labels).values()) == [8] + [10] * 103


@real
@pytest.mark.parametrize("part,count", [("train", 9537), ("val", 3783)])
def test_real_raw_frames(part, count):
    videos = read_list(REAL / "ucf101" / "rawframe_lists" / f"{part}_rgb_split1.txt")
    assert videos.kind == "raw frames" and len(videos) == count and set(videos.labels) == set(range(101))
    official = read_list(REAL / "ucf101" / "ucfTrainTestlist" / f"{part.replace('val', 'test')}list01.txt")
    of = {Path(path).stem: label for path, label in zip(official.paths, official.labels, strict=True)}
    assert dict(zip(videos.paths, videos.labels, strict=True)) == of


@real
@pytest.mark.parametrize(
    "name,kind,count",
    [
        ("train_small_videos.list", "plain", 32256),
        ("val_small_videos.list", "plain", 128),
        ("train_small_frames_first2000.list", "raw frames", 2000),
        ("val_small_frames.list", "raw frames", 200),
    ],
)
def test_real_kinetics(name, kind, count):
    videos = read_list(REAL / "kinetics" / "paddlevideo_lists" / name)
    assert videos.kind == kind and len(videos) == count
    assert videos.paths[0] == "abseiling/_4YTwq0-73Y_000044_000054.mp4" and videos.classes[0] == "abseiling"


@real
def test_real_others():
    gym = read_list(REAL / "finegym" / "gym99_val_element.txt")
    assert gym.kind == "plain" and len(gym) == 8521 and len(gym.classes) == 99
    places = read_list(REAL / "places365" / "categories_hybrid1365.txt")
    assert places.paths[0] == "n01440764 tench, Tinca tinca" and places.labels == list(range(1365))


@pytest.mark.skipif(not (SHARED / "real" / "ucf9").is_dir(), reason="the real videos are not here")
def test_real_footage_is_where_the_lists_say():
    for name, count, classes in ("ucf9/test02.txt", 315, 9), ("jhmdb/train.txt", 671, 21):
        videos = read_list(SHARED / "real" / name)
        assert videos.kind == "plain" and len(videos.classes) == classes and len(videos) == count
        assert all(videos.full(i).is_file() for i in range(len(videos)))
        assert [Path(path).parent.name for path in videos.paths] == [videos.classes[y] for y in videos.labels]
