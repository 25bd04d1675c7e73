"""What several test files need: a small embedded benchmark, drawn once a session, and short runs on it."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")     # before torch: for networks this small more threads only wait

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))                                    # `pytest` alone finds it as `python -m pytest` does

import albar  # noqa: E402
import common  # noqa: E402


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The embedded benchmark with 1 clip in 20: 80 to train on, 20 of val. Do not write in it."""
    return common.toy(0, tmp_path_factory.mktemp("data"), share=0.05)


@pytest.fixture
def flags(world, tmp_path):
    """Fields of Args for a short ALBAR run, 10 steps an epoch, in tmp_path/run."""
    small = dict(train=str(world / "train.txt"), val=str(world / "val.txt"), weights="none", epochs=2, batch_size=8)
    return albar.TOY | small | dict(w_gp=1.0, frames=4, size=16, resize=18, log_every=1, out=str(tmp_path / "run"))


def argv(flags):
    """The command line of fields of Args."""
    words = []
    for name, value in flags.items():
        flag = "--" + ("" if value is not False else "no-") + name.replace("_", "-")
        values = value if isinstance(value, tuple) else () if isinstance(value, bool) else (value,)
        words += [flag, *map(str, values)]
    return words


def fails(capsys, words, out=None):
    """Run albar.py's command line here, which must end with exit code 2 and one line on stderr. -> that line"""
    with pytest.raises(SystemExit) as stopped:
        common.cli(albar.Args, albar.train, albar.TOY, albar.SHORT, words)
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(error) == 1 and error[0].startswith("error: "), error
    assert not out or not list(Path(out).glob("*.part"))                                      # nothing half-written
    return error[0]


def python(*words, cwd=None, **env):
    """A Python process that does not find this repository by PYTHONPATH."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {k: str(v) for k, v in env.items()}
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=cwd or ROOT, env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


@contextlib.contextmanager
def ended(process, timeout=120):
    """`with ended(process) as (stdout, stderr)`: wait for it; it does not outlive the test."""
    try:
        yield process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def load(path):
    return torch.load(path, weights_only=True)


def log_lines(out):
    """The records of a run's log. JSON proper: NaN and Infinity, which json would read, are errors here."""
    def refuse(word):
        raise ValueError(f"{word} is not JSON")
    return [json.loads(line, parse_constant=refuse) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


def same(a, b, equal=torch.equal):
    """Two checkpoints' values: nested containers whose tensors are equal."""
    if torch.is_tensor(a):
        return a.shape == b.shape and a.dtype == b.dtype and equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k], equal) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y, equal) for x, y in zip(a, b, strict=True))
    return a == b
