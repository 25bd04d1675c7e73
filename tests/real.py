"""Makes what the tables of real footage need: python tests/real.py FOLDER

FOLDER/jhmdb and FOLDER/ucf9 have videos and the plain lists train.txt, test.txt (J-HMDB, whole) and
train01.txt, test01.txt (nine classes of UCF101, its first official split); J-HMDB has the actors'
masks too, masks/CLASS/NAME.npz, key mask, (T, H, W) bool.

In data/real are then
    jhmdb/, ucf9/           links to what FOLDER's have
    humans.jsonl            boxes around the masks of J-HMDB, as `sdn.py humans` finds them
    scenes/, scenes-jhmdb/  pseudo scene labels of the videos of UCF101 and of J-HMDB: clusters of
                            the colours of a video's middle frame, as no classifier was at hand
    photos/, textures/      backgrounds for `albar.py scuba`: frames of UCF101's training videos,
                            and drawn pictures of coloured cells
"""

import json
import sys
from pathlib import Path

import numpy as np
from toy import ROOT, box_around, draw_texture, numbered, publish, workplace, write_labels_folder

SCENES = 24
PICTURES = 300  # backgrounds of each kind
GRID = 6  # cells of a frame's side, of which the mean colours are taken


def listed(file):
    """The paths of a plain list."""
    return [line.rsplit(" ", 1)[0] for line in file.read_text().splitlines()]


def boxes_of(jhmdb, path):
    """The line of humans.jsonl of a video."""
    relative = Path(path).relative_to("videos").with_suffix(".npz")
    frames = []
    boxes = []
    for t, mask in enumerate(np.load(jhmdb / "masks" / relative)["mask"]):
        if mask.any():
            frames.append(t)
            boxes.append([int(side) for side in box_around(mask)])
    scores = [1.0] * len(boxes)
    return {"path": path, "every": 1, "frames": frames, "boxes": boxes, "scores": scores}


def colours_of(video):
    """(GRID * GRID * 3,) mean colours of the cells of a video's middle frame"""
    from common import num_frames, read_clip

    frame = read_clip(video, [num_frames(video) // 2])[0].numpy()  # (H, W, 3)
    cells = []
    for rows in np.array_split(frame, GRID):
        for cell in np.array_split(rows, GRID, axis=1):
            cells.append(cell.mean((0, 1)))
    return np.concatenate(cells)


def write_pictures(ucf9, part):
    """photos/ and textures/"""
    from common import num_frames, read_clip, write_picture

    rng = np.random.default_rng(0)
    for name in ("photos", "textures"):
        (part / name).mkdir()
    paths = listed(ucf9 / "train01.txt")
    for number, i in enumerate(rng.permutation(len(paths))[:PICTURES]):
        video = ucf9 / paths[i]
        frame = read_clip(video, [num_frames(video) // 2])[0]
        write_picture(part / f"photos/{number:03}.png", frame.numpy())
    for number in range(PICTURES):
        picture = draw_texture(rng).clip(0, 255).astype(np.uint8)
        write_picture(part / f"textures/{number:03}.png", picture)


def write_scenes(folder, names, out):
    """A labels folder of the videos of the lists `names` in a folder."""
    paths = []
    for name in names:
        paths += listed(folder / name)
    colours = np.stack([colours_of(folder / path) for path in paths])
    made = {"made": "clusters of colours", "grid": GRID}
    write_labels_folder(out, paths, numbered("scene", SCENES), cluster(colours, SCENES), made)


def squared_distances(x, centres):
    """(n, D), (M, D) -> (n, M)"""
    return np.stack([((x - centre) ** 2).sum(1) for centre in centres], 1)


def cluster(x, k, seed=0, steps=50):
    """k-means: x (n, D) -> (n, k) soft labels, which fall with the squared distance from a centre
    over the mean one from the nearest"""
    centres = x[np.random.default_rng(seed).choice(len(x), k, replace=False)]
    for _ in range(steps):
        nearest = squared_distances(x, centres).argmin(1)
        for i in np.unique(nearest):
            centres[i] = x[nearest == i].mean(0)
    squares = squared_distances(x, centres)
    squares = squares - squares.min(1, keepdims=True)
    likelihood = np.exp(-squares / squared_distances(x, centres).min(1).mean())
    return likelihood / likelihood.sum(1, keepdims=True)


def make(folder, out):
    """Make `out` of the two data sets in `folder`, unless it is there."""
    if out.exists():
        return
    with workplace(out) as part:
        for name in ("jhmdb", "ucf9"):
            (part / name).mkdir()
            for path in sorted((folder / name).iterdir()):
                (part / name / path.name).symlink_to(path.resolve())
        jhmdb = part / "jhmdb"
        with (part / "humans.jsonl").open("w") as file:
            file.write(json.dumps({"made": "boxes around J-HMDB's masks"}) + "\n")
            for path in listed(jhmdb / "train.txt") + listed(jhmdb / "test.txt"):
                file.write(json.dumps(boxes_of(jhmdb, path)) + "\n")
        ucf9 = part / "ucf9"
        write_scenes(ucf9, ("train01.txt", "test01.txt"), part / "scenes")
        write_scenes(jhmdb, ("train.txt", "test.txt"), part / "scenes-jhmdb")
        write_pictures(ucf9, part)
        publish(part, out)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "jhmdb/masks").is_dir():
        raise SystemExit(f"{__doc__}\nerror: name the folder of jhmdb and ucf9")
    make(Path(sys.argv[1]), ROOT / "data/real")
