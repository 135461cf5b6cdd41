"""Tasks as files: those shipped, the errors, the prepared files, and the published figures."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_prepare import rows, script

from irr.documents import read_gold
from irr.errors import ConfigurationError, InputError
from irr.evaluate.tasks import (
    Task,
    hub_rows,
    published_rows,
    read_task,
    shipped_tasks,
    task_files,
)
from irr.labels import LabelSet
from irr.metrics import parse_metrics
from irr.prompts import read_prompts

ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data"
NAMES = ["biodex", "house", "icd10cm", "icd10cm-notes", "tech", "techwolf", "trove"]

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the raw data sets are not here")


def changed(folder: Path, old: str, new: str, *, of: str = "house") -> Path:
    """A copy of a shipped task with some text replaced."""
    text = shipped_tasks()[of].read_text(encoding="utf-8")
    assert old in text
    path = folder / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def raw_esco(folder: Path, **sets: str) -> Path:
    folder.mkdir()
    (folder / "skills_en_label.txt").write_text("use SQL\nJava\n", encoding="utf-8")
    (folder / "esco_priors.json").write_text('{"Java": 0.5}', encoding="utf-8")
    for name, text in sets.items():
        (folder / f"{name}_annotations.csv").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def task() -> Task:
    return read_task("house")


def test_shipped_tasks() -> None:
    assert list(shipped_tasks()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_task_parses(name: str) -> None:
    task = read_task(name)
    assert task.name == name
    assert parse_metrics(",".join(task.metrics))
    assert read_prompts(task.prompts).name == task.prompts
    command = task.prepare.split()
    assert command[0] == "python" and (ROOT / command[1]).is_file()
    assert command[-2:] == ["--output", "{output}"]
    assert read_task(shipped_tasks()[name]) == task


def test_a_set_has_the_prompts_of_its_domain() -> None:
    prompts = {name: read_task(name).prompts for name in NAMES}
    assert {name for name, used in prompts.items() if used == "esco"} == {
        "house",
        "tech",
        "techwolf",
    }
    assert prompts["biodex"] == "biodex"


def test_test_splits_are_scored_on_request_only() -> None:
    assert {name: read_task(name).split for name in NAMES} == {
        "biodex": "validation",
        "house": "validation",
        "icd10cm": "terms",
        "icd10cm-notes": "notes",
        "tech": "validation",
        "techwolf": "test",
        "trove": "installed",
    }


@pytest.mark.parametrize("name", ["biodex", "house", "tech", "techwolf"])
def test_published_figures_have_sources(name: str) -> None:
    task = read_task(name)
    systems = [figure.system for figure in task.published]
    assert len(systems) == len(set(systems)) >= 4
    for figure in task.published:
        assert figure.source and figure.split in task.splits
        assert figure.scores.keys() <= {"RP@5", "RP@10"}
    assert "IReRa, paper" in systems and "IReRa, shipped results" in systems


@pytest.mark.parametrize(
    ("name", "paper", "shipped"),
    [
        ("house", (56.50, 65.76), (55.57, 61.71)),
        ("tech", (59.61, 70.23), (63.13, 71.98)),
        ("techwolf", (57.04, 65.17), (58.69, 65.69)),
        ("biodex", (24.73, 27.67), (25.63, 27.87)),
    ],
)
def test_figures_of_the_method(
    name: str, paper: tuple[float, float], shipped: tuple[float, float]
) -> None:
    figures = {figure.system: figure.scores for figure in read_task(name).published}
    assert figures["IReRa, paper"] == {"RP@5": paper[0], "RP@10": paper[1]}
    assert figures["IReRa, shipped results"] == {"RP@5": shipped[0], "RP@10": shipped[1]}


def test_published_rows(task: Task) -> None:
    table = published_rows(task)
    assert len(table) == len(task.published)
    assert table[1] == [
        "fine-tuned retriever (138k pairs) (fine-tuned)",
        *("45.7", "56.0", "-"),
        "test",
        "Decorte et al. 2023, arXiv 2307.10778",
    ]
    assert published_rows(task, ["RP@10"])[0][:3] == [
        "naive retrieval (all-mpnet-base-v2)",
        "36.8",
        "test",
    ]
    assert published_rows(read_task("trove")) == []


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="no task named 'techwulf': did you mean 'techw"):
        read_task("techwulf")
    with pytest.raises(ConfigurationError, match="give one of biodex, house"):
        read_task("zzz")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("licence =", "license =", r"unknown key 'license'; did you mean 'licence'\?"),
        ("fine_tuned =", "finetuned =", r"'published.finetuned'; did you mean 'published.fine_"),
        ("licence =", "# ", "missing key 'licence'"),
        ('source = "D', '# "', "missing key 'published.source'"),
        ('prompts = "esco"', 'prompts = "esko"', "'prompts' is 'esko': did you mean 'esco'"),
        ('split = "validation"', 'split = "dev"', "'split' is 'dev', which .splits. does not"),
        ('{output}"', 'DIR"', "'prepare' must name the folder"),
        ('["RP@5", "RP@10", "RP@50"]', "[]", "'metrics' names no metric"),
        ('["RP@5", "RP@10", "RP@50"]', '"RP@5"', "'metrics' must be a list of texts"),
        ("fine_tuned = false", 'fine_tuned = "no"', "must be true or false"),
        ("36.8", "368", "must be percentages"),
        ('folder = "esco"', "folder = 7", "'folder' must be a text"),
        ("[splits]", "[splits", "not valid TOML"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(InputError, match=message) as caught:
        read_task(path)
    assert caught.value.path == str(path)


def test_missing_data_names_the_file_and_the_command(task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "my data" / "esco"
    with pytest.raises(InputError) as caught:
        task_files(task, tmp_path / "my data")
    assert str(caught.value) == (
        f"{folder / 'labels.jsonl'}: no such file: the task house is not prepared; in a clone of "
        f"irr run: python eval/prepare_esco.py --source RAW_DIR --output '{folder}' "
        "(or say with --data or IRR_DATA where its files are)"
    )
    folder.mkdir(parents=True)
    (folder / "labels.jsonl").touch()
    with pytest.raises(InputError, match=r"house_validation\.jsonl: no such file"):
        task_files(task, tmp_path / "my data")


def test_an_unknown_split(task: Task, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no split 'dev': give validation, test"):
        task_files(task, tmp_path, split="dev")


def test_where_data_is_looked_for(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IRR_DATA", raising=False)
    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError) as caught:
        task_files(task)
    assert caught.value.path == str(tmp_path / "cache" / "data" / "esco" / "labels.jsonl")
    monkeypatch.setenv("IRR_DATA", str(tmp_path / "data"))
    with pytest.raises(InputError) as caught:
        task_files(task)
    assert caught.value.path == str(tmp_path / "data" / "esco" / "labels.jsonl")


def test_a_task_from_made_up_raw_files(tmp_path: Path) -> None:
    raw = raw_esco(
        tmp_path / "raw",
        house_validation="sentence,span,sub_span,label\nKnows SQL,SQL,,use SQL\n",
        techwolf_test='sentence,label\n"SQL, Java",use SQL\n"SQL, Java",Java\n',
    )
    folder = tmp_path / "data" / "esco"
    assert script("prepare_esco").main(["--source", str(raw), "--output", str(folder)]) == 0
    house = task_files(read_task("house"), tmp_path / "data")
    assert house == {
        "labels": folder / "labels.jsonl",
        "input": folder / "house_validation.jsonl",
        "priors": folder / "priors.json",
    }
    techwolf = task_files(read_task("techwolf"), folder)
    assert techwolf["train"] == house["input"]
    (document,) = read_gold(techwolf["input"])
    assert (document.text, document.gold) == ("SQL, Java", ("use SQL", "Java"))
    (folder / "priors.json").unlink()
    assert task_files(read_task("house"), folder).keys() == {"labels", "input"}


@needs_data
@pytest.mark.parametrize(("name", "documents"), [("house", 61), ("tech", 75)])
def test_validation_sets(name: str, documents: int, tmp_path: Path) -> None:
    arguments = ["--source", str(SHARED / "esco"), "--output", str(tmp_path / "esco")]
    assert script("prepare_esco").main(arguments) == 0
    files = task_files(read_task(name), tmp_path)
    assert len(list(read_gold(files["input"]))) == documents
    assert len(LabelSet.read(files["labels"])) == 13_896


def test_the_icd10cm_tasks(tmp_path: Path) -> None:
    pytest.importorskip("simple_icd_10_cm", reason="the codes come from this package")
    folder = tmp_path / "icd10cm"
    assert script("prepare_icd10cm").main(["--output", str(folder), "--notes", "3"]) == 0
    assert len(rows(task_files(read_task("icd10cm"), tmp_path)["input"])) == 10_641
    assert len(rows(task_files(read_task("icd10cm-notes"), tmp_path)["input"])) == 3


class Hub(types.ModuleType):
    """Stands in for the package ``datasets``."""

    def __init__(self, tables: dict[tuple[str, str], list[dict[str, object]]]) -> None:
        super().__init__("datasets")
        self.tables = tables

    def load_dataset(
        self, name: str, config: str | None = None, *, split: str
    ) -> Iterator[dict[str, object]]:
        if (name, split) not in self.tables:
            raise ConnectionError("no route to the hub\nand more")
        return iter(self.tables[name, split])


def test_hub_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", Hub({("a/b", "test"): [{"x": 1}]}))
    assert list(hub_rows("a/b", "test")) == [{"x": 1}]
    with pytest.raises(InputError, match=r"a/b:train: cannot be downloaded \(no route to the hub"):
        list(hub_rows("a/b", "train"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigurationError, match="pip install datasets; or give a local folder"):
        list(hub_rows("a/b", "test"))


def test_esco_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    esco = script("prepare_esco")
    tables = {
        (f"TechWolf/skill-extraction-{name}", split): [
            {"sentence": f"{name} {split}", "span": "x", "label": label}
            for label in ("use SQL", "LABEL NOT PRESENT", "use SQL")
        ]
        for name, splits in esco.HUB_SETS.items()
        for split in splits
    }
    tables[esco.HUB_LABELS[:2]] = [
        {"_id": "uri", "title": " use SQL"},
        {"_id": "2", "title": "Ada"},
    ]
    monkeypatch.setitem(sys.modules, "datasets", Hub(tables))
    folder = tmp_path / "esco"
    folder.mkdir()
    (folder / "priors.json").write_text("{}", encoding="utf-8")
    assert esco.main(["--output", str(folder)]) == 0
    files = task_files(read_task("techwolf"), tmp_path)
    assert [row["id"] for row in rows(files["labels"])] == ["use SQL", "Ada"]
    assert [row["labels"] for row in rows(files["input"])] == [["use SQL"]]
    assert "priors" not in files
    assert task_files(read_task("house"), tmp_path, split="test")["input"].is_file()
    assert "priors.json: none" in capsys.readouterr().err
