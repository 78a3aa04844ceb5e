from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vla_rl.results import plots
from vla_rl.results.evaluation import EvalResult, TaskResult
from vla_rl.results.page import PageContent, summary_page
from vla_rl.results.plots import learning_curve, smooth
from vla_rl.results.video import Clip, before_after_video


def result(rates: dict[str, float], protocol: str = "custom:toys") -> EvalResult:
    """Twenty starts for each task, the first ones solved."""
    return EvalResult(
        protocol_id=protocol,
        suite="toys",
        horizon=50,
        settings={},
        renderer="egl",
        tasks={
            task: TaskResult(tuple(range(20)), tuple(i < 20 * rate for i in range(20)), (30,) * 20)
            for task, rate in rates.items()
        },
        buckets={"easy": ("push",), "hard": ("throw",)},
    )


BEFORE, AFTER = result({"push": 0.5, "throw": 0.1}), result({"push": 0.9, "throw": 0.4})


def curve_rows(tasks: list[str], count: int = 30) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"step": 10, "sft/loss": 0.5}]
    for i in range(count):
        row = {"train/env_steps": 1000 * (i + 1), "train/success": i / count, "time/total": 10.0}
        row |= {f"train/success/{t}": i / count for j, t in enumerate(tasks) if (i + j) % 3}
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    ("rows", "before", "after"),
    [
        (curve_rows(["push", "throw"]), BEFORE, AFTER),
        (curve_rows([f"task {i}" for i in range(20)]), None, None),
        (curve_rows(["push"], count=1), BEFORE, None),
        ([], BEFORE, AFTER),
        ([{"train/env_steps": 5, "train/success": None}], None, None),
    ],
)
def test_the_learning_curve_is_a_picture_that_is_not_blank(
    rows: list[dict[str, Any]], before: EvalResult | None, after: EvalResult | None, tmp_path: Path
) -> None:
    learning_curve(rows, before, after, tmp_path / "curve.png")
    picture = Image.open(tmp_path / "curve.png")
    assert picture.size == (1350, 660)
    assert np.asarray(picture.convert("L")).std() > 5


@pytest.mark.parametrize(("tasks", "marked"), [(["push"], 1), (["push", "throw"], 3), (20, 1)])
def test_evaluations_during_training_are_open_marks(
    tasks: list[str] | int, marked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"task {i}" for i in range(tasks)] if isinstance(tasks, int) else tasks
    rows = curve_rows(names, count=10)
    for row in (rows[4], rows[8]):
        row |= {"validation/success": 0.5} | {f"validation/success/{name}": 0.25 for name in names}
    figures: list[Any] = []
    monkeypatch.setattr(plots, "FigureCanvasAgg", figures.append)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_: None)
    learning_curve(rows, None, None, tmp_path / "curve.png")
    before, middle, _ = figures[0].axes
    assert middle.get_position().width > 4 * before.get_position().width  # marks take no room
    marks = [line for line in middle.get_lines() if line.get_marker() == "D"]
    drawn = [line.get_xydata().tolist() for line in marks if len(line.get_xdata())]
    assert len(drawn) == marked
    of_tasks = [[[4000, 0.25], [8000, 0.25]]] * (len(names) if len(names) < 20 else 0)
    of_mean = [[[4000, 0.5], [8000, 0.5]]] * (len(names) > 1)
    assert drawn == of_tasks + of_mean
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend.count("validation starts") == 1


def test_smoothing_by_hand() -> None:
    np.testing.assert_array_equal(smooth(np.array([0.0, 1.0, 0.0])), [0, 1, 0])  # too short
    values = np.zeros(20)
    values[10] = 3.0  # the window is three values wide
    expected = np.zeros(20)
    expected[9:12] = 1.0
    np.testing.assert_allclose(smooth(values), expected)
    np.testing.assert_allclose(smooth(np.ones(20)), 1)


def clip(length: int, success: bool, shade: int = 0) -> Clip:
    return Clip([np.full((64, 64, 3), shade, np.uint8) for _ in range(length)], success)


def read_video(path: Path) -> NDArray[np.uint8]:
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader])


def test_a_video_holds_ended_clips_in_the_colour_of_their_outcome(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    before_after_video([clip(5, False)], [clip(20, True)], ["push"], path, fps=10)
    frames = read_video(path)
    assert len(frames) == 20 + 10
    height = frames.shape[1]
    border_before, border_after = (height // 4, 9), (3 * height // 4, 9)
    orange, green, grey = (213, 94, 0), (0, 158, 115), (200, 204, 210)
    for t, (row, column), colour in [
        (0, border_before, grey),
        (10, border_before, orange),
        (10, border_after, grey),
        (25, border_after, green),
    ]:
        np.testing.assert_allclose(frames[t, row, column], colour, atol=40)
    assert path.stat().st_size < 50_000
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]


def test_more_than_five_tasks_start_new_rows(tmp_path: Path) -> None:
    sizes = []
    for count in (5, 6):
        clips = [clip(1, True)] * count
        names = [f"a task with a very long name number {i}" for i in range(count)]
        before_after_video(clips, clips, names, tmp_path / "video.mp4", fps=2)
        sizes.append(read_video(tmp_path / "video.mp4").shape)
    assert sizes[0][2] == sizes[1][2]
    assert sizes[1][1] == 2 * sizes[0][1] - 8  # one margin is shared


def test_a_video_needs_matching_clips_with_frames(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 1, 2 and 1 labels"):
        before_after_video([clip(1, True)], [clip(1, True)] * 2, ["push"], tmp_path / "v.mp4")
    with pytest.raises(ValueError, match="at least one frame"):
        before_after_video([clip(0, True)], [clip(1, True)], ["push"], tmp_path / "v.mp4")


def summary(before: EvalResult, after: EvalResult) -> PageContent:
    return PageContent(
        title="demo <1>",
        facts={"policy": "tiny & quick"},
        before=before,
        after=after,
        seconds={"clone": 30.0, "improve": 90.0},
        files={"policy/": "the improved policy"},
        commands={"Evaluate again": "vla-rl eval --policy runs/demo/policy"},
    )


class Reader(HTMLParser):
    """Collects the text and where embedded things come from."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.sources: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(value) for name, value in attrs if name in ("src", "href")]


def test_the_page_tells_the_whole_story_and_needs_no_other_file(tmp_path: Path) -> None:
    learning_curve(curve_rows(["push"]), BEFORE, AFTER, tmp_path / "curve.png")
    before_after_video([clip(2, False)], [clip(2, True)], ["push"], tmp_path / "video.mp4")
    summary_page(
        summary(BEFORE, AFTER),
        tmp_path / "summary.html",
        plot=tmp_path / "curve.png",
        video=tmp_path / "video.mp4",
    )
    reader = Reader()
    reader.feed((tmp_path / "summary.html").read_text())
    text = " ".join("".join(reader.words).split())
    for expected in (
        "demo <1>",
        "30 % → 65 %",  # means of 50 and 10, of 90 and 40
        "+35 points",
        "push50 % 30–7090 % 70–97+40 points",
        "easy",
        "20 starts for each task",
        "custom:toys",
        "tiny & quick",
        "clone 30 s 25 %",
        "policy/the improved policy",
        "vla-rl eval --policy runs/demo/policy",
    ):
        assert expected in text
    assert [source[:15] for source in reader.sources] == ["data:image/png;", "data:video/mp4;"]


def test_the_page_refuses_results_that_cannot_be_compared(tmp_path: Path) -> None:
    other = result({"push": 0.9, "throw": 0.4}, protocol="official:toys")
    with pytest.raises(ValueError, match="different protocols"):
        summary_page(summary(BEFORE, other), tmp_path / "summary.html")
    assert not (tmp_path / "summary.html").exists()
