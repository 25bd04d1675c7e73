"""tests/real.py, on made-up masks, colours and lists of the same form as the real ones."""

import json

import numpy as np
import real

from common import Boxes, num_frames, open_labels, read_list, write_picture, write_video


def test_what_is_made_of_two_data_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(real, "SCENES", 2)
    monkeypatch.setattr(real, "PICTURES", 7)
    rng = np.random.default_rng(0)
    jhmdb = tmp_path / "jhmdb"
    (jhmdb / "masks/run").mkdir(parents=True)
    mask = np.zeros((3, 20, 30), bool)
    mask[0, 4:9, 10:25] = True
    mask[2, 0, 0] = True
    (jhmdb / "videos/run").mkdir(parents=True)
    for name, part in (("a", "train"), ("b", "train"), ("c", "test")):
        np.savez(jhmdb / f"masks/run/{name}.npz", mask=mask)
        frames = rng.integers(0, 255, (3, 20, 30, 3), dtype=np.uint8)
        write_video(jhmdb / f"videos/run/{name}.mp4", frames, 10)
        with (jhmdb / f"{part}.txt").open("a") as file:
            file.write(f"videos/run/{name}.mp4 0\n")
    ucf9 = tmp_path / "ucf9"
    ucf9.mkdir()
    # Two colours, which the clusters tell apart.
    for i in range(40):
        colour = np.array([200, 30, 30] if i % 2 else [30, 30, 200])
        picture = (colour + rng.normal(0, 9, (24, 36, 3))).clip(0, 255)
        write_picture(ucf9 / f"{i}.png", picture.astype(np.uint8))
    for name, places in (("train01", range(30)), ("test01", range(30, 40))):
        (ucf9 / f"{name}.txt").write_text("".join(f"{i}.png 0\n" for i in places))

    real.make(tmp_path, tmp_path / "out")
    out = tmp_path / "out"
    boxes = Boxes([out / "humans.jsonl"])
    frames = boxes("videos/run/a.mp4", np.arange(3))
    assert [frame.tolist() for frame in frames] == [[[10, 4, 25, 9]], [], [[0, 0, 1, 1]]]
    assert len(read_list(out / "ucf9/train01.txt")) == 30
    labels = open_labels(out / "scenes")
    assert labels.paths == [f"{i}.png" for i in range(40)]
    rows = np.asarray(labels.labels, np.float32)
    assert rows.shape == (40, 2) and np.allclose(rows.sum(1), 1, atol=1e-2)
    first, second = (set(rows[i::2].argmax(1)) for i in range(2))
    assert not first & second
    for name in ("photos", "textures"):
        assert num_frames(out / name) == 7
    (out / "jhmdb/new.txt").touch()
    assert not (jhmdb / "new.txt").exists()  # nothing is written into FOLDER
    assert json.loads((out / "scenes/made.json").read_text())["made"] == "clusters of colours"
