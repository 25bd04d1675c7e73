"""Lists of videos: each published format in small made-up files, each error by its message, and the
real annotation files (skipped where ../shared is absent) by the counts that their data sets state.
"""

import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest

import common
from common import OfflineArgs, UserError, existing, listed_once, read_list, split_list, write_lists

SHARED = Path(__file__).resolve().parents[2] / "shared"
ANNOTATIONS = SHARED / "assets" / "annotations"
real = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="no real annotation files here")

# The official order of classes, which is not that of sorted().
CLASS_IND = "1 ApplyLipstick\r\n2 Hammering\r\n3 HammerThrow\r\n"
UCF_TRAIN = (
    "HammerThrow/v_HammerThrow_g08_c01.avi 3\r\n"
    "ApplyLipstick/v_ApplyLipstick_g09_c02.avi 1\r\n"
    "Hammering/v_Hammering_g10_c03.avi 2\r\n"
)
# The official lists say v_hammering in some lines, of the folder Hammering.
UCF_TEST = "Hammering/v_hammering_g01_c01.avi\r\nHammerThrow/v_HammerThrow_g01_c01.avi\r\n"


@pytest.fixture
def write(tmp_path):
    """write("name", text or bytes) -> its path in tmp_path"""

    def write(name, content):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


def refused(message, *args, **kwargs):
    """read_list refuses with exactly this message, in one line."""
    with pytest.raises(UserError) as caught:
        read_list(*args, **kwargs)
    assert str(caught.value) == message
    assert "\n" not in message


# ---- Plain lists ---------------------------------------------------------------------------------
def test_plain(write, tmp_path):
    file = write("list.txt", "run/a.mp4 1\njump/b.mp4 0\nrun/c.mp4 1\n")
    videos = read_list(file)
    assert (videos.kind, len(videos)) == ("plain", 3)
    assert videos.paths == ["run/a.mp4", "jump/b.mp4", "run/c.mp4"]
    assert videos.labels == [1, 0, 1]
    assert videos.classes == ["jump", "run"]
    assert videos.full(1) == tmp_path / "jump/b.mp4"
    assert videos.sha1 == hashlib.sha1(file.read_bytes()).hexdigest()
    assert read_list(str(file), root="/data").full(0) == Path("/data/run/a.mp4")


def test_absolute_paths_stay(write):
    videos = read_list(write("list.txt", "/a/b.mp4 0\nc.mp4 1\n"), root="/data")
    assert videos.full(0) == Path("/a/b.mp4")


def test_a_video_that_is_listed_again_is_used_once_in_training(write, capsys):
    common.warn.cache_clear()
    text = "a.mp4 1\nb/c.mp4 0\n./a.mp4 1\nb//c.mp4 0\nb/../a.mp4 1\nd.mp4 1\n"
    file = write("list.txt", text)
    # ARAS balances its classes so.
    assert read_list(file).labels == [1, 0, 1, 0, 1, 1]
    videos = common.each_once(read_list(file), file)
    assert (videos.paths, videos.labels) == (["a.mp4", "b/c.mp4", "d.mp4"], [1, 0, 1])
    said = capsys.readouterr().err
    assert said == f"warning: {file}: 3 lines name a video again: each is used once\n"
    file = write("list.txt", "a.mp4 1\n./a.mp4 0\n")
    refused(f"{file}:2: 'a.mp4' has label 0 here and 1 at {file}:1", file)


@pytest.mark.parametrize(
    "text",
    [
        "a b/Jürgens\u2028clip.mp4 1\nc/#20 (x)&[y].avi 0\n",
        "\ufeffa b/Jürgens\u2028clip.mp4 1\r\nc/#20 (x)&[y].avi 0",
        "\n  \r\na b/Jürgens\u2028clip.mp4   1  \n\n\tc/#20 (x)&[y].avi\t0\n\n",
    ],
    ids=["lf", "bom-crlf-no-newline-at-end", "blanks-and-tabs"],
)
def test_line_ends_spaces_and_marks(write, text):
    videos = read_list(write("list.txt", text))
    assert videos.paths == ["a b/Jürgens\u2028clip.mp4", "c/#20 (x)&[y].avi"]
    assert videos.labels == [1, 0]


# ---- Folders of frames ---------------------------------------------------------------------------
def test_folders_of_frames_are_told_by_the_folders_on_disk(write, tmp_path):
    file = write("scuba.txt", "v X/my clip_3 119 0\nv Y/z 60 2\nv X/my clip_3 119 0\n")
    for name in ("v X/my clip_3", "v Y/z"):
        (tmp_path / "frames" / name).mkdir(parents=True)
        # Also where the folders are not at hand.
        videos = read_list(file, root=tmp_path / "frames")
        assert videos.paths == ["v X/my clip_3", "v Y/z", "v X/my clip_3"]
        assert videos.labels == [0, 2, 0]


def test_videos_whose_names_end_in_a_number_beside_such_folders(write, tmp_path):
    for name in ("take", "take 7", "my"):
        (tmp_path / name).mkdir()
    file = write("list.txt", "take 7 0\nmy 3 takes/a 0\ntake 8.mp4 1\n")
    assert read_list(file).paths == ["take 7", "my 3 takes/a", "take 8.mp4"]


# ---- Names of the classes ------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["classes.txt", "k400_actions.txt"])
def test_names_from_a_file_beside_the_list(write, name):
    write(name, "ice skating\r\nclap\r\n\r\nrun\r\n")
    file = write("list.txt", "x/a.mp4 0\ny/b.mp4 1\n")
    assert read_list(file).classes == ["ice skating", "clap", "run"]
    file = write("list.txt", "a.mp4 0\nb.mp4 3\n")
    refused(f"{file}:2: label 3 is outside the 3 classes, 0 to 2", file)


@pytest.mark.parametrize(
    "text, names",
    [
        ("v/run/a.mp4 2\nw/jump/b.mp4 0\n", ["jump", "1", "run"]),  # one folder a label; no label 1
        ("run/a.mp4 1\njump/b.mp4 1\nclap/c.mp4 0\n", ["0", "1"]),  # two folders, one label
        ("run/a.mp4 1\nrun/b.mp4 0\n", ["0", "1"]),  # one folder, two labels
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
    # A run that knew no names.
    assert read_list(file, classes=["0", "1", "2"]).classes == ["0", "1", "2"]
    other = f"{file}: its classes are not the training run's, or in another order"
    refused(other, file, classes=["clap", "air drumming", "run"])
    refused(other, file, classes=["air drumming", "clap"])


# ---- UCF101 --------------------------------------------------------------------------------------
def test_ucf101(write):
    write("classInd.txt", CLASS_IND)
    train = read_list(write("trainlist01.txt", UCF_TRAIN))
    assert (train.kind, train.labels) == ("UCF101", [2, 0, 1])
    assert train.classes == ["ApplyLipstick", "Hammering", "HammerThrow"]
    assert train.paths[0] == "HammerThrow/v_HammerThrow_g08_c01.avi"
    test = read_list(write("testlist01.txt", UCF_TEST), classes=train.classes)
    assert (test.kind, test.labels) == ("UCF101", [1, 2])


def test_ucf101_with_labels_from_0(write):
    text = "ApplyLipstick/v_ApplyLipstick_g09_c02.mp4 0\nHammerThrow/v_HammerThrow_g08_c01.mp4 2\n"
    file = write("list.txt", text)  # mmaction2's form
    assert (read_list(file).kind, read_list(file).labels) == ("plain", [0, 2])
    write("classInd.txt", CLASS_IND)
    assert (read_list(file).kind, read_list(file).labels) == ("UCF101", [0, 2])


def test_other_videos_named_as_ucf101s_are_plain_with_names_of_their_own(write):
    write("classes.txt", "Archery\nSurfing\n")
    assert read_list(write("a.txt", "videos/Surfing/v_Surfing_g01_c01.mp4 1\n")).kind == "plain"
    assert read_list(write("b.txt", "Surfing/v_Surfing_g01_c01.mp4 1\n")).labels == [1]


@pytest.mark.parametrize("text", [UCF_TRAIN, UCF_TEST], ids=["ids", "no-ids"])
def test_ucf101_without_class_ind(write, text):
    file = write("list.txt", text)
    refused(f"{file}: UCF101's ids from 1, or none: put its classInd.txt beside the list", file)


@pytest.mark.parametrize(
    "line", ["Hammring/v_X_g01_c01.avi", "Hammering/v_Hammering_g01_c01.avi 3"]
)
def test_ucf101_unknown_folder_or_wrong_id(write, line):
    write("classInd.txt", CLASS_IND)
    file = write("trainlist01.txt", UCF_TRAIN + line + "\r\n")
    refused(f"{file}:4: class folder or id does not agree with classInd.txt: {line!r}", file)


# ---- HMDB51 --------------------------------------------------------------------------------------
@pytest.fixture
def hmdb(write, tmp_path):
    """A folder in the official form: each line ends in a space; names as odd as the real ones."""
    write(
        "splits/climb_stairs_test_split1.txt",
        "#20_Rhythm!_(x)_[y].avi 1 \nb+c;d.avi 2 \nunused.avi 0 \n",
    )
    write("splits/climb_test_split1.txt", "a b~@.avi 2 \nc.avi 1 \nd.avi 1 \n")
    write("splits/climb_test_split2.txt", "c.avi 2 \n")
    # What macOS leaves in archives.
    write("splits/._climb_test_split1.txt", b"\x00\x05\x16\x07")
    return tmp_path / "splits"


def test_hmdb51(hmdb):
    train = read_list(hmdb)
    test = read_list(hmdb, root="/videos", part="test")
    assert train.kind == "HMDB51"
    assert train.classes == test.classes == ["climb", "climb_stairs"]
    assert train.paths == ["climb/c.avi", "climb/d.avi", "climb_stairs/#20_Rhythm!_(x)_[y].avi"]
    assert train.labels == [0, 0, 1]
    assert train.full(0) == hmdb / "climb/c.avi"
    assert test.paths == ["climb/a b~@.avi", "climb_stairs/b+c;d.avi"]
    assert test.labels == [0, 1]
    assert test.full(0) == Path("/videos/climb/a b~@.avi")
    assert train.sha1 != test.sha1
    assert train.sha1 == read_list(hmdb).sha1
    assert read_list(hmdb, part="test", split=2).paths == ["climb/c.avi"]


def test_hmdb51_errors(hmdb, write):
    refused(f"{hmdb}: no train videos in *_test_split3.txt", hmdb, split=3)
    refused(f"{hmdb}: no train videos in *_test_split2.txt", hmdb, split=2)
    # Classes in another order, as in TSN's class list.
    message = f"{hmdb}: its classes are not the training run's, or in another order"
    refused(message, hmdb, classes=["climb_stairs", "climb"])
    bad = write("splits/kick_test_split1.txt", "a.avi 1 \nb.avi 3 \n")
    refused(f"{bad}:2: expected `name flag`, flag 0, 1 or 2: 'b.avi 3'", hmdb)


# ---- Errors --------------------------------------------------------------------------------------
BAD_LINES = ["b.mp4", "7", "b.mp4 -1", "b.mp4 1.5", "b.mp4 x", "b.mp4,1", "b.mp4 1_0", "b.mp4 ²"]
BAD_LINES += ["b.mp4 ٣", "b " + "9" * 5000]


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:9])
def test_malformed_line(write, line):
    file = write("list.txt", f"a.mp4 0\n\n{line}\nc.mp4 1\n")
    refused(f"{file}:3: expected `path label`, the label a number from 0: {line[:70]!r}", file)


def test_unreadable_lists(write, tmp_path):
    absent = tmp_path / "none.txt"
    refused(f"{absent}: cannot read it: No such file or directory", absent)
    file = write("list.txt", b"\x00\xff\xfe")
    refused(f"{file}: cannot read it: not UTF-8 text", file)
    for text in ("", "\n \r\n", "\ufeff"):
        file = write("list.txt", text)
        refused(f"{file}: empty list", file)


def test_labels_that_cannot_be(write):
    file = write("list.txt", "a.mp4 0\nb.mp4 1\na.mp4 1\n")
    refused(f"{file}:3: 'a.mp4' has label 1 here and 0 at {file}:1", file)
    file = write("list.txt", "a.mp4 0\nb.mp4 20240131\n")
    refused(f"{file}:2: label 20240131 is outside the 1000000 classes, 0 to 999999", file)


# ---- What is done with lists ---------------------------------------------------------------------
def test_missing_videos_are_left_out_up_to_a_share(write, tmp_path):
    file = write("list.txt", "a.mp4 0\ngone.mp4 1\nb.mp4 1\nc.mp4 0\n")
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write(name, "")
    videos = existing(read_list(file), 0.25)
    assert videos.paths == ["a.mp4", "b.mp4", "c.mp4"]
    assert videos.labels == [0, 1, 0]
    assert videos.missing == ("gone.mp4",)
    first = f"1 of 4 videos do not exist, first {tmp_path / 'gone.mp4'}: check --web-root (now "
    with pytest.raises(UserError, match=re.escape(first)):
        existing(read_list(file), 0.24, "--web-root")
    with pytest.raises(UserError, match="4 of 4 videos do not exist"):
        existing(read_list(file, root=tmp_path / "elsewhere"), 1.0)


def test_a_held_out_share_follows_from_the_seed(write):
    videos = read_list(write("list.txt", "".join(f"{i}.mp4 {i % 3}\n" for i in range(20))))
    label_of = dict(zip(videos.paths, videos.labels, strict=True))
    parts = split_list(videos, 0.25, seed=3)
    assert [len(part) for part in parts] == [15, 5]
    assert sorted(parts[0].paths + parts[1].paths) == sorted(videos.paths)
    for part in parts:
        assert part.labels == [label_of[path] for path in part.paths]
    assert split_list(videos, 0.25, seed=3)[1].paths == parts[1].paths
    assert split_list(videos, 0.25, seed=4)[1].paths != parts[1].paths
    for share in (0.01, 0.99):
        with pytest.raises(UserError, match="leaves none to train on or to validate with"):
            split_list(videos, share, seed=3)


def test_written_lists_are_read_back(tmp_path):
    rows = [("a b/c.mp4", 1), ("ä.mp4", 0)]
    write_lists(tmp_path / "new", {"train": rows, "test": rows[:1]}, ["clap", "run fast"])
    videos = read_list(tmp_path / "new" / "train.txt")
    assert list(zip(videos.paths, videos.labels, strict=True)) == rows
    assert videos.classes == ["clap", "run fast"]
    # A folder that holds lists already is no place for others.
    with pytest.raises(OSError):
        write_lists(tmp_path / "new", {"train": rows})
    assert len(read_list(tmp_path / "new" / "test.txt")) == 1


def test_an_offline_step_looks_at_each_video_once(hmdb, write, tmp_path):
    both_parts = ["climb/c.avi", "climb/d.avi", "climb_stairs/#20_Rhythm!_(x)_[y].avi"]
    both_parts += ["climb/a b~@.avi", "climb_stairs/b+c;d.avi"]
    for path in [*both_parts, "more.avi"]:
        write(f"videos/{path}", "")
    file = write("list.txt", "climb/d.avi 0\nmore.avi 1\n")
    args = OfflineArgs(lists=(str(hmdb), str(file)), root=str(tmp_path / "videos"))
    assert listed_once(args).paths == [*both_parts, "more.avi"]
    with pytest.raises(UserError, match="all in the same folder or in --root"):
        listed_once(OfflineArgs(lists=(str(hmdb), str(file))))


# ---- The real files ------------------------------------------------------------------------------
@real
@pytest.mark.parametrize("split, train, test", [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_real_ucf101(split, train, test):
    folder = ANNOTATIONS / "ucf101" / "ucfTrainTestlist"
    train_list = read_list(folder / f"trainlist0{split}.txt")
    test_list = read_list(folder / f"testlist0{split}.txt", classes=train_list.classes)
    assert (len(train_list), len(test_list)) == (train, test)
    assert not set(train_list.paths) & set(test_list.paths)
    for videos in (train_list, test_list):
        assert videos.kind == "UCF101"
        assert len(videos.classes) == len(set(videos.labels)) == 101
        assert videos.classes[34:36] == ["Hammering", "HammerThrow"]
        assert videos.classes[46:48] == ["JumpingJack", "JumpRope"]
        folders = [path.split("/")[0] for path in videos.paths]
        assert folders == [videos.classes[label] for label in videos.labels]


@real
@pytest.mark.parametrize("split", [1, 2, 3])
def test_real_hmdb51(split):
    folder = ANNOTATIONS / "hmdb51" / "testTrainMulti_7030_splits"
    train = read_list(folder, part="train", split=split)
    test = read_list(folder, part="test", split=split)
    assert (len(train), len(test)) == (3570, 1530)
    assert set(Counter(train.labels).values()) == {70}
    assert set(Counter(test.labels).values()) == {30}
    everything = (ANNOTATIONS / "hmdb51" / "hmdb_videos_list.txt").read_text().split("\n")
    for videos in (train, test):
        assert videos.kind == "HMDB51"
        assert len(videos.classes) == 51
        assert {path.removesuffix(".avi") for path in videos.paths} <= set(everything)
    assert sum(bool(re.search(r"[!#&()+;@\[\]~]", path)) for path in train.paths) > 100
    names = (ANNOTATIONS / "hmdb51" / "tsn_class_list.txt").read_text().split()
    assert sorted(names) == train.classes
    # kick and kick_ball change places in TSN's list.
    with pytest.raises(UserError, match="in another order"):
        read_list(folder, classes=names)


@real
def test_real_aras():
    videos = read_list(ANNOTATIONS / "aras" / "aras_test_balance.txt", part="test")
    assert (len(videos), len(set(videos.labels))) == (1038, 104)
    assert sorted(Counter(videos.labels).values()) == [8] + [10] * 103
    assert len(videos.classes) == 400
    assert videos.classes[:2] == ["abseiling", "air drumming"]
    for path, label in zip(videos.paths, videos.labels, strict=True):
        assert path.split("/")[1].replace("_", " ") == videos.classes[label]


@real
def test_real_raw_frames(tmp_path):
    file = ANNOTATIONS / "kinetics" / "paddlevideo_lists" / "val_small_frames.list"
    absent = read_list(file)
    assert len(absent) == 200
    for path in absent.paths:
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
    videos = read_list(file, root=tmp_path)
    assert (videos.paths, videos.labels) == (absent.paths, absent.labels)
    assert all(videos.full(i).is_dir() for i in range(200))


@real
@pytest.mark.parametrize(
    "name, count, classes",
    [
        ("kinetics/paddlevideo_lists/train_small_videos.list", 32256, 2),
        ("finegym/gym99_val_element.txt", 8521, 99),
        # Paths with spaces and commas: "n01440764 tench, Tinca tinca 0".
        ("places365/categories_hybrid1365.txt", 1365, 1365),
    ],
)
def test_real_plain_lists(name, count, classes):
    videos = read_list(ANNOTATIONS / name)
    assert (videos.kind, len(videos), len(videos.classes)) == ("plain", count, classes)


@pytest.mark.skipif(not (SHARED / "real").is_dir(), reason="no real videos here")
@pytest.mark.parametrize(
    "name, count, classes", [("ucf9/test02.txt", 315, 9), ("jhmdb/train.txt", 671, 21)]
)
def test_real_footage_is_where_the_lists_say(name, count, classes):
    videos = read_list(SHARED / "real" / name)
    assert (videos.kind, len(videos), len(videos.classes)) == ("plain", count, classes)
    assert all(videos.full(i).is_file() for i in range(count))
    folders = [Path(path).parent.name for path in videos.paths]
    assert folders == [videos.classes[label] for label in videos.labels]
