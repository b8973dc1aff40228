"""The progress file: round trip, two notebooks at once, damage, no room."""

import json

import pytest

from saekit.lesson.progress import EMPTY, Progress


def test_round_trip(tmp_path):
    first = Progress("03", tmp_path)
    assert first.of("3.1") == EMPTY
    first.put("3.1", attempts=2, passed=True, guesses=["a"])
    assert Progress("03", tmp_path).of("3.1") == EMPTY | {"attempts": 2, "passed": True, "guesses": ["a"]}
    assert Progress("00", tmp_path).of("3.1") == EMPTY
    assert first.told() == []


def test_records_are_not_shared():
    progress = Progress("03", "/proc/nowhere")
    progress.of("3.1")["guesses"].append("a")
    assert progress.of("3.2")["guesses"] == [] == EMPTY["guesses"]


def test_two_notebooks_write_one_file(tmp_path):
    first, second = Progress("00", tmp_path), Progress("03", tmp_path)
    first.put("0.1", passed=True)
    second.put("3.1", passed=True)
    first.put("0.2", passed=True)
    stored = json.loads((tmp_path / "progress.json").read_text())
    assert {notebook: sorted(records) for notebook, records in stored.items()} == {"00": ["0.1", "0.2"], "03": ["3.1"]}


def test_the_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SAEKIT_HOME", str(tmp_path / "home"))
    Progress("03").put("3.1", hints=1)
    assert (tmp_path / "home" / "progress.json").exists()


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "[]",
        '{"03": 3}',
        '{"03": {"3.1": 3}}',
        '{"03": {"3.1": {"attempts": "two"}}}',
        "\x00\x01",
        '{"03": {"3.1": ',
    ],
)
def test_a_damaged_file_is_moved_aside(damaged, tmp_path):
    (tmp_path / "progress.json").write_text(damaged)
    progress = Progress("03", tmp_path)
    ((title, body),) = progress.told()
    assert "starts afresh" in title and "progress.damaged-1.json" in body
    assert (tmp_path / "progress.damaged-1.json").read_text() == damaged
    progress.put("3.1", passed=True)
    assert Progress("03", tmp_path).of("3.1")["passed"]
    assert progress.told() == []


def test_bytes_that_are_no_text_are_moved_aside_too_and_nothing_is_overwritten(tmp_path):
    for number in (1, 2):
        (tmp_path / "progress.json").write_bytes(b"\xff\xfe\xfa")
        Progress("03", tmp_path)
        assert (tmp_path / f"progress.damaged-{number}.json").exists()


def test_damage_while_running_keeps_nothing_but_goes_on(tmp_path):
    progress = Progress("03", tmp_path)
    progress.put("3.1", passed=True)
    (tmp_path / "progress.json").write_text("{")
    progress.put("3.2", passed=True)
    assert progress.of("3.2")["passed"] and len(progress.told()) == 1


def test_without_a_folder_it_works_in_memory_and_says_so_once(tmp_path):
    (tmp_path / "file").touch()
    progress = Progress("03", tmp_path / "file" / "home")
    progress.put("3.1", passed=True)
    progress.put("3.2", hints=2)
    assert progress.of("3.1")["passed"] and progress.of("3.2")["hints"] == 2
    ((title, body),) = progress.told()
    assert "this session only" in title and "SAEKIT_HOME" in body
    assert progress.told() == []


def test_a_disk_that_fills_up_loses_nothing_of_this_session(tmp_path, monkeypatch):
    progress = Progress("03", tmp_path)
    progress.put("3.1", passed=True)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saekit.lesson.progress.replacing", full)
    progress.put("3.2", passed=True)
    assert progress.of("3.1")["passed"] and progress.of("3.2")["passed"]
    assert "No space left" in progress.told()[0][1]
