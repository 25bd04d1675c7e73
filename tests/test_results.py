"""tests/results.py: its tables name rows and metrics that exist, its verdicts are those of the
statistics, and it runs what is missing, once."""

import json
import re
import shlex
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SCRIPTS, presets

import albar
import common
import evaluate
import results
from results import ROWS, TABLES, Row, Table

BACKGROUNDS = {
    f"{kind}_{name}"
    for kind in ("scuba", "scufo", "contrasted")
    for name in ("photo", "texture", "sinusoid", "leak")
}


@pytest.mark.parametrize("name", ROWS)
def test_the_flags_of_a_row_are_those_of_its_script(name, monkeypatch):
    monkeypatch.setattr(common, "draw_toy", lambda paths: None)
    row = ROWS[name]
    script, *words = shlex.split(row.train.replace("{", "").replace("}", ""))
    script = SCRIPTS[script.removesuffix(".py")]
    parser = common.make_parser(script.Args, presets(script), "x", "x")
    given = vars(parser.parse_intermixed_args(words))
    args = common.make_args(script.Args, presets(script), given)
    assert args.train.startswith("data/") and args.model.endswith("tiny")
    for dependency in re.findall(r"{(\w+)}", row.train):
        assert dependency in ROWS
    steps = {"": evaluate.Args, "cam": evaluate.CamArgs, "frozen": evaluate.FeaturesArgs}
    Args = steps[row.step]
    parser = common.make_parser(Args, {}, "x", "x")
    given = vars(parser.parse_intermixed_args(["run", *shlex.split(row.measure)]))
    common.make_args(Args, {}, given)
    flags = f"{row.train} {row.measure}".replace("toyN", f"toy{results.FIRST_WORLD}")
    for path in re.findall(r"data/[\w./-]+", flags):
        if path.startswith(f"data/toy{results.FIRST_WORLD}"):
            continue  # all that a world has is drawn with its weights
        assert any(path == made or path.startswith(f"{made}/") for made in results.MAKE), path


def test_tables_and_claims_name_what_is_measured():
    known = set(results.metrics_by_key()) | BACKGROUNDS | {"inside", "area"}
    numbers = []
    for name, table in TABLES.items():
        assert set(table.all_rows()) <= set(ROWS), name
        assert set(table.metrics.split()) <= set(results.metrics_by_key()), name
        assert any(table.paper_figures().values()) == bool(table.paper), name
        for claim in table.read_claims():
            assert claim.text and claim.tests
            numbers.append(claim.number)
            for test in claim.tests:
                assert re.fullmatch(r".+ ([<>~]) .+", test), test
                assert {metric for _, metric in results.terms(test)} <= known, test
    assert len(set(numbers)) == len(numbers)
    # Two names of one configuration would be trained once all the same, and read as two.
    configurations = [(row.train, row.measure, row.step) for row in ROWS.values()]
    assert len(set(configurations)) == len(configurations)
    used = {row for table in TABLES.values() for row in table.all_rows()}
    for row in ROWS.values():
        used |= set(re.findall(r"{(\w+)}", row.train))  # another starts from it
    assert used == set(ROWS)


def test_the_swept_weights_are_shares_of_those_of_albar():
    assert results.W_ADV == albar.TOY["w_adv"]
    assert f"--w-ent {albar.Args.w_ent / 2:g}" in ROWS["w_ent_half"].train
    assert f"--w-gp {albar.Args.w_gp * 4:g}" in ROWS["w_gp_four"].train
    assert f"--w-adv {albar.Args.w_adv:g}" in ROWS["w_paper"].train


def test_lines_of_claims_are_spelt_out():
    table = Table(
        "T",
        "a 1 / 2\n b",
        "iid",
        claims="""
        C1 the first
            rare: a > b > c_d
            trend iid: a > b
            a.iid - b.iid < 3
        C2b another
            d.iid ~ a.iid +- 2
            because it is so
        """,
    )
    assert table.paper_figures() == {"a": "1 / 2", "b": ""}
    first, second = table.read_claims()
    assert (first.number, first.text, second.number) == ("C1", "the first", "C2b")
    assert first.tests == (
        "a.rare > b.rare",
        "b.rare > c_d.rare",
        "slope(a.iid, b.iid) < 0",
        "a.iid - b.iid < 3",
    )
    assert table.all_rows() == ["a", "b", "c_d", "d"]
    assert second.tests == ("d.iid ~ a.iid +- 2",) and second.why == "because it is so"


# ---- Verdicts ------------------------------------------------------------------------------------
@pytest.fixture
def made_up(monkeypatch):
    """made_up(row=[...], ...): the figure x of rows at seeds 0, 1, ..."""
    values = {}

    def figures(name, seed):
        if seed >= len(values[name]):
            return {}
        return {"x": values[name][seed]}

    monkeypatch.setattr(results, "figures", figures)
    return values.update


def test_a_difference_is_judged_by_its_interval(made_up):
    made_up(a=[5.0, 6.0, 7.0], b=[1.0, 2.5, 2.0], c=[5.2, 5.9, 6.8], short=[1.0])
    outcome = results.judge("a.x > b.x")
    differences = [4.0, 3.5, 5.0]
    half = 4.302653 * np.std(differences, ddof=1) / 3**0.5  # t of 2 degrees of freedom
    assert outcome.mean == pytest.approx(np.mean(differences))
    assert outcome.half == pytest.approx(half, rel=1e-5)
    assert outcome.verdict == "holds"
    # P(T > t) for 2 degrees of freedom is 1/2 - t / (2 sqrt(2 + t^2)).
    t = np.mean(differences) / (np.std(differences, ddof=1) / 3**0.5)
    assert outcome.chance == pytest.approx(0.5 - t / (2 * (2 + t * t) ** 0.5), rel=1e-4)
    verdicts = {
        "a.x < b.x": "does not hold",
        "b.x < a.x": "holds",
        "a.x > c.x": "within noise",
        "a.x - b.x > 1": "holds",
        "a.x > 20": "does not hold",
        "a.x ~ c.x +- 3": "holds",
        "a.x ~ b.x +- 1": "does not hold",
        "a.x ~ b.x +- 4": "within noise",
        "slope(b.x, c.x, a.x) > 0": "holds",
    }
    for test, verdict in verdicts.items():
        assert results.judge(test).verdict == verdict, test
    assert results.judge("a.x > short.x") is None
    assert results.judge("a.x < b.x").chance == pytest.approx(1 - outcome.chance)


def test_slope_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    levels = rng.normal(size=(4, 5))
    expected = [np.polyfit(range(4), levels[:, seed], 1)[0] for seed in range(5)]
    np.testing.assert_allclose(results.slope(*levels), expected)


def test_a_claim_holds_where_all_of_it_does(made_up):
    made_up(a=[5.0, 6.0, 7.0], b=[1.0, 2.0, 3.1], c=[5.2, 5.9, 6.8])
    tests = {
        verdict: test
        for test, verdict in [
            ("a.x > b.x", "holds"),
            ("a.x < b.x", "does not hold"),
            ("a.x > c.x", "within noise"),
        ]
    }
    for verdicts, expected in [
        (["holds"], "holds"),
        (["holds", "within noise"], "within noise"),
        (["within noise", "does not hold", "holds"], "does not hold"),
    ]:
        outcomes = [results.judge(tests[verdict]) for verdict in verdicts]
        assert results.verdict_of([outcome.verdict for outcome in outcomes]) == expected


def test_holms_correction():
    chances = {"a": 0.001, "b": 0.006, "c": 0.008, "d": 0.02, "e": 0.5}
    outcomes = [results.Outcome(test, 1, 0.5, "holds", p) for test, p in chances.items()]
    # 0.025 / 5, / 4, / 3, / 2: the last is 0.0125, and 0.02 is above it.
    assert results.holm(outcomes) == {"a", "b", "c"}
    assert results.holm([*outcomes, outcomes[0]]) == {"a", "b", "c"}  # in two claims
    assert results.holm(outcomes, others=1) == {"a"}  # 0.025 / 6, / 5


def test_claims_are_repeated_on_the_like_rows_where_these_exist(monkeypatch):
    rows = dict.fromkeys("ab", Row("", "albar.py")) | dict.fromkeys(["a_x", "b_x"], Row("", "x"))
    monkeypatch.setattr(results, "ROWS", rows)
    claims = "C1 one\n a.iid - a.rare > b.iid\n rare: b > a\nC2b two\n c.iid > a.iid"
    table = Table("", "", "", claims=results.repeated(claims, "x", "x"))
    (claim,) = table.read_claims()
    assert (claim.number, claim.text) == ("C1x", "one")
    assert claim.tests == ("a_x.iid - a_x.rare > b_x.iid", "b_x.rare > a_x.rare")


def test_parts_of_a_claim_are_counted_once_and_repeated_ones_apart():
    def claim(number, verdict):
        return {results.Claim(number, "", ()): [results.Outcome(number, 1, 0.5, verdict, 0.5)]}

    claims = claim("C1", "holds") | claim("C1b", "within noise") | claim("C2", "holds")
    claims |= claim("C1w", "does not hold") | claim("C2bl", "holds")
    lines = results.count_lines(results.claim_lines(claims, {"C1", "C2"}))
    assert lines[0] == "- 2 claims: 1 hold, 0 do not, 1 are within noise."
    worlds = "Tested again in five other worlds, 1 claims: 0 hold, 1 do not, 0 are within noise."
    assert lines[1].endswith(worlds)
    assert lines[2].endswith("at twice the length, 1 claims: 1 hold, 0 do not, 0 are within noise.")
    assert "5 comparisons: 3 hold, 1 do not" in lines[3] and " 2 hold after Holm" in lines[3]
    of_papers = results.paper_lines(results.claim_lines(claims | claim("C85", "holds"), set()))
    assert of_papers[2:6] == [
        "| SDN | 2 | 1 | 0 | 1 |",
        "| Hara et al. | 0 | 0 | 0 | 0 |",
        "| SMAD and OmniDebias | 0 | 0 | 0 | 0 |",
        "| ALBAR | 1 | 1 | 0 | 0 |",
    ]


def test_contents_link_to_the_headings():
    title = "Hara et al., Sec. 4.2: what, and (where)?"
    link = "#hara-et-al-sec-42-what-and-where"
    assert results.content_lines([title]) == [f"- [{title}]({link})"]


# ---- Running -------------------------------------------------------------------------------------
@pytest.fixture
def shell(monkeypatch, tmp_path):
    """A repository in tmp_path with two small tables; -> the commands that are run there."""
    rows = {
        "base": Row("base", "albar.py --baseline"),
        "on_base": Row("on base", "albar.py --weights {base}"),
        "base_other": Row("base", "albar.py --baseline", "--test data/other/test.txt"),
    }
    tables = {
        "one": Table(
            "One",
            "base  53.6\n on_base",
            "iid",
            seeds=2,
            paper="IID",
            claims="C1 more\n on_base.iid > base.iid\n iid: on_base > base",
        ),
        "two": Table("Two", "base\n base_other", "iid", seeds=2),
    }
    for name, value in dict(ROWS=rows, TABLES=tables, ROOT=tmp_path).items():
        monkeypatch.setattr(results, name, value)
    monkeypatch.setattr(results, "MAKE", {"data/toy0": "draw", "data/other": "sort data/toy0"})
    commands = []

    def run(self, command):
        commands.append(command)
        if command in ("draw", "sort data/toy0"):
            (tmp_path / {"draw": "data/toy0"}.get(command, "data/other")).mkdir(parents=True)
            return
        words = command.split()
        out = tmp_path / words[words.index("--out") + 1]
        out.mkdir(parents=True, exist_ok=True)
        if words[1] == "evaluate.py":
            figure = 50 + ("--test" not in words) * len(words[2]) / 10
            content = dict(row=dict(mean=dict(iid=figure)))
            (out / "evaluate.json").write_text(json.dumps(content))
        else:
            (out / "log.jsonl").write_text('{"device": "cpu"}\n')

    monkeypatch.setattr(results.Lab, "shell", run)
    return commands


def test_what_is_missing_is_run_once(shell, capsys):
    results.main(["one", "two", "--jobs", "2"])
    folder = results.ROWS["base"].folder(0)
    trained = [command for command in shell if command.startswith("python albar.py")]
    assert len(trained) == len(set(trained)) == 4  # base and on_base, twice
    assert f"python albar.py --baseline --seed 0 --out {folder} --overwrite" in trained
    assert any(f"--weights {folder}/last.pt --seed 0" in command for command in trained)
    measured = [command for command in shell if "evaluate.py" in command]
    assert len(measured) == 6
    assert shell.count("draw") == shell.count("sort data/toy0") == 1
    assert shell.index("draw") < shell.index("sort data/toy0")
    printed = capsys.readouterr().out
    assert "## One" in printed and "| on base | 2 |" in printed and "- 1 claims: 0 hold" in printed
    done = len(shell)
    results.main(["one", "two"])
    assert len(shell) == done
    results.main(["one", "--seeds", "3"])
    assert len(shell) == done + 4


def test_each_seed_has_a_world_of_its_own_where_the_row_says_so(shell, monkeypatch):
    row = Row("other", "albar.py --train data/toyN/train.txt")
    monkeypatch.setattr(results, "ROWS", {"other": row})
    monkeypatch.setattr(results, "TABLES", {"one": Table("One", "other", "iid", seeds=2)})
    results.main(["one"])
    for world, seed in ((3, 0), (4, 1)):
        command = f"albar.py --train data/toy{world}/train.txt --seed {seed} --out "
        assert sum(command in line for line in shell) == 1


def test_a_run_that_fails_is_named_and_the_others_go_on(shell, monkeypatch, capsys):
    works = results.Lab.shell

    def fail(self, command):
        if "--weights" in command:
            raise RuntimeError(f"{command}: error: no memory is left")
        works(self, command)

    monkeypatch.setattr(results.Lab, "shell", fail)
    with pytest.raises(SystemExit) as stopped:
        results.main(["one", "--write"])
    printed = capsys.readouterr()
    assert stopped.value.code == 1
    assert not (results.ROOT / "tests/RESULTS.md").exists()  # it may have all of the table
    assert printed.err.count("failed: on_base, seed") == 2 and "no memory is left" in printed.err
    assert "| base | 2 |" in printed.out and "| on base |" not in printed.out
    assert "Not run yet: on base." in printed.out


def test_a_command_that_fails_gives_its_last_line():
    with pytest.raises(RuntimeError, match="ls /nowhere: .*No such file"):
        results.Lab().shell("ls /nowhere")


def test_what_runs_is_ended_with_its_own_processes(tmp_path):
    lab = results.Lab()
    sleeps = f"echo begun > {tmp_path}/begun; sleep 99 & wait"
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(lab.shell, sleeps)
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        lab.stop()
        # It would wait for all that can still write to the command's stderr.
        with pytest.raises(RuntimeError):
            task.result(timeout=10)
    with pytest.raises(RuntimeError, match="stopped"):
        lab.shell("true")


@pytest.fixture
def written(tmp_path):
    """written() -> what RESULTS.md says; README has two marks."""
    (tmp_path / "tests").mkdir()
    before, after = results.MARKS
    (tmp_path / "README.md").write_text(f"a\n\n{before}\nold\n{after}\n\nb\n")
    return (tmp_path / "tests/RESULTS.md").read_text


def test_a_table_is_written_beside_those_that_were_run_elsewhere(shell, written, tmp_path):
    results.main(["one", "two", "--write"])
    both = written()
    shutil.rmtree(tmp_path / results.RUNS)
    results.main(["two", "--write"])
    assert written() == both  # the same figures
    results.main(["one", "--seeds", "3", "--write"])
    changed = written()
    assert changed.split("## Two")[1] == both.split("## Two")[1]
    assert "| on base | 3 |" in changed and "| on base | 3 |" not in both
    assert changed.count("- 1 claims: 0 hold") == 1
    assert "\nold\n" in (tmp_path / "README.md").read_text()  # has the main table alone


def test_what_was_not_run_here_is_as_it_was_written(shell, written, tmp_path):
    results.main(["one", "two", "--write"])
    assert list(results.sections_of(["one"])) == ["one", "two"]
    shutil.rmtree(tmp_path / results.RUNS)
    results.TABLES["two"] = replace(results.TABLES["two"], title="Renamed")
    assert results.sections_of(["one", "two"]) == results.written_sections()
    assert "| base | 2 |" in "\n".join(results.written_sections()["two"])


def test_holms_correction_counts_the_other_tables_too(shell, written, tmp_path, monkeypatch):
    results.main(["one", "two", "--write"])
    comparison = "|  | `{}` | +1.0 [+0.5, +1.5] | holds * |\n"
    older, shared, other = map(
        comparison.format, ("a.iid > b.iid", "on_base.iid > base.iid", "c.iid > d.iid")
    )
    one, two = written().split("## Two\n\n")
    file = tmp_path / "tests/RESULTS.md"
    file.write_text(f"{one}{older}\n## Two\n\n{shared}{other}{two}")
    counted = []

    def holm(outcomes, others):
        counted.append(({outcome.test for outcome in outcomes}, others))
        return {outcome.test for outcome in outcomes}

    monkeypatch.setattr(results, "holm", holm)
    results.main(["one", "--write"])
    assert counted == [({"on_base.iid > base.iid"}, 1)]
    assert "2 comparisons" in written() and " 2 hold after Holm" in written()


def test_readme_is_written_between_its_marks(shell, written, tmp_path):
    results.TABLES["main"] = results.TABLES.pop("one")
    results.main(["all", "--write"])
    before, after = results.MARKS
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(f"a\n\n{before}\n| ") and text.endswith(f"|\n{after}\n\nb\n")
    assert "old" not in text and "on base" in text
    assert written().startswith("# Results") and "## Two" in written()
    assert "within noise" in written()


def test_without_a_table_it_says_what_there_is(capsys):
    results.main([])
    printed = capsys.readouterr().out
    assert all(f"\n{name} " in printed for name in TABLES) and "runs to do" in printed
    with pytest.raises(SystemExit) as stopped:
        results.main(["--write"])
    assert stopped.value.code == 2 and "name the tables" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        results.main(["albar-99"])
    assert stopped.value.code == 2 and "no such table: albar-99" in capsys.readouterr().err
    assert Path(results.ROOT, "tests/results.py").exists()


def test_what_frozen_features_are_worth_is_put_together_of_all_targets(tmp_path, monkeypatch):
    row = Row("R", "albar.py", step="frozen")
    folder = tmp_path / row.folder(3)
    folder.mkdir(parents=True)
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "ROWS", {"r": row})
    monkeypatch.setattr(results.Lab, "make_needed", lambda self, command: None)

    def shell(self, command):
        percent = int(re.search(r"data/toy0/target(\d+)/", command).group(1))
        (folder / f"target{percent}/test").mkdir(parents=True)
        for step, mean in (
            ("svm", {"svm": percent + 0.5}),
            ("fewshot", {"shots1": percent + 0.25}),
        ):
            content = {"row": {"mean": mean}}
            file = folder / f"target{percent}/test/{folder.name}-{step}.json"
            file.write_text(json.dumps(content))

    monkeypatch.setattr(results.Lab, "shell", shell)
    results.Lab().measure_frozen(row, 3)
    expected = {f"svm_{percent}": percent + 0.5 for percent in results.TARGETS}
    expected |= {f"shots1_{percent}": percent + 0.25 for percent in results.TARGETS}
    assert results.figures("r", 3) == expected


def test_rows_of_several_endings_stand_side_by_side(shell):
    for ending in ("to_0", "to_60"):
        results.ROWS[f"base_{ending}"] = Row("base", f"albar.py --baseline --root {ending}")
    results.TABLES["one"] = Table("One", "base", "iid", seeds=2, endings="to_0 to_60")
    assert results.TABLES["one"].all_rows() == ["base_to_0", "base_to_60"]
    results.main(["one"])
    heading, _, row = results.table_lines("one")
    assert heading == "|  | seeds | no scenes, IID ↑ | 60 % scenes, IID ↑ |"
    assert row.startswith("| base | 2 | ") and row.count("±") == 2


def test_unrest_of_the_watched_lists(tmp_path):
    """Of the mean over the lists, in the second half: 30, 50, 20 have changes of 20 and 30."""
    lines = [{"step": 1, "val/contrasted": 0.9}]
    for first, second in ((0.0, 0.9), (0.9, 0.0), (0.2, 0.4), (0.5, 0.5), (0.1, 0.3)):
        lines.append({"watch/a/contrasted": first, "watch/b/contrasted": second})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert results.unrest(tmp_path / "log.jsonl") == pytest.approx(25)
